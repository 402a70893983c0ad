/** The config file of `tunnel up`: what it may say, and what is said of what it may not. */
import { chmodSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { resolvePaths } from '../../src/cli/paths.js';
import { changesOf, commonDifferences } from '../../src/cli/up/changes.js';
import type { Given } from '../../src/cli/up/common.js';
import { parseConfig, type UpConfig } from '../../src/cli/up/config.js';
import { findConfig, readConfig } from '../../src/cli/up/config-file.js';
import { TunnelError } from '../../src/error.js';
import { Identity } from '../../src/session/identity.js';
import { formatTicket } from '../../src/session/ticket.js';
import { newEntry } from '../../src/tunnel/peers-book.js';

const ALICE = Identity.generate().nodeId;
const BOB = Identity.generate().nodeId;
const TOKEN = 'A'.repeat(22);
const TICKET = formatTicket({ nodeId: ALICE, direct: ['192.0.2.7:4433'], relays: [], token: TOKEN });

const book = new Map([
  ['alice', newEntry(ALICE)],
  ['bob', newEntry(BOB)],
]);

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'up-config-'));
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

interface ParseOptions {
  readonly given?: Given;
  readonly isPrivate?: boolean;
  readonly running?: UpConfig['common'];
}

function parse(
  text: string,
  { given = {}, isPrivate = true, running }: ParseOptions = {},
): Promise<UpConfig> {
  const paths = resolvePaths({ TUNNEL_HOME: folder });
  const path = join(folder, 'tunnel.toml');
  return parseConfig({ path, text, isPrivate }, { given, book, paths, running });
}

async function refused(work: Promise<unknown>): Promise<TunnelError> {
  const error = await work.then(
    () => undefined,
    (cause: unknown) => cause,
  );
  expect(error).toBeInstanceOf(TunnelError);
  expect(error).toMatchObject({ code: 'BAD_CONFIG' });
  return error as TunnelError;
}

describe('a config file', () => {
  it('says what to run in the words of the flags', async () => {
    const { common, expose, forwards } = await parse(
      `
identity = "work"
relay = "https://relay.example.org"
lan = false
resume-timeout = "1h"

[expose]
services = ["db=5432", 8080, "dns=udp:53"]
allow = ["alice"]
allow-speed = "all"
ask = true
ask-timeout = 90
ticket-ttl = "24h"
limit-rate = ["10MB/s", "db=500kB/s", "peer:bob=2Mbit"]

[[forward]]
peer = "alice"
listen = ["15432:db", "5353:dns/udp"]
udp-idle = "30s"

[[forward]]
peer = "${BOB}"
listen = "0:web"
reconnect-timeout = "10m"
resume-timeout = "5s"
via = "iroh"
`.replace('listen = 0', 'listen = "0:web"'),
    );
    expect(common).toMatchObject({
      identity: 'work',
      shareStats: true,
      network: {
        relay: ['https://relay.example.org'],
        'no-relay': false,
        lan: false,
        dns: true,
        via: 'auto',
      },
    });
    expect(expose).toMatchObject({
      services: [{ name: 'db' }, { name: '8080' }, { name: 'dns', target: { protocol: 'udp', port: 53 } }],
      allow: [ALICE],
      allowSpeed: 'all',
      public: false,
      ask: true,
      approvalTimeoutMs: 90_000,
      terms: { once: false, pair: false, ttlMs: 86_400_000 },
      resumeTimeoutMs: 3_600_000,
      rates: [{ scope: 'all' }, { scope: 'service', name: 'db' }, { scope: 'peer', name: BOB }],
      network: { lan: false },
    });
    expect(forwards).toMatchObject([
      {
        peer: { nodeId: ALICE },
        specs: [{ service: 'db' }, { service: 'dns', protocol: 'udp' }],
        udpIdleMs: 30_000,
        reconnectTimeoutMs: undefined,
        resumeTimeoutMs: 3_600_000,
        network: { via: 'auto', lan: false },
      },
      { peer: { nodeId: BOB }, reconnectTimeoutMs: 600_000, resumeTimeoutMs: 5000, network: { via: 'iroh' } },
    ]);
  });

  it('is outdone by the command line, a relay by none and the other way round', async () => {
    const text = 'identity = "work"\nrelay = "https://one.example"\n[expose]\nservices = "1"\n';
    const none = await parse(text, { given: { identity: 'other', 'no-relay': true, bind: '127.0.0.1' } });
    expect(none.common).toMatchObject({
      identity: 'other',
      network: { relay: undefined, 'no-relay': true, bind: '127.0.0.1' },
    });
    const other = await parse('no-relay = true\n[expose]\nservices = "1"\n', {
      given: { relay: ['https://two.example'] },
    });
    expect(other.common.network).toMatchObject({ relay: ['https://two.example'], 'no-relay': false });
  });

  it('has its parts go by what runs already, and says what differs from that', async () => {
    const running = (await parse('lan = false\n[expose]\nservices = "1"\n')).common;
    const next = await parse('identity = "b"\n[expose]\nservices = "1"\n', { running });
    expect(next.expose?.network.lan).toBe(false);
    expect(commonDifferences(running, next.common)).toEqual(['identity', 'lan']);
  });

  it('may hold a ticket where nobody else can read it', async () => {
    const text = `[[forward]]\npeer = "${TICKET}"\nlisten = "1"\n`;
    expect((await parse(text)).forwards[0]?.peer).toMatchObject({ nodeId: ALICE, token: TOKEN });
    const error = await refused(parse(text, { isPrivate: false }));
    expect(error.message).toContain(":2: 'peer' in [[forward]] is a ticket");
    expect(error.hint).toContain('chmod 600');
    expect(`${error.message}${error.hint}`).not.toContain(TOKEN);
  });

  it('names a file with a ticket beside it, which only its owner may read', async () => {
    const file = join(folder, 'alice.ticket');
    writeFileSync(file, `${TICKET}\n`, { mode: 0o600 });
    const text = '[[forward]]\nticket-file = "alice.ticket"\nlisten = "1"\n';
    expect((await parse(text, { isPrivate: false })).forwards[0]?.peer.token).toBe(TOKEN);
    chmodSync(file, 0o640);
    expect((await refused(parse(text))).message).toContain('can be read by others; run: chmod 600');
    rmSync(file);
    expect((await refused(parse(text))).message).toMatch(/'ticket-file' in \[\[forward\]\]: .*ENOENT/);
  });
});

const EXPOSE = '[expose]\nservices = "db=5432"\n';
const FORWARD = '[[forward]]\npeer = "alice"\nlisten = "15432:db"\n';

/** What is wrong, in which line and with which word, and what is right there. */
const BAD: readonly (readonly [text: string, line: number | undefined, said: RegExp, hint: RegExp])[] = [
  ['', undefined, /neither \[expose\] nor \[\[forward\]\]/, /\[expose\]/],
  ['identity = default\n', 1, /is no TOML/, /texts are in quotes/],
  [`bindd = "127.0.0.1"\n${EXPOSE}`, 1, /'bindd' is not known/, /bind = "192\.0\.2\.7"/],
  [`no_relay = true\n${EXPOSE}`, 1, /'no_relay' is not known/, /no-relay = true/],
  [`\nno-lan = true\n${EXPOSE}`, 2, /'no-lan' is not known/, /lan = false/],
  [`no-lan = true\n${EXPOSE}`, 1, /'no-lan'/, /lan = false/],
  [`colour = "red"\n${EXPOSE}`, 1, /'colour' is not known/, /known are: identity, relay/],
  [`lan = "no"\n${EXPOSE}`, 1, /'lan' is neither true nor false/, /lan = false/],
  [`identity = "../x"\n${EXPOSE}`, 1, /'\.\.\/x' is no name for an identity/, /identity = "work"/],
  [`relay = "relay.example"\n${EXPOSE}`, 1, /'relay\.example' is no relay URL/, /relay = \["https:/],
  [
    `relay = "https://a.example"\nno-relay = true\n${EXPOSE}`,
    2,
    /'no-relay' is true, and 'relay'/,
    /no-relay/,
  ],
  [
    `via = "carrier-pigeon"\n${EXPOSE}`,
    1,
    /'carrier-pigeon'; it can be auto, iroh, webtransport/,
    /via = "auto"/,
  ],
  [`bind = "256.0.0.1"\n${EXPOSE}`, 1, /'256\.0\.0\.1' is no address/, /bind = /],
  [`bind = "127.0.0.1:4433"\n${EXPOSE}${FORWARD}`, 1, /is one UDP port/, /in \[expose\] alone/],
  [`resume-timeout = "soon"\n${EXPOSE}`, 1, /'soon' is no time for resume-timeout/, /"15m"/],
  ['expose = 1\n', undefined, /'expose' that is no table/, /\[expose\]/],
  ['[expose]\nallow = "alice"\n', undefined, /'services' in \[expose\] is missing/, /services = \["db=5432"/],
  ['[expose]\nservices = []\n', 2, /'services' in \[expose\] is empty/, /services = /],
  ['[expose]\nservices = ["db=5432", "x=0"]\n', 2, /target 'x=0' has port 0/, /services = /],
  [
    '[expose]\nservices = [\n  "db=5432",\n  "web=70000",\n]\n',
    4,
    /'web=70000' has port 70000/,
    /services = /,
  ],
  ['[expose]\nservices = [true]\n', 2, /has a true where a text belongs/, /services = /],
  ['[expose]\nservices = ["db=1", "db=2"]\n', 2, /'db=1' and 'db=2' are both named 'db'/, /services = /],
  [`${EXPOSE}allow = ["carol"]\n`, 3, /'carol' is no ticket, no node ID, and no name/, /peers add carol/],
  [`${EXPOSE}ask = true\npublic = true\n`, 3, /'ask' in \[expose\] is true, and so is 'public'/, /ask/],
  [`${EXPOSE}ticket = false\nonce = true\n`, 4, /'once' in \[expose\] is about the ticket/, /once/],
  [`${EXPOSE}ticket-ttl = "5x"\n`, 3, /'5x' is no time for ticket-ttl/, /ticket-ttl = "24h"/],
  [`${EXPOSE}limit-rate = "web=1MB/s"\n`, 3, /limit-rate 'web=1MB\/s' names no service/, /limit-rate = /],
  [`${EXPOSE}webtransport = "4433"\n`, 3, /'4433' is no address to listen on/, /webtransport = /],
  [`${EXPOSE}listen = "1"\n`, 3, /'listen' in \[expose\] is not known/, /known are: services/],
  ['[forward]\npeer = "alice"\nlisten = "1"\n', undefined, /no list of tables/, /\[\[forward\]\]/],
  ['[[forward]]\nlisten = "1"\n', undefined, /'peer' in \[\[forward\]\] is missing/, /peer = "alice"/],
  [`${FORWARD}ticket-file = "x"\n`, 2, /and 'ticket-file' as well/, /one of them/],
  [
    '[[forward]]\npeer = "alice"\n',
    undefined,
    /'listen' in \[\[forward\]\] is missing/,
    /listen = \["15432:db"/,
  ],
  ['[[forward]]\npeer = "alice"\nlisten = "1/sctp"\n', 3, /spec '1\/sctp' ends in '\/sctp'/, /listen = /],
  [
    '[[forward]]\npeer = "alice"\nlisten = ["1:a", "1:b"]\n',
    3,
    /'1:a' and '1:b' both listen on/,
    /listen = /,
  ],
  [`${FORWARD}udp-idle = "0"\n`, 4, /'0' is no time for udp-idle/, /udp-idle = "2m"/],
  [`${FORWARD}via = "webtransport"\n`, 4, /nothing is known of a WebTransport address/, /ticket/],
  [`${FORWARD}\n${FORWARD}`, 6, /\[\[forward\]\] 2 is the node of \[\[forward\]\] 1 too/, /listen = /],
  [
    `${FORWARD}[[forward]]\npeer = "bob"\nlisten = "0.0.0.0:15432:db"\n`,
    6,
    /'0\.0\.0\.0:15432:db', and 127\.0\.0\.1:15432 is where \[\[forward\]\] 1 listens/,
    /listen = /,
  ],
];

describe('what is wrong with a config file is told by line, key and word, with an example', () => {
  it.each(BAD)('%j', async (text, line, said, hint) => {
    const error = await refused(parse(text));
    expect(error.message).toMatch(said);
    expect(error.message).toContain(`${join(folder, 'tunnel.toml')}${line === undefined ? '' : `:${line}`}`);
    if (line === undefined) expect(error.message).not.toMatch(/tunnel\.toml:\d/);
    expect(error.hint).toMatch(hint);
    expect(error.message).not.toMatch(/[\n]|--/);
  });

  it('lets ports be alike that do not meet: of other protocols, other addresses, and any free one', async () => {
    const { forwards } = await parse(
      `[[forward]]\npeer = "alice"\nlisten = ["53:dns", "127.0.0.2:1:a", "0:b"]\n[[forward]]\npeer = "bob"\nlisten = ["53:dns/udp", "1:a", "0:b"]\n`,
    );
    expect(forwards).toHaveLength(2);
  });
});

describe('the place of a config file', () => {
  const paths = () => resolvePaths({ TUNNEL_HOME: folder });

  it('is the one that is named, and its absence is told', async () => {
    const path = join(folder, 'no.toml');
    expect((await refused(readConfig(findConfig(path, paths())))).message).toContain(
      `${path} does not exist`,
    );
  });

  it('is looked for in two places, and both are named where there is none', () => {
    const { config } = paths();
    expect(() => findConfig(undefined, paths())).toThrow(join(config, 'tunnel.toml'));
  });

  it('is refused where others can write it, or when it is no file; a link is followed', async () => {
    const path = join(folder, 'tunnel.toml');
    writeFileSync(path, EXPOSE, { mode: 0o644 });
    expect(await readConfig({ path, isNamed: true })).toMatchObject({ text: EXPOSE, isPrivate: false });
    const link = join(folder, 'link.toml');
    symlinkSync(path, link);
    chmodSync(path, 0o600);
    expect(await readConfig({ path: link, isNamed: true })).toMatchObject({ isPrivate: true });
    chmodSync(path, 0o664);
    const error = await refused(readConfig({ path, isNamed: true }));
    expect(error.message).toContain('can be written by others (mode 0664)');
    expect((await refused(readConfig({ path: folder, isNamed: true }))).message).toContain('is not a file');
  });
});

describe('what a reload changes', () => {
  it('is told by service and listener, and settings by key', async () => {
    const before = await parse(`${EXPOSE}[[forward]]\npeer = "alice"\nlisten = ["1:a", "2:b"]\n`);
    const after = await parse(
      '[expose]\nservices = ["db=5433", "web=80"]\nallow = "bob"\n[[forward]]\npeer = "alice"\nlisten = ["1:a", "3:b/udp"]\nudp-idle = "1m"\n',
    );
    expect(changesOf(before, after, (id) => (id === ALICE ? 'alice' : id))).toEqual({
      added: ['expose web', 'forward 127.0.0.1:3:b/udp @ alice'],
      removed: ['forward 127.0.0.1:2:b @ alice'],
      changed: ['expose db', 'expose allow', 'forward @ alice'],
    });
    expect(changesOf(before, before, String)).toEqual({ added: [], removed: [], changed: [] });
  });
});
