/** Numbers that a stranger or a peer can run into: the gate in front of the handshake, and quotas. */
import { describe, expect, it } from 'vitest';
import type { TunnelError } from '../../src/error.js';
import type { Hello } from '../../src/session/hello.js';
import { Identity } from '../../src/session/identity.js';
import type { NodeId } from '../../src/session/node-id.js';
import type { Session } from '../../src/session/session.js';
import { LIMITS, type Limits, Quota } from '../../src/tunnel/limits.js';
import { addressOf, SessionGate } from '../../src/tunnel/session-gate.js';
import { TokenBucket } from '../../src/tunnel/token-bucket.js';

const peer = Identity.generate().nodeId;
const HELLO = { identity: peer, instanceId: 'ab'.repeat(16) } as Hello;
const KNOWN = { identity: peer, instanceId: 'cd'.repeat(16) } as Hello;

/** As much of a session as the gate looks at. */
function from(remote: string, kind: Session['path']['kind'] = 'iroh-direct', remoteId: NodeId = peer) {
  const closed: number[] = [];
  const session = { remoteId, path: { kind, remote, rttMs: 1 }, close: (code: number) => closed.push(code) };
  return { session: session as unknown as Session, closed };
}

function gate(limits: Partial<Limits> = {}) {
  const refused: string[] = [];
  const clock = { now: 0 };
  const it = new SessionGate({
    limits: { ...LIMITS, ...limits },
    isKnown: (remote) => remote.instanceId === KNOWN.instanceId,
    onRefused: (_session, error) => refused.push(error.code),
    now: () => clock.now,
  });
  return { gate: it, refused, clock };
}

function thrown(work: () => void): TunnelError | undefined {
  try {
    work();
  } catch (error) {
    return error as TunnelError;
  }
  return undefined;
}

describe('a token bucket', () => {
  it('gives its burst at once, then so many a second, and never more than the burst', () => {
    const bucket = new TokenBucket(10, 3, 0);
    const taken = (now: number) => {
      let count = 0;
      while (bucket.take(now)) count += 1;
      return count;
    };
    expect(taken(0)).toBe(3);
    expect(taken(50)).toBe(0);
    expect(taken(200)).toBe(2);
    expect(bucket.isFull(210)).toBe(false);
    expect(bucket.isFull(3_600_000)).toBe(true);
    expect(taken(3_600_000)).toBe(3);
  });
});

describe('a quota', () => {
  it('holds one peer to its share and all of them to theirs, with a reserve for some', () => {
    const quota = new Quota('sessions', 2, 3);
    quota.take('a');
    quota.take('a');
    expect(thrown(() => quota.take('a'))).toMatchObject({ code: 'LIMIT', message: /one peer may have 2/ });
    quota.take('b');
    expect(thrown(() => quota.take('c'))).toMatchObject({ code: 'LIMIT', message: /3 sessions already/ });
    quota.take('c', 1);
    expect(thrown(() => quota.take('d', 1))?.code).toBe('LIMIT');
    expect([quota.size, quota.refused, quota.isPeerFull('a')]).toEqual([4, 3, true]);
    quota.give('a');
    quota.give('nobody');
    expect([quota.size, quota.heldBy('a')]).toEqual([3, 1]);
  });
});

describe('the gate', () => {
  it.each([
    ['192.0.2.7:4433', '192.0.2.7'],
    ['[::ffff:192.0.2.7]:4433', '192.0.2.7'],
    ['[2001:db8:1:2:3:4:5:6]:4433', '2001:db8:1:2/64'],
    ['[2001:db8::1]:4433', '2001:db8:0:0/64'],
    ['[fe80::1%eth0]:1', 'fe80:0:0:0/64'],
  ])('takes %s for %s', (remote, address) => {
    expect(addressOf(from(remote).session)).toBe(address);
  });

  it('goes by the key where the address is a relay, or not known', () => {
    expect(addressOf(from('https://relay.example', 'iroh-relay').session)).toContain(peer);
    expect(addressOf(from('').session)).toContain(peer);
  });

  it('turns away what one strange address dials beyond its share, before HELLO', () => {
    const { gate: it, refused, clock } = gate({ handshakesPerAddress: 1, handshakeBurstPerAddress: 2 });
    const flood = Array.from({ length: 5 }, () => from('192.0.2.1:1'));
    expect(flood.map(({ session }) => it.arrive(session) !== undefined)).toEqual([
      true,
      true,
      false,
      false,
      false,
    ]);
    expect(flood.map(({ closed }) => closed)).toEqual([[], [], [9], [9], [9]]);
    expect(refused).toEqual(['LIMIT', 'LIMIT', 'LIMIT']);
    // Others are not touched, and it gets its share again.
    expect(it.arrive(from('192.0.2.2:1').session)).toBeDefined();
    clock.now = 1000;
    expect(it.arrive(from('192.0.2.1:2').session)).toBeDefined();
    expect(it.refusals.handshakes).toBe(3);
  });

  it('bounds what all strange addresses dial together', () => {
    const { gate: it } = gate({ handshakes: 1, handshakeBurst: 10 });
    const through = Array.from({ length: 40 }, (_, i) => it.arrive(from(`192.0.2.${i}:1`).session));
    expect(through.filter(Boolean)).toHaveLength(10);
  });

  it('lets a process that was here before through a flood, from the same address and from another', () => {
    const { gate: it } = gate({
      handshakesPerAddress: 1,
      handshakeBurstPerAddress: 4,
      handshakes: 1,
      handshakeBurst: 50,
    });
    const first = it.arrive(from('192.0.2.1:1').session);
    first?.heard(HELLO);
    first?.proven(peer);
    first?.admitted();
    // The address uses up its share; everybody else uses up the common one.
    for (let i = 0; i < 10; i += 1) {
      const arrival = it.arrive(from('192.0.2.1:2').session);
      expect(arrival).toBeDefined();
      thrown(() => arrival?.heard({ ...HELLO, instanceId: 'ef'.repeat(16) }));
    }
    for (let i = 0; i < 100; i += 1) it.arrive(from(`198.51.100.${i}:1`).session);
    const stranger = it.arrive(from('192.0.2.1:3').session);
    expect(thrown(() => stranger?.heard(HELLO))?.code).toBe('LIMIT');
    const back = it.arrive(from('192.0.2.1:4').session);
    expect(thrown(() => back?.heard(KNOWN))).toBeUndefined();
    expect(it.arrive(from('203.0.113.9:1').session)).toBeUndefined();
  });

  it('gives the oldest half-open session of the busiest address up for the newest one', () => {
    const { gate: it, refused } = gate({
      halfOpen: 5,
      halfOpenPerAddress: 4,
      handshakeBurstPerAddress: 1000,
    });
    const flood = Array.from({ length: 6 }, (_, i) => from(`192.0.2.1:${i}`));
    for (const { session } of flood) it.arrive(session);
    expect(flood.map(({ closed }) => closed.length)).toEqual([1, 1, 0, 0, 0, 0]);
    const honest = from('192.0.2.2:1');
    const other = from('192.0.2.3:1');
    const arrivals = [honest, other].map(({ session }) => it.arrive(session));
    expect([honest.closed, other.closed, flood[2]?.closed]).toEqual([[], [], [9]]);
    expect(it.halfOpen).toBe(5);
    for (const arrival of arrivals) arrival?.heard(HELLO);
    expect(it.halfOpen).toBe(3);
    expect(refused).toEqual(['LIMIT', 'LIMIT', 'LIMIT']);
  });

  it('closes a session that does not say HELLO in time', async () => {
    const { gate: it, refused } = gate({ helloTimeoutMs: 20 });
    const silent = from('192.0.2.1:1');
    const talking = from('192.0.2.1:2');
    it.arrive(silent.session);
    it.arrive(talking.session)?.heard(HELLO);
    await new Promise<void>((resolve) => {
      const look = () => (silent.closed.length > 0 ? resolve() : setTimeout(look, 5));
      look();
    });
    expect([silent.closed, talking.closed, refused]).toEqual([[13], [], ['TIMEOUT']]);
    expect(it.halfOpen).toBe(0);
  });

  it('bounds the sessions of one peer, and keeps a reserve for processes that come back', () => {
    const { gate: it } = gate({ sessions: 3, sessionsPerPeer: 2, sessionReserve: 1 });
    const enter = (id: NodeId, hello: Hello) => {
      const arrival = it.arrive(from('192.0.2.1:1').session);
      arrival?.heard(hello);
      return { arrival, error: thrown(() => arrival?.proven(id)) };
    };
    const others = Array.from({ length: 3 }, () => Identity.generate().nodeId) as [NodeId, NodeId, NodeId];
    const [one, two, three] = [enter(peer, HELLO), enter(peer, HELLO), enter(peer, HELLO)];
    expect([one.error, two.error, three.error?.code]).toEqual([undefined, undefined, 'LIMIT']);
    expect(enter(others[0], HELLO).error).toBeUndefined();
    expect(enter(others[1], HELLO).error?.code).toBe('LIMIT');
    expect(enter(others[2], KNOWN).error).toBeUndefined();
    one.arrival?.end();
    one.arrival?.end();
    two.arrival?.end();
    expect(enter(others[1], HELLO).error).toBeUndefined();
    expect(it.refusals.sessions).toBe(2);
  });
});
