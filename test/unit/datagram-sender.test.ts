/** Packets of flows on their way into the session: batched, cut to size, dropped and counted. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { TunnelError } from '../../src/error.js';
import type { Session } from '../../src/session/session.js';
import { DatagramSender } from '../../src/tunnel/datagram-sender.js';
import { Flow } from '../../src/tunnel/flow.js';
import { ReassemblyBudget } from '../../src/tunnel/reassembly.js';
import { ticks } from '../support/ticks.js';

interface Fake {
  readonly session: Session;
  readonly batches: (readonly Uint8Array[])[];
  maxDatagramSize: number;
  /** Datagrams there is room for. */
  room: number;
  bytesReceived: number;
  reliableDatagrams: boolean;
  fail: TunnelError | undefined;
}

function fake(): Fake {
  const state: Fake = {
    batches: [],
    maxDatagramSize: 1200,
    room: Number.POSITIVE_INFINITY,
    bytesReceived: 0,
    reliableDatagrams: false,
    fail: undefined,
    session: undefined as unknown as Session,
  };
  const session = {
    datagrams: {
      get maxDatagramSize() {
        return state.maxDatagramSize;
      },
      send(datagrams: readonly Uint8Array[]) {
        if (state.fail) throw state.fail;
        if (datagrams.some(({ length }) => length > state.maxDatagramSize))
          throw new TunnelError('TOO_LARGE', '');
        const taken = Math.min(datagrams.length, state.room);
        state.room -= taken;
        state.batches.push(datagrams.slice(0, taken));
        return taken;
      },
    },
    get reliableDatagrams() {
      return state.reliableDatagrams;
    },
    stats: () => ({ bytesReceived: state.bytesReceived, rttMs: 10 }),
  };
  return Object.assign(state, { session: session as unknown as Session });
}

function makeFlow(id = 1): Flow {
  return new Flow({ id, service: 'svc', idleMs: 1000, budget: new ReassemblyBudget(1 << 20) });
}

describe('packets of one turn of the event loop', () => {
  it('go out in one batch, of all flows together, in order', async () => {
    const { session, batches } = fake();
    const sender = new DatagramSender(session);
    const [one, two] = [makeFlow(1), makeFlow(2)];
    sender.send(one, Buffer.from('a'));
    sender.send(two, Buffer.from('b'));
    sender.send(one, Buffer.from('c'));
    expect(batches).toEqual([]);
    await ticks(1);
    expect(batches).toHaveLength(1);
    expect(batches[0]?.map((datagram) => String.fromCharCode(datagram[5] as number))).toEqual([
      'a',
      'b',
      'c',
    ]);
    expect([one.counters.packetsOut, two.counters.packetsOut]).toEqual([2, 1]);
  });

  it('5,000 in one tick go in batches of bounded size, each sent or counted', async () => {
    const state = fake();
    state.room = 3333;
    const sender = new DatagramSender(state.session);
    const flow = makeFlow();
    for (let i = 0; i < 5000; i += 1) sender.send(flow, Buffer.alloc(1000));
    await ticks(1);
    expect(Math.max(...state.batches.map(({ length }) => length))).toBeLessThanOrEqual(525);
    expect(flow.counters.packetsOut).toBe(3333);
    expect(flow.counters.dropped).toEqual({ 'queue-full': 1667 });
  });
});

describe('a packet', () => {
  it('is cut for the size the path has when it is sent, also where that shrinks under the batch', async () => {
    const state = fake();
    const sender = new DatagramSender(state.session);
    const flow = makeFlow();
    sender.send(flow, Buffer.alloc(1195));
    await ticks(1);
    expect(state.batches[0]?.map(({ length }) => length)).toEqual([1200]);
    state.maxDatagramSize = 600;
    sender.send(flow, Buffer.alloc(1195));
    await ticks(1);
    expect(state.batches[1]).toHaveLength(3);
    let reads = 0;
    const { datagrams } = state.session;
    const shrinking = Object.create(state.session, {
      datagrams: {
        value: {
          get maxDatagramSize() {
            reads += 1;
            return reads === 1 ? 1200 : 600;
          },
          send: datagrams.send,
        },
      },
    }) as Session;
    const other = new DatagramSender(shrinking);
    other.send(flow, Buffer.alloc(1195));
    await ticks(1);
    expect(state.batches[2]).toHaveLength(3);
    expect(flow.counters.packetsOut).toBe(3);
    expect(flow.counters.dropped).toEqual({});
  });

  it('that no number of fragments holds is too big, and nothing else is held up by it', async () => {
    const state = fake();
    state.maxDatagramSize = 200;
    const sender = new DatagramSender(state.session);
    const flow = makeFlow();
    sender.send(flow, Buffer.alloc(65_507));
    sender.send(flow, Buffer.alloc(10));
    await ticks(1);
    expect(flow.counters.dropped).toEqual({ 'too-big': 1 });
    expect(flow.counters.packetsOut).toBe(1);
  });

  it('whose last fragments find no room counts as sent: the other side sees it begin and counts it', async () => {
    const state = fake();
    state.room = 2;
    const sender = new DatagramSender(state.session);
    const flow = makeFlow();
    sender.send(flow, Buffer.alloc(5000));
    sender.send(flow, Buffer.alloc(5000));
    await ticks(1);
    expect(flow.counters.packetsOut).toBe(1);
    expect(flow.counters.dropped).toEqual({ 'queue-full': 1 });
  });

  it('without datagrams, or on a session that has ended, has no path', async () => {
    const state = fake();
    const sender = new DatagramSender(state.session);
    const flow = makeFlow();
    state.maxDatagramSize = 0;
    sender.send(flow, Buffer.alloc(10));
    await ticks(1);
    state.maxDatagramSize = 1200;
    state.fail = new TunnelError('SESSION_LOST', 'gone');
    sender.send(flow, Buffer.alloc(10));
    await ticks(1);
    expect(flow.counters.dropped).toEqual({ 'no-path': 2 });
    expect(flow.counters.packetsOut).toBe(0);
  });
});

describe('a peer that is silent', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['performance', 'setImmediate'] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  /** One packet each 50 ms. */
  async function stream(sender: DatagramSender, flow: Flow, ms: number, each?: () => void): Promise<void> {
    for (let t = 0; t < ms; t += 50) {
      sender.send(flow, Buffer.alloc(10));
      await vi.advanceTimersByTimeAsync(50);
      each?.();
    }
  }

  it('gets no more than a second’s worth, then a packet now and then, and all again once it is heard', async () => {
    const state = fake();
    const sender = new DatagramSender(state.session);
    const flow = makeFlow();
    const hear = () => {
      state.bytesReceived += 1;
    };
    await stream(sender, flow, 3000, hear);
    expect(flow.counters.dropped).toEqual({});
    await stream(sender, flow, 10_000);
    const { 'no-path': dropped = 0 } = flow.counters.dropped;
    expect(dropped).toBeGreaterThan(80);
    // A second of them, and every second one of the rest at most, as probes.
    expect(flow.counters.packetsOut).toBeLessThan(60 + 22 + 100);
    hear();
    await stream(sender, flow, 150, hear);
    const before = flow.counters.packetsOut;
    await stream(sender, flow, 1000, hear);
    expect(flow.counters.packetsOut).toBe(before + 20);
  });

  it('is not thought gone because nothing was sent to it', async () => {
    const state = fake();
    const sender = new DatagramSender(state.session);
    const flow = makeFlow();
    await stream(sender, flow, 50);
    state.bytesReceived += 1;
    await vi.advanceTimersByTimeAsync(60_000);
    await stream(sender, flow, 500);
    expect(flow.counters.dropped).toEqual({});
  });

  it('is no matter where datagrams share a stream, which keeps them anyway', async () => {
    const state = fake();
    state.reliableDatagrams = true;
    const sender = new DatagramSender(state.session);
    const flow = makeFlow();
    await stream(sender, flow, 5000);
    expect(flow.counters.dropped).toEqual({});
  });
});
