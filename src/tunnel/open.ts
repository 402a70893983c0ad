/** The body of an OPEN preamble: which service a new channel is for. */
import { TunnelError } from '../error.js';
import { readOffset } from '../session/frame.js';

export const MAX_SERVICE_NAME_BYTES = 255;
const PROTOCOL_TCP = 1;

export interface OpenRequest {
  /** Odd from the dialler of the session, even from its acceptor. */
  readonly channelId: number;
  /** 0 for a new channel; counts its resumptions. */
  readonly epoch: number;
  readonly service: string;
  /** First limit this side grants: the peer may send up to this offset. */
  readonly limit: number;
}

/** `channelId u32 | epoch u32 | limit u64 | protocol u8 | nameLength u8 | name` */
export function encodeOpen(open: OpenRequest): Buffer {
  const name = Buffer.from(open.service, 'utf8');
  if (name.length === 0 || name.length > MAX_SERVICE_NAME_BYTES) {
    throw new TunnelError(
      'USAGE',
      `the service name '${open.service.slice(0, 40)}' must be 1 to 255 bytes long`,
    );
  }
  const body = Buffer.allocUnsafe(18 + name.length);
  body.writeUInt32BE(open.channelId, 0);
  body.writeUInt32BE(open.epoch, 4);
  body.writeBigUInt64BE(BigInt(open.limit), 8);
  body[16] = PROTOCOL_TCP;
  body[17] = name.length;
  name.copy(body, 18);
  return body;
}

/** Throws PROTOCOL. */
export function decodeOpen(body: Buffer): OpenRequest {
  const nameLength = body.length > 18 ? (body[17] as number) : 0;
  if (nameLength === 0 || body.length !== 18 + nameLength) {
    throw new TunnelError('PROTOCOL', 'the peer sent a malformed OPEN');
  }
  if (body[16] !== PROTOCOL_TCP) {
    throw new TunnelError(
      'PROTOCOL',
      `the peer asked for a channel of protocol ${body[16]}; only TCP (1) is known`,
    );
  }
  return {
    channelId: body.readUInt32BE(0),
    epoch: body.readUInt32BE(4),
    limit: readOffset(body, 8),
    service: body.toString('utf8', 18),
  };
}
