import { describe, expect, it } from 'vitest';
import { Identity } from '../../src/session/identity.js';
import { paired } from '../../src/tunnel/pairing.js';
import { EMPTY_BOOK, newEntry, type PeersBook } from '../../src/tunnel/peers-book.js';

const peer = Identity.generate().nodeId;

describe('a peer that a ticket paired', () => {
  it('gets a name of its node ID, and what the ticket opens', () => {
    const book = paired(EMPTY_BOOK, peer, new Set(['db', 'dns/udp']));
    expect([...book.keys()]).toEqual([`peer-${peer.slice(0, 8)}`]);
    expect(book.get(`peer-${peer.slice(0, 8)}`)?.allow).toEqual(
      new Map([
        ['db', undefined],
        ['dns/udp', undefined],
      ]),
    );
    expect(EMPTY_BOOK.size).toBe(0);
  });

  it('gets a longer name where that one is another peer’s', () => {
    const taken: PeersBook = new Map([[`peer-${peer.slice(0, 8)}`, newEntry(Identity.generate().nodeId)]]);
    expect([...paired(taken, peer, 'all').keys()]).toEqual([
      `peer-${peer.slice(0, 8)}`,
      `peer-${peer.slice(0, 9)}`,
    ]);
  });

  it('keeps its name, what it had, and what it was denied', () => {
    const entry = {
      ...newEntry(peer),
      allow: new Map([
        ['web', 1000],
        ['db', 1000],
      ]),
      deny: new Set(['ssh']),
    };
    const book = paired(new Map([['alice', entry]]), peer, new Set(['db']));
    expect([...book]).toEqual([
      [
        'alice',
        {
          ...entry,
          allow: new Map([
            ['web', 1000],
            ['db', undefined],
          ]),
        },
      ],
    ]);
    expect(paired(book, peer, 'all').get('alice')).toMatchObject({ deny: new Set(['ssh']) });
    expect(paired(book, peer, 'all').get('alice')?.allow.has('*')).toBe(true);
  });
});
