/**
 * Round trips to the peer's program and back, on the control stream: what a request waits for at least,
 * which is a little more than what the path itself takes.
 */
import { type TunnelError, toTunnelError } from '../error.js';
import type { PeerSession } from '../session/handshake.js';
import type { PathKind, SessionPath } from '../session/session.js';
import { type RoundTripFigures, roundRtt, roundTripFigures } from './round-trips.js';
import { wait } from './wait.js';

/** So many without a direct path, and it will hardly come any more. */
const MAX_UNTIL_DIRECT = 10;

export interface Ping {
  /** From 1 on. */
  readonly seq: number;
  /** On which the answer came. */
  readonly path: PathKind;
  readonly remote: string;
  readonly rttMs: number;
}

export interface PingSummary {
  readonly sent: number;
  readonly received: number;
  /** The last answer did not come through a relay. */
  readonly direct: boolean;
  /** Undefined where nothing was answered. */
  readonly rttMs: RoundTripFigures | undefined;
  /** Why it ended before its time. */
  readonly error: TunnelError | undefined;
}

export interface PingOptions {
  /** How many; without it until an answer comes on a direct path, ten at most. */
  readonly count?: number | undefined;
  /** From one to the next. */
  readonly intervalMs: number;
  /** How long each answer is waited for. */
  readonly timeoutMs: number;
  readonly onPing: (ping: Ping) => void;
  /** Number `seq` was not answered in time. */
  readonly onLost: (seq: number) => void;
  /** Ends it; what was measured until then counts. */
  readonly signal?: AbortSignal | undefined;
}

/** Never rejects. */
export async function pingPeer({ rpc, session }: PeerSession, options: PingOptions): Promise<PingSummary> {
  const { count, intervalMs, timeoutMs, signal } = options;
  const rtts: number[] = [];
  let sent = 0;
  let direct = false;
  let error: TunnelError | undefined;
  while (sent < (count ?? MAX_UNTIL_DIRECT) && !signal?.aborted) {
    const startedAt = performance.now();
    sent += 1;
    try {
      await rpc.call('ping', undefined, { deadlineMs: timeoutMs, ...(signal ? { signal } : {}) });
      const rttMs = roundRtt(performance.now() - startedAt);
      const { kind: path, remote } = session.path;
      rtts.push(rttMs);
      direct = isDirect(path);
      options.onPing({ seq: sent, path, remote, rttMs });
      if (count === undefined && direct) break;
    } catch (cause) {
      const failed = toTunnelError(cause);
      if (failed.code === 'CANCELLED') {
        // It was not waited for to the end, so nobody knows.
        sent -= 1;
        break;
      }
      if (failed.code !== 'DEADLINE_EXCEEDED') {
        error = failed;
        break;
      }
      options.onLost(sent);
    }
    if (sent < (count ?? MAX_UNTIL_DIRECT)) {
      await wait(intervalMs - (performance.now() - startedAt), { signal });
    }
  }
  return { sent, received: rtts.length, direct, rttMs: roundTripFigures(rtts), error };
}

export function isDirect(path: SessionPath['kind']): boolean {
  return path !== 'iroh-relay';
}
