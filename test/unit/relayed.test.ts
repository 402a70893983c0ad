/** A session that stays on a relay: what is said of it, when, and why. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { PeerSession } from '../../src/session/handshake.js';
import type { SessionPath } from '../../src/session/session.js';
import type { TunnelEvent } from '../../src/tunnel/events.js';
import {
  decodeFacts,
  factsMethods,
  type NetworkFacts,
  watchRelayed,
  whyRelayed,
} from '../../src/tunnel/relayed.js';

describe('the reason', () => {
  it.each<[string, NetworkFacts, NetworkFacts, string]>([
    ['no-udp', { udp: false }, {}, 'this network'],
    ['no-udp', { udp: true }, { udp: false }, "the peer's network"],
    ['no-udp', { udp: false }, { udp: false, symmetricNat: true }, 'either network'],
    ['no-address', { udp: true }, { addresses: 0 }, 'the peer'],
    ['no-address', { addresses: 0 }, { addresses: 3 }, 'this side'],
    ['no-common-family', { ipv4: false, ipv6: true }, { ipv4: true, ipv6: false }, 'this side has IPv6 only'],
    ['unknown', { ipv4: false, ipv6: true }, { ipv4: true, ipv6: true }, 'neither side knows'],
    ['unknown', { ipv4: false, ipv6: true }, { ipv4: true }, 'neither side knows'],
    ['symmetric-nat', { symmetricNat: true }, { symmetricNat: true }, 'both sides are'],
    ['symmetric-nat', { symmetricNat: true }, { symmetricNat: false }, 'this side is'],
    ['symmetric-nat', {}, { symmetricNat: true, addresses: 2 }, 'the peer is'],
    ['unknown', { udp: true, symmetricNat: false, addresses: 2 }, {}, 'neither side knows'],
    ['unknown', {}, {}, 'neither side knows'],
  ])('is %s for %j here and %j there', (reason, here, there, words) => {
    const why = whyRelayed(here, there);
    expect(why.reason).toBe(reason);
    expect(why.message).toContain(words);
    expect(why.hint).not.toBe('');
  });

  it('takes nothing from a peer but facts', () => {
    const sent = { udp: 'no', symmetricNat: true, addresses: -1, ipv4: 1, ipv6: false, message: 'x' };
    expect(decodeFacts(Buffer.from(JSON.stringify(sent)))).toEqual({ symmetricNat: true, ipv6: false });
    for (const text of ['', 'null', '[]', '"x"', '{']) expect(decodeFacts(Buffer.from(text))).toEqual({});
  });
});

describe('a session', () => {
  const events: TunnelEvent[] = [];
  beforeEach(() => {
    events.length = 0;
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  /** One whose path the test changes; its peer knows of no UDP. */
  function session(kind: SessionPath['kind']) {
    let path: SessionPath = { kind, remote: 'r', rttMs: 1 };
    let changed: () => void = () => undefined;
    let close: (info: unknown) => void = () => undefined;
    const closed = new Promise((resolve) => {
      close = resolve;
    });
    const method = factsMethods(async () => ({ udp: false }))['network.facts'];
    const peer = {
      peer: 'ab'.repeat(32),
      rpc: { call: async () => method?.(new Uint8Array(), { signal: new AbortController().signal }) },
      session: {
        get path() {
          return path;
        },
        onPathChange: (listener: () => void) => {
          changed = listener;
        },
        closed,
      },
    } as unknown as PeerSession;
    watchRelayed(peer, { report: (event) => events.push(event), facts: async () => ({ udp: true }) });
    return {
      close: () => close({}),
      move: (to: SessionPath['kind']) => {
        path = { kind: to, remote: 'r', rttMs: 1 };
        changed();
      },
    };
  }

  const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);

  it('on a relay for ten seconds is told of once, with what the peer knows', async () => {
    session('iroh-relay');
    await pass(9999);
    expect(events).toEqual([]);
    await pass(1);
    expect(events).toEqual([
      {
        event: 'notice',
        code: 'relayed',
        peer: 'ab'.repeat(32),
        reason: 'no-udp',
        message: "still through a relay: UDP does not get out of the peer's network",
        hint: expect.stringContaining('--webtransport'),
      },
    ]);
    await pass(60_000);
    expect(events).toHaveLength(1);
  });

  it('that becomes direct in time is not, and one that falls back to a relay is', async () => {
    const { move } = session('iroh-relay');
    await pass(9000);
    move('iroh-direct');
    await pass(20_000);
    expect(events).toEqual([]);
    move('iroh-relay');
    await pass(10_000);
    expect(events).toHaveLength(1);
  });

  it('that has ended is not', async () => {
    const { close } = session('iroh-relay');
    close();
    await pass(20_000);
    expect([events, vi.getTimerCount()]).toEqual([[], 0]);
  });
});
