/**
 * How a channel goes on over another carrier (docs/protocol.md, "Resumption"): what each side tells
 * the other it has, as bytes.
 */
import { TunnelError } from '../error.js';
import { readOffset } from './frame.js';

/** Where one side of a channel stands. Offsets are absolute, from the channel's start. */
export interface ResumePoint {
  /** Bytes received, and one more for an EOS received. The other side sends again from here. */
  readonly received: number;
  /** As in ACK. */
  readonly consumed: number;
  /** As in ACK. */
  readonly limit: number;
  /** Whether the acceptor has taken the channel, as far as this side knows. */
  readonly opened: boolean;
}

export interface ResumeRequest extends ResumePoint {
  readonly channelId: number;
  /** Counts the carriers of the channel; the highest wins. */
  readonly epoch: number;
  /** The body of the channel's OPEN, for an acceptor that never got it. Empty once opened. */
  readonly open: Buffer;
}

const POINT_BYTES = 25;
const FLAG_OPENED = 1;

function writePoint(target: Buffer, position: number, point: ResumePoint): void {
  target.writeBigUInt64BE(BigInt(point.received), position);
  target.writeBigUInt64BE(BigInt(point.consumed), position + 8);
  target.writeBigUInt64BE(BigInt(point.limit), position + 16);
  target[position + 24] = point.opened ? FLAG_OPENED : 0;
}

function readPoint(body: Buffer, position: number): ResumePoint {
  const point = {
    received: readOffset(body, position),
    consumed: readOffset(body, position + 8),
    limit: readOffset(body, position + 16),
    opened: ((body[position + 24] as number) & FLAG_OPENED) !== 0,
  };
  if (point.consumed > point.received || point.limit < point.received - 1) {
    throw new TunnelError('PROTOCOL', 'the peer sent offsets that contradict each other');
  }
  return point;
}

/** `channelId u32 | epoch u32 | received u64 | consumed u64 | limit u64 | flags u8 (1: opened) | OPEN's body, or nothing` */
export function encodeResume(request: ResumeRequest): Buffer {
  const body = Buffer.allocUnsafe(8 + POINT_BYTES + request.open.length);
  body.writeUInt32BE(request.channelId, 0);
  body.writeUInt32BE(request.epoch, 4);
  writePoint(body, 8, request);
  request.open.copy(body, 8 + POINT_BYTES);
  return body;
}

/** Throws PROTOCOL. */
export function decodeResume(body: Buffer): ResumeRequest {
  if (body.length < 8 + POINT_BYTES) throw new TunnelError('PROTOCOL', 'the peer sent a malformed RESUME');
  return {
    channelId: body.readUInt32BE(0),
    epoch: body.readUInt32BE(4),
    ...readPoint(body, 8),
    open: body.subarray(8 + POINT_BYTES),
  };
}

/** `received u64 | consumed u64 | limit u64 | flags u8 (1: opened)` */
export function encodeResumed(point: ResumePoint): Buffer {
  const body = Buffer.allocUnsafe(POINT_BYTES);
  writePoint(body, 0, point);
  return body;
}

/** Throws PROTOCOL. */
export function decodeResumed(body: Buffer): ResumePoint {
  if (body.length !== POINT_BYTES) throw new TunnelError('PROTOCOL', 'the peer sent a malformed RESUMED');
  return readPoint(body, 0);
}

/** What an opener still has, and what it knows to have ended: `count u32`, that many ids, then ids that ended cleanly. */
export interface ChannelLists {
  readonly live: readonly number[];
  readonly ended: readonly number[];
}

export function encodeLists({ live, ended }: ChannelLists): Buffer {
  const body = Buffer.allocUnsafe(4 * (1 + live.length + ended.length));
  body.writeUInt32BE(live.length, 0);
  let position = 4;
  for (const id of [...live, ...ended]) position = body.writeUInt32BE(id, position);
  return body;
}

/** Throws PROTOCOL. */
export function decodeLists(payload: Uint8Array): ChannelLists {
  const body = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength);
  const count = body.length >= 4 && body.length % 4 === 0 ? body.readUInt32BE(0) : Number.NaN;
  if (!(4 * (1 + count) <= body.length))
    throw new TunnelError('PROTOCOL', 'the peer sent malformed lists of channels');
  const ids = Array.from({ length: body.length / 4 - 1 }, (_, index) => body.readUInt32BE(4 * (index + 1)));
  return { live: ids.slice(0, count), ended: ids.slice(count) };
}
