/**
 * The one frame format, on channels' own streams and on the mux alike (docs/protocol.md):
 *
 * `channelId u32 | type u8 | flags u8 | reserved u16 | length u32`, then the payload. Big-endian.
 */
import { TunnelError } from '../error.js';

export const HEADER_BYTES = 12;
/** Largest payload of a DATA frame. */
export const MAX_DATA_BYTES = 256 * 1024;
/** Largest payload of every other frame: a HELLO is the longest. */
export const MAX_CONTROL_BYTES = 16 * 1024;

export const FrameType = {
  DATA: 0x01,
  ACK: 0x02,
  EOS: 0x03,
  ERROR: 0x04,
  OPENED: 0x05,
  /** Only on the mux; a stream of its own says it in its preamble. */
  OPEN: 0x06,
  CALL: 0x07,
  CALL_STREAM: 0x08,
  RESULT: 0x09,
  CANCEL: 0x0a,
  /** First answer to a RESUME: the channel goes on. */
  RESUMED: 0x0b,
  /** First answer to a RESUME: the channel had ended here, both ends proven. */
  ENDED: 0x0c,
  HELLO: 0x10,
  GOAWAY: 0x11,
  /** JSON: where the sender can be reached now. */
  ADDRESSES: 0x12,
  /** The acceptor asks a person whether to let the dialler in; said again every few seconds. */
  PENDING: 0x13,
} as const;

/** Frames that carry a user's payload. */
const LARGE_TYPES: ReadonlySet<number> = new Set([
  FrameType.DATA,
  FrameType.CALL,
  FrameType.CALL_STREAM,
  FrameType.RESULT,
]);

/** What a reader hands its frames to. */
export interface FrameHandler {
  /** A piece of a DATA payload, passed on as it arrived: `last` with the frame's final piece. */
  data(channelId: number, piece: Buffer, last: boolean): void;
  /** Any other frame, whole. */
  control(channelId: number, type: number, payload: Buffer): void;
}

export function writeHeader(target: Buffer, channelId: number, type: number, length: number): void {
  target.writeUInt32BE(channelId, 0);
  // Type, flags and the reserved half in one store: flags and reserved are zero in this version.
  target.writeUInt32BE(type * 0x1000000, 4);
  target.writeUInt32BE(length, 8);
}

export function encodeFrame(channelId: number, type: number, payload: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(HEADER_BYTES + payload.length);
  writeHeader(frame, channelId, type, payload.length);
  frame.set(payload, HEADER_BYTES);
  return frame;
}

/**
 * Takes the bytes of a stream in whatever pieces they come and hands on frames. DATA payloads are
 * never assembled and never copied; everything else is small and waits until it is whole.
 *
 * `push` throws PROTOCOL for a frame that breaks a limit; the reader must not be used after that.
 */
export class FrameReader {
  readonly #handler: FrameHandler;
  /** Whether frames may be as long as a user's payload. Otherwise each is at most `MAX_CONTROL_BYTES`. */
  allowsLarge = true;
  /** A header, or a control payload, that arrived only in part. */
  #partial: Buffer | undefined;
  #partialLength = 0;
  #channelId = 0;
  #type = 0;
  /** Payload bytes of the current frame still to come; -1 between frames. */
  #remaining = -1;

  constructor(handler: FrameHandler) {
    this.#handler = handler;
  }

  /** Whether the stream stands between two frames, so that an end here cuts nothing off. */
  get atBoundary(): boolean {
    return this.#remaining < 0 && this.#partialLength === 0;
  }

  push(chunk: Buffer): void {
    let offset = 0;
    while (offset < chunk.length) {
      offset = this.#remaining < 0 ? this.#header(chunk, offset) : this.#payload(chunk, offset);
    }
  }

  #header(chunk: Buffer, offset: number): number {
    if (this.#partialLength === 0 && chunk.length - offset >= HEADER_BYTES) {
      this.#begin(chunk, offset);
      return offset + HEADER_BYTES;
    }
    const next = this.#collect(chunk, offset, HEADER_BYTES);
    if (this.#partialLength === HEADER_BYTES) {
      const header = this.#takePartial();
      this.#begin(header, 0);
    }
    return next;
  }

  #begin(bytes: Buffer, offset: number): void {
    const length = bytes.readUInt32BE(offset + 8);
    this.#channelId = bytes.readUInt32BE(offset);
    this.#type = bytes[offset + 4] as number;
    const limit = this.allowsLarge && LARGE_TYPES.has(this.#type) ? MAX_DATA_BYTES : MAX_CONTROL_BYTES;
    if (length > limit) {
      throw new TunnelError(
        'PROTOCOL',
        `a frame of type ${this.#type} announces ${length} bytes; at most ${limit} are allowed`,
      );
    }
    this.#remaining = length;
    if (length > 0) return;
    this.#remaining = -1;
    if (this.#type !== FrameType.DATA) this.#handler.control(this.#channelId, this.#type, Buffer.alloc(0));
  }

  #payload(chunk: Buffer, offset: number): number {
    const available = chunk.length - offset;
    if (this.#type === FrameType.DATA) {
      const taken = Math.min(available, this.#remaining);
      const last = taken === this.#remaining;
      this.#remaining = last ? -1 : this.#remaining - taken;
      this.#handler.data(this.#channelId, chunk.subarray(offset, offset + taken), last);
      return offset + taken;
    }
    const length = this.#remaining;
    if (this.#partialLength === 0 && available >= length) {
      this.#remaining = -1;
      this.#handler.control(this.#channelId, this.#type, chunk.subarray(offset, offset + length));
      return offset + length;
    }
    const next = this.#collect(chunk, offset, length);
    if (this.#partialLength === length) {
      this.#remaining = -1;
      this.#handler.control(this.#channelId, this.#type, this.#takePartial());
    }
    return next;
  }

  #collect(chunk: Buffer, offset: number, wanted: number): number {
    this.#partial ??= Buffer.allocUnsafe(wanted);
    const taken = chunk.copy(
      this.#partial,
      this.#partialLength,
      offset,
      offset + wanted - this.#partialLength,
    );
    this.#partialLength += taken;
    return offset + taken;
  }

  #takePartial(): Buffer {
    const whole = this.#partial as Buffer;
    this.#partial = undefined;
    this.#partialLength = 0;
    return whole;
  }
}

/** ERROR's body: `code u32 | length u32 | UTF-8 message`, the message cut to 1 KiB. */
export function encodeError(code: number, message: string): Buffer {
  let text = Buffer.from(message, 'utf8');
  if (text.length > MAX_MESSAGE_BYTES) text = text.subarray(0, MAX_MESSAGE_BYTES);
  const body = Buffer.allocUnsafe(8 + text.length);
  body.writeUInt32BE(code, 0);
  body.writeUInt32BE(text.length, 4);
  text.copy(body, 8);
  return body;
}

/** Throws PROTOCOL for a malformed body. The message is the peer's: control characters are taken out. */
export function decodeError(body: Buffer): { code: number; message: string } {
  if (body.length < 8 || body.length > 8 + MAX_MESSAGE_BYTES || body.readUInt32BE(4) !== body.length - 8) {
    throw new TunnelError('PROTOCOL', 'the peer sent a malformed ERROR frame');
  }
  return { code: body.readUInt32BE(0), message: printable(body.toString('utf8', 8)) };
}

const MAX_MESSAGE_BYTES = 1024;

/** A peer's text without anything a terminal would obey. */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, '�');
}

/** An offset of the wire's u64; what a double cannot count exactly is a violation. */
export function readOffset(body: Buffer, position: number): number {
  const value = body.readBigUInt64BE(position);
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new TunnelError('PROTOCOL', 'the peer sent an offset beyond 2^53');
  }
  return Number(value);
}
