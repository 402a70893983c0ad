/** A whole speed test: the path at rest, then each way under load. */
import { TunnelError } from '../error.js';
import type { PeerSession } from '../session/handshake.js';
import type { PathKind } from '../session/session.js';
import { pingPeer } from './ping.js';
import type { RoundTripFigures } from './round-trips.js';
import {
  DatagramInbox,
  type DatagramResult,
  measureBulk,
  measureDatagrams,
  type Progress,
  type SpeedResult,
} from './speed-client.js';

/** A path through a relay becomes a direct one in the first seconds or hardly ever. */
const UNTIL_DIRECT_MS = 300;
const AT_REST = { count: 10, intervalMs: 100 };
const PING_TIMEOUT_MS = 10_000;

export interface MeasureOptions {
  /** Each way. */
  readonly durationMs: number;
  /** Datagrams at this rate; without it bulk on a stream. */
  readonly bitsPerSecond?: number;
  readonly onProgress: (progress: Progress) => void;
  readonly signal: AbortSignal;
}

export interface Measured {
  /** Of the end; it may have been another one in between. */
  readonly path: PathKind;
  readonly remote: string;
  /** At rest. */
  readonly rttMs: RoundTripFigures | undefined;
  /** From the peer to here. */
  readonly down: SpeedResult | DatagramResult;
  readonly up: SpeedResult | DatagramResult;
}

/** Throws DENIED where the peer does not allow it, and what the tests throw. */
export async function measureSpeed(peer: PeerSession, options: MeasureOptions): Promise<Measured> {
  const { durationMs, bitsPerSecond, onProgress, signal } = options;
  const quietly = { timeoutMs: PING_TIMEOUT_MS, onPing: () => undefined, onLost: () => undefined, signal };
  await pingPeer(peer, { ...quietly, intervalMs: UNTIL_DIRECT_MS });
  const { rttMs, error } = await pingPeer(peer, { ...quietly, ...AT_REST });
  if (error) throw error;
  const inbox = bitsPerSecond === undefined ? undefined : new DatagramInbox(peer);
  const one = (direction: 'down' | 'up') => {
    const how = { direction, durationMs, onProgress, signal };
    return inbox === undefined || bitsPerSecond === undefined
      ? measureBulk(peer, how)
      : measureDatagrams(peer, { ...how, bitsPerSecond, inbox });
  };
  try {
    const down = await one('down');
    const up = await one('up');
    const { kind: path, remote } = peer.session.path;
    return { path, remote, rttMs, down, up };
  } catch (error) {
    throw explained(error);
  }
}

/** The same error, with what to do about it. */
function explained(error: unknown): unknown {
  if (!(error instanceof TunnelError)) return error;
  const { code, message } = error;
  switch (code) {
    case 'DENIED':
      return new TunnelError(code, 'the peer does not let you measure its speed', {
        hint: 'on the other machine: tunnel expose … --allow-speed <your node ID, from tunnel id>',
        cause: error,
      });
    case 'UNIMPLEMENTED':
      return new TunnelError('VERSION', `the peer cannot do this speed test: ${message}`, {
        hint: 'an older version knows none at all; over WebTransport there may be no datagrams',
        cause: error,
      });
    default:
      return error;
  }
}
