/** Both ends of a bidirectional stream between two sessions in memory. */
import { type MemoryOptions, memorySessionPair } from '../../src/session/engines/memory.js';
import type { BidirectionalStream } from '../../src/session/session.js';

export async function streamPair(options: MemoryOptions = {}) {
  const pair = memorySessionPair(options);
  const near = await pair.dialler.createBidirectionalStream();
  const incoming = pair.acceptor.incomingBidirectionalStreams[Symbol.asyncIterator]();
  const far = (await incoming.next()).value as BidirectionalStream;
  return { ...pair, near, far };
}
