import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { NodeId } from '../../src/session/node-id.js';
import {
  allowing,
  denying,
  EMPTY_BOOK,
  findByNodeId,
  isPeerName,
  nameOf,
  newEntry,
  type PeerEntry,
  type PeersBook,
  recordDecision,
  withAddresses,
  withTicket,
} from '../../src/tunnel/peers-book.js';
import { editPeersBook, formatPeersBook, parsePeersBook } from '../../src/tunnel/peers-toml.js';

const id = (digits: string) => digits.repeat(64).slice(0, 64) as NodeId;
const ALICE = id('a');
const TOKEN = 'A'.repeat(22);
const until = Date.UTC(2030, 0, 1);

const full: PeerEntry = {
  nodeId: ALICE,
  addresses: ['192.0.2.7:41234', '[2001:db8::1]:5'],
  relays: ['https://relay.example.org/'],
  webtransport: [{ address: '192.0.2.7:4433', certificateHash: 'c'.repeat(64) }],
  token: TOKEN,
  allow: new Map([
    ['db', undefined],
    ['dns/udp', until],
  ]),
  deny: new Set(['web']),
};

describe('the text of a peers book', () => {
  it('has everything, and is the same book when it is read', () => {
    const book: PeersBook = new Map([
      ['alice', full],
      ['c.d', newEntry(id('b'))],
    ]);
    expect(parsePeersBook(formatPeersBook(book))).toEqual(book);
    expect(parsePeersBook('')).toEqual(EMPTY_BOOK);
    expect(parsePeersBook('# nothing\n\n[peers]\n')).toEqual(EMPTY_BOOK);
  });

  it.each<[string, string, RegExp]>([
    ['no TOML', '[peers.alice\nid = 1', /line 1/],
    ['another table', '[peer.alice]', /'peer'/],
    ['peers that is no table', 'peers = 1', /peers/],
    ['a peer that is no table', '[peers]\nalice = 1', /peers\.alice/],
    ['no id', '[peers.alice]', /'id'/],
    ['a short id', '[peers.alice]\nid = "ab"', /'id'/],
    ['an id in capitals', `[peers.alice]\nid = "${'A'.repeat(64)}"`, /'id'/],
    ['an unknown key', `[peers.alice]\nid = "${ALICE}"\ndney = ["*"]`, /'dney'/],
    ['a name that is a node ID', `[peers.${ALICE}]\nid = "${ALICE}"`, /name/],
    ['a name with a space', `[peers."a b"]\nid = "${ALICE}"`, /name/],
    ['two names for one node', `[peers.a]\nid = "${ALICE}"\n[peers.b]\nid = "${ALICE}"`, /'a' and 'b'/],
    ['one name twice', `[peers.a]\nid = "${ALICE}"\n[peers.a]\nid = "${id('b')}"`, /TOML/],
    ['rights that are no list', `[peers.a]\nid = "${ALICE}"\nallow = "db"`, /'allow'/],
    ['a right that is none', `[peers.a]\nid = "${ALICE}"\nallow = ["db", "a b"]`, /'allow' whose item 2/],
    ['a right that is a number', `[peers.a]\nid = "${ALICE}"\ndeny = [1]`, /'deny'/],
    ['an address without a port', `[peers.a]\nid = "${ALICE}"\naddresses = ["192.0.2.7"]`, /'addresses'/],
    ['a relay that is no URL', `[peers.a]\nid = "${ALICE}"\nrelays = ["x"]`, /'relays'/],
    ['a token that is cut', `[peers.a]\nid = "${ALICE}"\ntoken = "AAAA"`, /'token'/],
    [
      'a time for what is not allowed',
      `[peers.a]\nid = "${ALICE}"\nuntil = { db = 2030-01-01T00:00:00Z }`,
      /db/,
    ],
    [
      'a time without a zone',
      `[peers.a]\nid = "${ALICE}"\nallow = ["db"]\nuntil = { db = 2030-01-01T00:00:00 }`,
      /zone/,
    ],
    ['a time that is text', `[peers.a]\nid = "${ALICE}"\nallow = ["db"]\nuntil = { db = "soon" }`, /zone/],
  ])('with %s is refused, and says where', (_what, text, words) => {
    expect(() => parsePeersBook(text)).toThrow(words);
  });

  it('never quotes a token in what it says', () => {
    for (const text of [
      `[peers.a]\ntoken = "${TOKEN}`,
      `token = ${TOKEN}`,
      `[peers.a]\ntoken = "${TOKEN}x"`,
    ]) {
      expect(() => parsePeersBook(text)).toThrow();
      try {
        parsePeersBook(text);
      } catch (error) {
        expect(String((error as Error).message)).not.toContain(TOKEN);
      }
    }
  });

  it('cannot change what objects are', () => {
    expect(() => parsePeersBook('[peers.__proto__]\nid = "x"')).toThrow();
    expect(({} as { id?: string }).id).toBeUndefined();
  });

  it.each([
    [
      'with tables in a row',
      `# top\n[peers.a] # one\nid = "${ALICE}" # key\n\n# two\n[peers.b]\nid = "${id('b')}"\n# end\n`,
    ],
    ['without a blank line', `[peers.a]\nid = "${ALICE}"\n[peers.b]\nid = "${id('b')}"`],
    [
      'with a table in a table',
      `[peers.a]\nid = "${ALICE}"\nallow = ["x"]\n[peers.a.until]\nx = 2030-01-01T00:00:00Z\n[peers.b]\nid = "${id('b')}"`,
    ],
    ['with quotes', `[ peers . "a" ]\nid = '${ALICE}'\n[peers.'b']\nid = "${id('b')}"`],
    ['inline', `[peers]\na = { id = "${ALICE}" }\nb = { id = "${id('b')}" }`],
    ['with Windows line ends', `[peers.a]\r\nid = "${ALICE}"\r\n[peers.b]\r\nid = "${id('b')}"\r\n`],
  ])('%s can be changed, and reads as it should', (_style, text) => {
    const before = parsePeersBook(text);
    const entry = allowing(before.get('b') as PeerEntry, ['db'], undefined);
    for (const after of [
      new Map(before).set('b', entry),
      new Map([...before].filter(([name]) => name !== 'a')),
      new Map(before).set('c', full),
      new Map([...before].map(([name, one]) => [name === 'a' ? 'z' : name, one] as const)),
      EMPTY_BOOK,
    ]) {
      const fresh = new Map(
        [...after].map(([name, one]) => [name, one === full ? { ...full, nodeId: id('c') } : one]),
      );
      const edited = editPeersBook(text, before, fresh);
      expect(parsePeersBook(edited)).toEqual(fresh);
    }
  });

  it('keeps comments and the tables of others', () => {
    const text = `# top\n[peers.a] # one\nid = "${ALICE}" # key\n\n# two\n[peers.b]\nid = "${id('b')}"\n`;
    const before = parsePeersBook(text);
    const edited = editPeersBook(
      text,
      before,
      new Map(before).set('b', allowing(before.get('b') as PeerEntry, ['db'], undefined)),
    );
    expect(edited).toBe(`${text}allow = ["db"]\n`);
  });

  it('of any book is that book', () => {
    const word = fc.stringMatching(/^[a-z][a-z0-9._-]{0,10}$/);
    const entry = fc.record({
      nodeId: fc.stringMatching(/^[0-9a-f]{64}$/).map((text) => text as NodeId),
      addresses: fc.uniqueArray(
        fc.integer({ min: 1, max: 65535 }).map((port) => `127.0.0.1:${port}`),
        { maxLength: 3 },
      ),
      relays: fc.constant<readonly string[]>([]),
      webtransport: fc.constant([]),
      token: fc.option(fc.constant(TOKEN), { nil: undefined }),
      allow: fc
        .uniqueArray(fc.tuple(word, fc.option(fc.integer({ min: 0, max: 4e12 }), { nil: undefined })), {
          selector: ([name]) => name,
          maxLength: 4,
        })
        .map((pairs) => new Map(pairs)),
      deny: fc.uniqueArray(word, { maxLength: 3 }).map((names) => new Set(names)),
    });
    const books = fc
      .uniqueArray(fc.tuple(word, entry), { selector: ([name]) => name, maxLength: 5 })
      .filter((pairs) => new Set(pairs.map(([, { nodeId }]) => nodeId)).size === pairs.length)
      .map((pairs) => new Map(pairs));
    fc.assert(
      fc.property(books, books, (one, other) => {
        const text = formatPeersBook(one);
        expect(parsePeersBook(text)).toEqual(one);
        const edited = editPeersBook(text, one, other);
        expect(parsePeersBook(edited)).toEqual(other);
      }),
    );
  });
});

describe('an entry', () => {
  const entry = newEntry(ALICE);

  it('takes from a ticket what it says, and keeps the rest', () => {
    const ticket = { nodeId: ALICE, direct: ['192.0.2.9:1'], relays: [], token: undefined };
    expect(withTicket(full, ticket)).toEqual({ ...full, addresses: ['192.0.2.9:1', ...full.addresses] });
    expect(withTicket(entry, { ...ticket, token: TOKEN }).token).toBe(TOKEN);
  });

  it('keeps a bounded number of addresses, the newest first', () => {
    const direct = Array.from({ length: 100 }, (_, index) => `192.0.2.1:${index + 1}`);
    const { addresses } = withAddresses(full, { direct, relays: [] });
    expect(addresses).toHaveLength(16);
    expect(addresses[0]).toBe('192.0.2.1:1');
  });

  it.each<[string, PeerEntry, string[], string[]]>([
    ['allow db', allowing(entry, ['db'], undefined), ['db'], []],
    ['allow db, deny db', denying(allowing(entry, ['db'], undefined), ['db']), [], ['db']],
    ['deny db, allow db', allowing(denying(entry, ['db']), ['db'], undefined), ['db'], []],
    ['deny all, allow db', allowing(denying(entry, ['*']), ['db'], undefined), ['db'], []],
    ['allow db and web, deny all', denying(allowing(entry, ['db', 'web'], undefined), ['*']), [], ['*']],
    ['allow db, allow all', allowing(allowing(entry, ['db'], undefined), ['*'], undefined), ['*'], []],
    ['allow all, deny db', denying(allowing(entry, ['*'], undefined), ['db']), ['*'], ['db']],
    [
      'allow dns/udp, deny dns',
      denying(allowing(entry, ['dns/udp', 'dnsx'], undefined), ['dns']),
      ['dnsx'],
      ['dns'],
    ],
    ['deny dns/udp, allow dns', allowing(denying(entry, ['dns/udp']), ['dns'], undefined), ['dns'], []],
  ])('%s', (_what, { allow, deny }, allowed, denied) => {
    expect([...allow.keys()]).toEqual(allowed);
    expect([...deny]).toEqual(denied);
  });

  it('of a node that nobody named gets a name of its own', () => {
    const one = recordDecision(EMPTY_BOOK, ALICE, { allowed: true, services: ['db'] });
    expect([...one.keys()]).toEqual(['peer-aaaaaaaa']);
    const twin = `${'a'.repeat(9)}${'b'.repeat(55)}` as NodeId;
    const two = recordDecision(one, twin, { allowed: false, services: ['*'] });
    expect(nameOf(two, twin)).toBe('peer-aaaaaaaaa');
    expect(findByNodeId(two, ALICE)?.[0]).toBe('peer-aaaaaaaa');
    const named = recordDecision(two, ALICE, { allowed: true, services: ['web'], name: 'ignored' });
    expect(named.get('peer-aaaaaaaa')?.allow).toEqual(
      new Map([
        ['db', undefined],
        ['web', undefined],
      ]),
    );
  });
});

it.each([
  ['alice', true],
  ['a', true],
  ['alice-2.home_x', true],
  ['', false],
  ['-', false],
  ['-x', false],
  ['a b', false],
  ['a/b', false],
  ['tunnel://x', false],
  [ALICE, false],
  ['abcdef0123456789'.repeat(2), false],
  ['x'.repeat(64), true],
  ['x'.repeat(65), false],
  ['älice', false],
])('%j is a name: %s', (text, is) => {
  expect(isPeerName(text)).toBe(is);
});
