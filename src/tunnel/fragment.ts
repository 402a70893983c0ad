/**
 * What a datagram of a session holds: a packet of a UDP flow, or a piece of one that is larger than
 * the path takes. `docs/protocol.md` has the layout.
 *
 * All pieces of a packet but the last have the same length, which follows from `total` and `count`. So
 * where a piece belongs needs no field of its own, and every length can be checked.
 */

/** Largest payload of a UDP packet over IPv4. */
export const MAX_PACKET_BYTES = 65_507;
export const WHOLE_HEADER_BYTES = 5;
export const FRAGMENT_HEADER_BYTES = 11;
const MAX_FRAGMENTS = 255;
const TYPE_WHOLE = 1;
const TYPE_FRAGMENT = 2;

export interface Fragment {
  /** Numbers the fragmented packets of a flow, modulo 65,536. */
  readonly packet: number;
  readonly index: number;
  readonly count: number;
  /** Bytes of the whole packet. */
  readonly total: number;
  /** Offset of this piece in it. */
  readonly offset: number;
  readonly piece: Buffer;
}

/** `type u8 | flow u32 | payload` */
export function encodeWhole(flow: number, payload: Uint8Array): Buffer {
  const datagram = Buffer.allocUnsafe(WHOLE_HEADER_BYTES + payload.length);
  datagram[0] = TYPE_WHOLE;
  datagram.writeUInt32BE(flow, 1);
  datagram.set(payload, WHOLE_HEADER_BYTES);
  return datagram;
}

/** How many fragments a packet needs where a datagram holds `maxBytes`; undefined where it cannot be sent at all. */
export function fragmentCount(bytes: number, maxBytes: number): number | undefined {
  const room = maxBytes - FRAGMENT_HEADER_BYTES;
  if (room <= 0 || bytes > MAX_PACKET_BYTES) return undefined;
  const count = Math.ceil(bytes / room);
  return count >= 2 && count <= MAX_FRAGMENTS ? count : undefined;
}

/** `type u8 | flow u32 | packet u16 | index u8 | count u8 | total u16 | piece`, `count` of them. */
export function encodeFragments(
  flow: number,
  payload: Uint8Array,
  { packet, count }: { readonly packet: number; readonly count: number },
): Buffer[] {
  const size = pieceBytes(payload.length, count);
  return Array.from({ length: count }, (_, index) => {
    const piece = payload.subarray(index * size, (index + 1) * size);
    const datagram = Buffer.allocUnsafe(FRAGMENT_HEADER_BYTES + piece.length);
    datagram[0] = TYPE_FRAGMENT;
    datagram.writeUInt32BE(flow, 1);
    datagram.writeUInt16BE(packet, 5);
    datagram[7] = index;
    datagram[8] = count;
    datagram.writeUInt16BE(payload.length, 9);
    datagram.set(piece, FRAGMENT_HEADER_BYTES);
    return datagram;
  });
}

/** The flow a datagram is for; undefined for what is no datagram of this protocol. */
export function flowOf(datagram: Buffer): number | undefined {
  const type = datagram[0];
  if (datagram.length < WHOLE_HEADER_BYTES || (type !== TYPE_WHOLE && type !== TYPE_FRAGMENT))
    return undefined;
  // As four reads: this runs for every packet, and readUInt32BE checks its arguments each time.
  return (
    (datagram[1] as number) * 0x1000000 +
    (((datagram[2] as number) << 16) | ((datagram[3] as number) << 8) | (datagram[4] as number))
  );
}

/** The payload of a whole packet, a piece of one, or undefined where the datagram contradicts itself. */
export function decodeBody(datagram: Buffer): Buffer | Fragment | undefined {
  if (datagram[0] === TYPE_WHOLE) return datagram.subarray(WHOLE_HEADER_BYTES);
  if (datagram.length <= FRAGMENT_HEADER_BYTES) return undefined;
  const index = datagram[7] as number;
  const count = datagram[8] as number;
  const total = datagram.readUInt16BE(9);
  if (count < 2 || index >= count || total > MAX_PACKET_BYTES) return undefined;
  const size = pieceBytes(total, count);
  const offset = index * size;
  const length = datagram.length - FRAGMENT_HEADER_BYTES;
  if (length !== Math.min(size, total - offset)) return undefined;
  return {
    packet: datagram.readUInt16BE(5),
    index,
    count,
    total,
    offset,
    piece: datagram.subarray(FRAGMENT_HEADER_BYTES),
  };
}

function pieceBytes(total: number, count: number): number {
  return Math.ceil(total / count);
}
