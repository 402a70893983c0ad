import { describe, expect, it } from 'vitest';
import { memorySessionPair } from '../../src/session/engines/memory.js';
import type { BidirectionalStream } from '../../src/session/session.js';
import { checkLeaks } from '../support/leaks.js';
import { Recorder } from '../support/recorder.js';
import { next, sessionContract } from './session-contract.js';

sessionContract('memory', {
  async makePair() {
    const pairs = [memorySessionPair()];
    const [{ dialler, acceptor }] = pairs as [ReturnType<typeof memorySessionPair>];
    return {
      dialler,
      acceptor,
      diallerId: acceptor.remoteId,
      acceptorId: dialler.remoteId,
      async again() {
        const pair = memorySessionPair({ ids: [acceptor.remoteId, dialler.remoteId] });
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
    const { dialler, acceptor, cut } = memorySessionPair();
    const far = await acceptor.createBidirectionalStream();
    far.write(null, Buffer.from('alive'));
    const stream: BidirectionalStream = await next(dialler.incomingBidirectionalStreams);
    return { session: dialler, stream, kill: cut, dispose: async () => cut() };
  },
});

describe('memory: on request', () => {
  checkLeaks();

  it('bytes and datagrams take the latency each way', async () => {
    const { dialler, acceptor } = memorySessionPair({ latencyMs: 30 });
    expect(dialler.path.rttMs).toBe(60);
    const start = performance.now();
    const near = await dialler.createBidirectionalStream();
    near.write(null, Buffer.from('x'));
    const far = await next(acceptor.incomingBidirectionalStreams);
    const seen = new Recorder();
    far.receive(seen.sink(far));
    await seen.until(({ received }) => received === 1);
    expect(performance.now() - start).toBeGreaterThanOrEqual(29);
    dialler.close();
    await acceptor.closed;
  });

  it('datagrams are repeated and come in another order, and arriving ones are acknowledged', async () => {
    const { dialler, acceptor } = memorySessionPair({
      shapeDatagrams: (datagrams) => [...datagrams].reverse().flatMap((one) => [one, one]),
    });
    dialler.datagrams.send([Buffer.of(1), Buffer.of(2)]);
    const batch = await next(acceptor.datagrams.incoming);
    expect(batch.map(([first]) => first)).toEqual([2, 2, 1, 1]);
    expect(acceptor.stats().bytesReceived).toBe(4);
    expect(dialler.stats().bytesReceived).toBe(1);
    dialler.close();
    await acceptor.closed;
  });

  it('datagrams are lost, and streams are not', async () => {
    const { dialler, acceptor } = memorySessionPair({ loseDatagram: (payload) => payload[0] === 0 });
    dialler.datagrams.send([Buffer.of(0), Buffer.of(1), Buffer.of(0), Buffer.of(2)]);
    const batch = await next(acceptor.datagrams.incoming);
    expect(batch.map(([first]) => first)).toEqual([1, 2]);
    dialler.close();
    await acceptor.closed;
  });
});
