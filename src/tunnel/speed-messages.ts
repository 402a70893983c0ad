/** What the two sides of a speed test say to each other (docs/protocol.md, "Speed tests"). */
import { TunnelError } from '../error.js';

/** The streaming call that is the test: it lives as long as the caller listens. */
export const SPEED_METHOD = 'speed.test';
export const MAX_DURATION_MS = 60_000;
/** Of one test, one way; whatever comes first ends it. */
export const MAX_BYTES = 4 * 1024 ** 3;
export const MAX_BITS_PER_SECOND = 1e9;
/** Beyond what every network carries in one piece there are no datagrams on QUIC anyway. */
export const MAX_DATAGRAM_BYTES = 1200;

/** As the caller sees it: `down` is to it, `up` is from it. */
export type Direction = 'down' | 'up';

export interface SpeedRequest {
  readonly direction: Direction;
  readonly kind: 'stream' | 'datagram';
  readonly durationMs: number;
  /** Of datagrams. */
  readonly bitsPerSecond?: number;
}

/** The answer that comes first. */
export interface SpeedAccepted {
  /** What names the test on its stream, and in its datagrams. */
  readonly test: number;
  /** What the server grants of what was asked for. */
  readonly durationMs: number;
}

/** What the server has counted so far, again and again; the last one is final. */
export interface SpeedFigures {
  /** Since the first byte, milliseconds. */
  readonly ms: number;
  /** Received, or given to the session. */
  readonly bytes: number;
  /** Datagrams received, or given to the session. */
  readonly datagrams: number;
  /** Of datagrams received; RFC 3550. */
  readonly jitterMs: number;
  /** Packets of the session that the server sent since the test began, and how many of them were lost. */
  readonly packetsSent: number;
  readonly packetsLost: number;
  readonly final: boolean;
}

export function encodeMessage(message: SpeedRequest | SpeedAccepted | SpeedFigures): Buffer {
  return Buffer.from(JSON.stringify(message), 'utf8');
}

/** Throws INVALID_ARGUMENT. Times and rates beyond the limits are cut to them. */
export function decodeRequest(payload: Uint8Array): SpeedRequest {
  const fail = (what: string) => new TunnelError('INVALID_ARGUMENT', `a speed test without ${what}`);
  const from = parse(payload, () => fail('a request'));
  const { direction, kind } = from;
  if (direction !== 'down' && direction !== 'up') throw fail('a direction');
  if (kind !== 'stream' && kind !== 'datagram') throw fail('a kind');
  const number = (key: string, most: number) =>
    Math.min(
      most,
      positive(from[key], () => fail(key)),
    );
  return {
    direction,
    kind,
    durationMs: number('durationMs', MAX_DURATION_MS),
    ...(kind === 'datagram' ? { bitsPerSecond: number('bitsPerSecond', MAX_BITS_PER_SECOND) } : {}),
  };
}

/** Throws PROTOCOL. */
export function decodeAccepted(item: Uint8Array | undefined): SpeedAccepted {
  const fail = () => malformed('acceptance');
  const { test, durationMs } = parse(item ?? new Uint8Array(), fail);
  if (!Number.isInteger(test) || (test as number) < 1 || (test as number) > 0xffff_ffff) throw fail();
  return { test: test as number, durationMs: positive(durationMs, fail) };
}

/** Throws PROTOCOL. */
export function decodeFigures(item: Uint8Array): SpeedFigures {
  const fail = () => malformed('figures');
  const from = parse(item, fail);
  const number = (key: string) => positive(from[key], fail, 0);
  return {
    ms: number('ms'),
    bytes: number('bytes'),
    datagrams: number('datagrams'),
    jitterMs: number('jitterMs'),
    packetsSent: number('packetsSent'),
    packetsLost: number('packetsLost'),
    final: from.final === true,
  };
}

/** The body of the preamble of a test's stream. */
export function encodeSpeedStream(test: number): Buffer {
  const body = Buffer.allocUnsafe(4);
  body.writeUInt32BE(test);
  return body;
}

/** Throws PROTOCOL. */
export function decodeSpeedStream(body: Buffer): number {
  if (body.length !== 4) throw new TunnelError('PROTOCOL', 'the peer opened a malformed speed test');
  return body.readUInt32BE();
}

function malformed(what: string): TunnelError {
  return new TunnelError('PROTOCOL', `the peer sent malformed ${what} of a speed test`);
}

function parse(payload: Uint8Array, fail: () => TunnelError): Record<string, unknown> {
  try {
    return Object(JSON.parse(Buffer.from(payload).toString('utf8')));
  } catch {
    throw fail();
  }
}

function positive(value: unknown, fail: () => TunnelError, least = Number.MIN_VALUE): number {
  if (typeof value === 'number' && Number.isFinite(value) && value >= least) return value;
  throw fail();
}
