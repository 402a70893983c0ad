/** The ways to reach a peer, and which of them makes the session. */
import { TunnelError, toTunnelError } from '../error.js';
import type { Session } from './session.js';

export interface Way {
  readonly name: 'iroh' | 'webtransport';
  /** How long the ways before this one have it to themselves, milliseconds; less when they all fail sooner. */
  readonly delayMs: number;
  /** Throws when this way does not lead there. Must honour the signal. */
  connect(signal: AbortSignal): Promise<Session>;
}

/**
 * The session of the first way that leads to the peer; the others are given up. Throws the error of
 * the first way when none does, or ABORTED when the signal fires.
 */
export async function connectFirst(ways: readonly Way[], signal?: AbortSignal): Promise<Session> {
  const ending = new AbortController();
  const stop = () => ending.abort();
  if (signal?.aborted) throw new TunnelError('ABORTED', 'dialling was cancelled');
  signal?.addEventListener('abort', stop, { once: true });
  const tries: Promise<Session>[] = [];
  let winner: Session | undefined;
  try {
    for (const way of ways) {
      const before = Promise.allSettled(tries);
      tries.push(startLater(way, before, ending.signal));
    }
    winner = await Promise.any(tries);
    return winner;
  } catch (error) {
    throw error instanceof AggregateError ? toTunnelError(error.errors[0], 'UNREACHABLE') : error;
  } finally {
    signal?.removeEventListener('abort', stop);
    ending.abort();
    for (const one of tries) void closeUnless(one, winner);
  }
}

async function startLater(way: Way, before: Promise<unknown>, signal: AbortSignal): Promise<Session> {
  if (way.delayMs > 0) {
    let timer: NodeJS.Timeout | undefined;
    const delay = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, way.delayMs);
      signal.addEventListener('abort', () => resolve(), { once: true });
    });
    await Promise.race([delay, before]);
    clearTimeout(timer);
  }
  if (signal.aborted) throw new TunnelError('ABORTED', 'another way was faster');
  return way.connect(signal);
}

/** Two may come through: only the first is used. */
async function closeUnless(connecting: Promise<Session>, winner: Session | undefined): Promise<void> {
  const session = await connecting.catch(() => undefined);
  if (session !== winner) session?.close();
}
