import { createHash, randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { encodeFrame } from '../../src/session/frame.js';
import { PairStream } from '../../src/session/mux-pair-stream.js';
import { MuxSession } from '../../src/session/mux-session.js';
import type { NodeId } from '../../src/session/node-id.js';
import type { BidirectionalStream } from '../../src/session/session.js';
import { next, sessionContract } from '../contract/session-contract.js';
import { thrown } from '../support/errors.js';
import { eventually } from '../support/eventually.js';
import { checkLeaks } from '../support/leaks.js';
import { Recorder } from '../support/recorder.js';
import { streamPair } from '../support/stream-pair.js';
import { ticks } from '../support/ticks.js';

const ids = [0, 1].map(() => randomBytes(32).toString('hex') as NodeId) as [NodeId, NodeId];

type Ends = readonly [near: BidirectionalStream, far: BidirectionalStream];

function sessionsOn([near, far]: Ends, options: { pingIntervalMs?: number; idleTimeoutMs?: number } = {}) {
  const secret = randomBytes(32);
  const common = {
    path: { kind: 'memory', remote: 'the other one' },
    exportKeyingMaterial: (label: string, length: number) =>
      createHash('shake256', { outputLength: length }).update(secret).update(label).digest(),
    ...options,
  } as const;
  return {
    dialler: new MuxSession(near, { ...common, role: 'dialler', remoteId: ids[1] }),
    acceptor: new MuxSession(far, { ...common, role: 'acceptor', remoteId: ids[0] }),
  };
}

/** A pair of platform streams, crossed. */
function platformEnds(): { ends: Ends; near: PairStream; far: PairStream } {
  const there = new TransformStream<Uint8Array, Uint8Array>();
  const back = new TransformStream<Uint8Array, Uint8Array>();
  const near = new PairStream({ readable: back.readable, writable: there.writable });
  const far = new PairStream({ readable: there.readable, writable: back.writable });
  return { ends: [near, far], near, far };
}

async function memoryEnds(): Promise<{ ends: Ends; cut: () => void }> {
  const { near, far, cut } = await streamPair();
  return { ends: [near, far], cut };
}

function engine(make: () => Promise<{ ends: Ends; cut: () => void }>) {
  return {
    async makePair() {
      const pairs = [sessionsOn((await make()).ends)];
      const [{ dialler, acceptor }] = pairs as [ReturnType<typeof sessionsOn>];
      return {
        dialler,
        acceptor,
        diallerId: ids[0],
        acceptorId: ids[1],
        async again() {
          const pair = sessionsOn((await make()).ends);
          pairs.push(pair);
          return pair;
        },
        async dispose() {
          for (const pair of pairs) pair.dialler.close();
          await Promise.all(pairs.map((pair) => pair.acceptor.closed));
        },
      };
    },
    async makeMortalPeer() {
      const { ends, cut } = await make();
      const { dialler, acceptor } = sessionsOn(ends);
      const far = await acceptor.createBidirectionalStream();
      far.write(null, Buffer.from('alive'));
      const stream = await next(dialler.incomingBidirectionalStreams);
      return { session: dialler, stream, kill: cut, dispose: async () => cut() };
    },
  };
}

sessionContract('mux on a stream in memory', engine(memoryEnds));
sessionContract(
  'mux on platform streams',
  engine(async () => {
    const { ends, near, far } = platformEnds();
    return {
      ends,
      cut: () => {
        near.fail();
        far.fail();
      },
    };
  }),
);

describe('a mux session', () => {
  checkLeaks();

  /** The dialler's side, and its stream's other end by hand. */
  async function alone(options: { pingIntervalMs?: number; idleTimeoutMs?: number } = {}) {
    const { near, far, dialler: below, acceptor: belowFar } = await streamPair();
    const session = new MuxSession(near, {
      role: 'dialler',
      remoteId: ids[1],
      path: { kind: 'memory', remote: '' },
      exportKeyingMaterial: () => Buffer.alloc(0),
      ...options,
    });
    const seen = new Recorder();
    far.receive(seen.sink(far));
    const end = async () => {
      below.close();
      await belowFar.closed;
    };
    return { session, far, seen, end };
  }

  it('measures its round trip', async () => {
    const { near, far, dialler: below } = await streamPair({ latencyMs: 20 });
    const { dialler, acceptor } = sessionsOn([near, far], { pingIntervalMs: 10 });
    expect(await eventually(() => dialler.path.rttMs >= 39 && acceptor.stats().rttMs >= 39)).toBe(true);
    dialler.close();
    await acceptor.closed;
    below.close();
  });

  it('takes a peer that is silent for dead', async () => {
    const { session, end } = await alone({ pingIntervalMs: 10, idleTimeoutMs: 60 });
    expect(await session.closed).toMatchObject({ by: 'timeout', closeCode: 0 });
    await end();
  });

  it('does not take a peer for dead that sends anything at all', async () => {
    const { session, far, end } = await alone({ pingIntervalMs: 5, idleTimeoutMs: 60 });
    const pings = setInterval(() => far.write(encodeFrame(0, 0x24, Buffer.alloc(8)), null), 5);
    await new Promise((resolve) => setTimeout(resolve, 200));
    clearInterval(pings);
    expect(await Promise.race([session.closed, Promise.resolve('open')])).toBe('open');
    session.close();
    await end();
  });

  it('is lost when its stream ends without a word', async () => {
    const { session, far, end } = await alone();
    far.finish();
    expect(await session.closed).toMatchObject({ by: 'lost', closeCode: 0 });
    expect((await session.closed).reason).not.toBe('');
    await end();
  });

  it.each([
    ['a session frame of an unknown type', encodeFrame(0, 0x3f, Buffer.alloc(8))],
    ['a ping of the wrong length', encodeFrame(0, 0x24, Buffer.alloc(7))],
    ['a pong of the wrong length', encodeFrame(0, 0x25, Buffer.alloc(9))],
    ['a reset of the wrong length', encodeFrame(0, 0x22, Buffer.alloc(7))],
    ['a close that is too short', encodeFrame(0, 0x20, Buffer.alloc(3))],
    ['a close that is too long', encodeFrame(0, 0x20, Buffer.alloc(2000))],
    ['a stream of an unknown kind', encodeFrame(2, 0x06, Buffer.of(7))],
    ['a stream of no kind', encodeFrame(2, 0x06, Buffer.alloc(0))],
    ['many signals for a stream that was never opened', signals(2, 2, 2)],
  ])('ends, as lost, at %s', async (_what, frame) => {
    const { session, far, end } = await alone();
    far.write(frame, null);
    expect(await session.closed).toMatchObject({ by: 'lost', closeCode: 0 });
    await end();
  });

  it('takes a reset that comes in one piece with the stream it is for', async () => {
    const { session, far, end } = await alone();
    far.write(Buffer.concat([encodeFrame(2, 0x06, Buffer.of(0)), signals(2)]), null);
    const stream = await next(session.incomingBidirectionalStreams);
    const seen = new Recorder();
    stream.receive(seen.sink(stream));
    await seen.seen('reset 9');
    session.close();
    await end();
  });

  it('ignores signals for streams that are over, or that it opened itself', async () => {
    const { session, far, end } = await alone();
    far.write(Buffer.concat([signals(1, 1), encodeFrame(0, 0x21, Buffer.from('after'))]), null);
    expect((await next(session.datagrams.incoming)).map(String)).toEqual(['after']);
    session.close();
    await end();
  });

  it('cuts a reason that is too long, and cleans what a terminal would obey', async () => {
    const { ends } = await memoryEnds();
    const { dialler, acceptor } = sessionsOn(ends);
    dialler.close(1, `\u001b[2J${'x'.repeat(5000)}`);
    const { reason } = await acceptor.closed;
    expect(reason).toHaveLength(1024);
    expect(reason).not.toContain('\u001b');
  });

  it('drops datagrams where the stream is full, and says how many it took', async () => {
    const { near, end } = await full();
    const session = new MuxSession(near, {
      role: 'dialler',
      remoteId: ids[1],
      path: { kind: 'memory', remote: '' },
      exportKeyingMaterial: () => Buffer.alloc(0),
    });
    const sent = Array.from({ length: 100 }, () => Buffer.alloc(16_384));
    const taken = session.datagrams.send(sent);
    expect(taken).toBeGreaterThan(0);
    expect(taken).toBeLessThan(100);
    expect(session.datagrams.send(sent)).toBe(0);
    session.close();
    await end();
  });

  /** A stream whose other end reads nothing. */
  async function full() {
    const { near, dialler, acceptor } = await streamPair();
    return {
      near,
      end: async () => {
        dialler.close();
        await acceptor.closed;
      },
    };
  }
});

describe('a platform stream pair', () => {
  checkLeaks();

  it('keeps what its receiver has not given back within a budget', async () => {
    const { near, far } = platformEnds();
    const chunk = Buffer.alloc(64 * 1024);
    const seen = new Recorder();
    far.receive(seen.sink(far, { consume: false }));
    let sent = 0;
    while (near.write(null, chunk)) {
      sent += chunk.length;
      if (sent % (8 * chunk.length) === 0) await ticks(2);
    }
    await ticks(20);
    expect(seen.received).toBeGreaterThan(512 * 1024);
    expect(seen.received).toBeLessThan(2 * 1024 * 1024);
    far.consumed(seen.received);
    await ticks(20);
    expect(seen.received).toBe(sent + chunk.length);
    near.fail();
    far.fail();
  });

  it('sends what was written, and the end, before it is flushed', async () => {
    const { near, far } = platformEnds();
    const seen = new Recorder();
    far.receive(seen.sink(far));
    const bytes = randomBytes(300_000);
    near.write(bytes.subarray(0, 7), bytes.subarray(7));
    near.finish();
    near.finish();
    await near.flushed;
    await seen.seen('end');
    expect(seen.bytes.equals(bytes)).toBe(true);
    expect(thrown(() => near.write(null, bytes)).code).toBe('STREAM_CLOSED');
    await far.readEnded;
    far.finish();
    near.fail();
  });

  it('that is abandoned is lost at the other end, and never an end', async () => {
    const { near, far } = platformEnds();
    const seen = new Recorder();
    far.receive(seen.sink(far));
    near.write(null, Buffer.from('half'));
    near.reset(1);
    await seen.seen('lost');
    expect(seen.events).toEqual(['lost']);
  });

  it('that was stopped reads on to its end, and hands nothing out', async () => {
    const { near, far } = platformEnds();
    const seen = new Recorder();
    far.receive(seen.sink(far));
    far.stop(0);
    near.write(null, Buffer.alloc(3 * 1024 * 1024));
    near.finish();
    await far.readEnded;
    expect([seen.received, seen.events]).toEqual([0, []]);
  });
});

/** STOP of each stream but the first signal, which is a RESET with the code 9. */
function signals(...streamIds: readonly number[]): Buffer {
  return Buffer.concat(
    streamIds.map((id, index) => {
      const payload = Buffer.alloc(8);
      payload.writeUInt32BE(id, 0);
      payload.writeUInt32BE(9, 4);
      return encodeFrame(0, index === 0 ? 0x22 : 0x23, payload);
    }),
  );
}
