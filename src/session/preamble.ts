/**
 * The first bytes of every bidirectional stream say what it is for:
 * `kind u8 | reserved u8 | length u16`, then a body by kind (at most 4 KiB, within 10 s).
 */
import { TunnelError, WIRE_CODES } from '../error.js';
import type { BidirectionalStream, StreamSink } from './session.js';

export const StreamKind = {
  /** One per session, opened by the dialler: HELLO both ways, then session control. */
  CONTROL: 0x01,
  /** A new channel with this stream to itself. */
  OPEN: 0x02,
  /** A channel that lost its carrier, or leaves it, goes on here. */
  RESUME: 0x03,
  /** Bulk of a speed test. */
  SPEED: 0x04,
} as const;

export const PREAMBLE_HEADER_BYTES = 4;
export const MAX_PREAMBLE_BYTES = 4096;
export const PREAMBLE_TIMEOUT_MS = 10_000;

export function encodePreamble(kind: number, body: Uint8Array): Buffer {
  if (body.length > MAX_PREAMBLE_BYTES) throw new RangeError(`preamble of ${body.length} bytes`);
  const bytes = Buffer.allocUnsafe(PREAMBLE_HEADER_BYTES + body.length);
  bytes[0] = kind;
  bytes[1] = 0;
  bytes.writeUInt16BE(body.length, 2);
  bytes.set(body, PREAMBLE_HEADER_BYTES);
  return bytes;
}

export interface Preamble {
  readonly kind: number;
  readonly body: Buffer;
  /** What arrived behind the preamble already; already counted as received, not yet consumed. */
  readonly rest: Buffer;
}

/**
 * Reads a stream's preamble and calls back, in the same turn in which its last byte arrived, so that
 * the receiver can install its own sink before anything more is pushed. `failed` is called instead
 * for a stream that is malformed, too slow, or gone; it has been reset by then.
 */
export function readPreamble(
  stream: BidirectionalStream,
  done: (preamble: Preamble) => void,
  failed: (error: TunnelError) => void,
): void {
  let received: Buffer = Buffer.alloc(0);
  let settled = false;
  const settle = (): boolean => {
    if (settled) return false;
    settled = true;
    clearTimeout(timer);
    return true;
  };
  const fail = (code: 'PROTOCOL' | 'TIMEOUT' | 'SESSION_LOST' | 'RESET', message: string) => {
    if (!settle()) return;
    if (code !== 'SESSION_LOST') {
      stream.reset(WIRE_CODES[code]);
      stream.stop(WIRE_CODES[code]);
    }
    failed(new TunnelError(code, message));
  };
  const timer = setTimeout(
    () => fail('TIMEOUT', 'a stream did not say in time what it is for'),
    PREAMBLE_TIMEOUT_MS,
  );
  timer.unref();
  const sink: StreamSink = {
    data(chunk) {
      received = received.length === 0 ? chunk : Buffer.concat([received, chunk]);
      if (received.length < PREAMBLE_HEADER_BYTES) return;
      const length = received.readUInt16BE(2);
      if (length > MAX_PREAMBLE_BYTES) {
        fail(
          'PROTOCOL',
          `a stream's preamble announces ${length} bytes; at most ${MAX_PREAMBLE_BYTES} are allowed`,
        );
        return;
      }
      const size = PREAMBLE_HEADER_BYTES + length;
      if (received.length < size || !settle()) return;
      stream.consumed(size);
      done({
        kind: received[0] as number,
        body: received.subarray(PREAMBLE_HEADER_BYTES, size),
        rest: received.subarray(size),
      });
    },
    end: () => fail('PROTOCOL', 'a stream ended before its preamble'),
    reset: () => fail('RESET', 'a stream was reset before its preamble'),
    stopped: () => fail('RESET', 'a stream was stopped before its preamble'),
    drain: () => undefined,
    lost: () => fail('SESSION_LOST', 'the session ended'),
  };
  stream.receive(sink);
}
