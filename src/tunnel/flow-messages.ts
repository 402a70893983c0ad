/** The calls that open and close UDP flows, `flow.open` and `flow.close`, as bytes. */
import { TunnelError } from '../error.js';
import { readOffset } from '../session/frame.js';
import { MAX_SERVICE_NAME_BYTES } from './open.js';

export const FLOW_OPEN = 'flow.open';
export const FLOW_CLOSE = 'flow.close';
const OPEN_HEADER_BYTES = 10;
const COUNT_BYTES = 20;
/** Flows closed by one call. */
export const MAX_COUNTS = 4096;
const FLAG_RESUME = 1;

export interface FlowOpen {
  /** Chosen by the opener, never used twice by its process. */
  readonly flow: number;
  /** Only a flow that is there already: answered NOT_FOUND otherwise. */
  readonly resume: boolean;
  /** Milliseconds after the last packet. */
  readonly idleMs: number;
  readonly service: string;
}

/** How many packets one side has sent and seen. Together with the other side's it says what the path lost. */
export interface FlowCount {
  readonly flow: number;
  readonly sent: number;
  readonly seen: number;
}

/** `flow u32 | flags u8 | idleMs u32 | nameLength u8 | name`. Throws USAGE for a name that is too long. */
export function encodeFlowOpen({ flow, resume, idleMs, service }: FlowOpen): Buffer {
  const name = Buffer.from(service, 'utf8');
  if (name.length === 0 || name.length > MAX_SERVICE_NAME_BYTES) {
    throw new TunnelError('USAGE', `the service name '${service.slice(0, 40)}' must be 1 to 255 bytes long`);
  }
  const body = Buffer.allocUnsafe(OPEN_HEADER_BYTES + name.length);
  body.writeUInt32BE(flow, 0);
  body[4] = resume ? FLAG_RESUME : 0;
  body.writeUInt32BE(Math.min(Math.round(idleMs), 0xffff_ffff), 5);
  body[9] = name.length;
  name.copy(body, OPEN_HEADER_BYTES);
  return body;
}

/** Throws INVALID_ARGUMENT. */
export function decodeFlowOpen(payload: Uint8Array): FlowOpen {
  const body = Buffer.from(payload.buffer, payload.byteOffset, payload.length);
  const nameLength = body.length > OPEN_HEADER_BYTES ? (body[9] as number) : 0;
  if (nameLength === 0 || body.length !== OPEN_HEADER_BYTES + nameLength) throw malformed(FLOW_OPEN);
  return {
    flow: body.readUInt32BE(0),
    resume: ((body[4] as number) & FLAG_RESUME) !== 0,
    idleMs: body.readUInt32BE(5),
    service: body.toString('utf8', OPEN_HEADER_BYTES),
  };
}

/** `flow u32 | sent u64 | seen u64`, once for each flow: the call and its answer. */
export function encodeFlowCounts(counts: readonly FlowCount[]): Buffer {
  const body = Buffer.allocUnsafe(COUNT_BYTES * counts.length);
  let at = 0;
  for (const { flow, sent, seen } of counts) {
    body.writeUInt32BE(flow, at);
    body.writeBigUInt64BE(BigInt(sent), at + 4);
    body.writeBigUInt64BE(BigInt(seen), at + 12);
    at += COUNT_BYTES;
  }
  return body;
}

/** Throws INVALID_ARGUMENT. */
export function decodeFlowCounts(payload: Uint8Array): readonly FlowCount[] {
  if (payload.length % COUNT_BYTES !== 0 || payload.length > COUNT_BYTES * MAX_COUNTS)
    throw malformed(FLOW_CLOSE);
  const body = Buffer.from(payload.buffer, payload.byteOffset, payload.length);
  return Array.from({ length: body.length / COUNT_BYTES }, (_, index) => {
    const at = index * COUNT_BYTES;
    return { flow: body.readUInt32BE(at), sent: readOffset(body, at + 4), seen: readOffset(body, at + 12) };
  });
}

function malformed(method: string): TunnelError {
  return new TunnelError('INVALID_ARGUMENT', `a malformed ${method}`);
}
