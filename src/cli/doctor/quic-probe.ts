/**
 * Whether something that speaks QUIC is at a UDP address: a packet of a version that nobody has is answered with
 * the versions there are (RFC 9000, 6), before any handshake and without a trace at the other side.
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { systemCode } from '../../error.js';
import { closeSocket, connectSocket, udpSocket } from '../../tunnel/udp-socket.js';
import { within } from '../within.js';

const WAIT_MS = 1500;
const AGAIN_MS = 300;
/** Servers ignore shorter first packets. */
const PACKET_BYTES = 1200;
/** Of the form that is reserved for forcing this answer. */
const NO_VERSION = 0x1a2a3a4a;
const ID_BYTES = 8;

export interface QuicProbe {
  readonly address: string;
  /** `refused`: the machine answers, and nothing listens there. `silent`: nothing came back. */
  readonly result: 'answers' | 'refused' | 'silent' | 'unroutable';
  /** The system's code, where it is not reachable at all. */
  readonly error?: string;
}

/** `address` is `ip:port`. Never rejects. */
export async function probeQuic(address: string): Promise<QuicProbe> {
  const [, host = '', port] = /^\[?([^\]]+)\]?:(\d+)$/.exec(address) ?? [];
  const socket = udpSocket(host.includes(':') ? 6 : 4);
  try {
    await connectSocket(socket, Number(port), host);
    const packet = greeting();
    let error: string | undefined;
    const coming = answer(socket, packet).catch((cause: unknown) => {
      error = systemCode(cause) ?? (cause as Error).message;
      return false;
    });
    // What sending fails with is told by the next event as well, or is nothing.
    const send = () => socket.send(packet, () => undefined);
    send();
    const timer = setInterval(send, AGAIN_MS);
    const isThere = await within(coming, WAIT_MS, undefined);
    clearInterval(timer);
    if (isThere) return { address, result: 'answers' };
    if (error === undefined) return { address, result: 'silent' };
    return error === 'ECONNREFUSED'
      ? { address, result: 'refused' }
      : { address, result: 'unroutable', error };
  } catch (cause) {
    return { address, result: 'unroutable', error: systemCode(cause) ?? (cause as Error).message };
  } finally {
    closeSocket(socket);
  }
}

function greeting(): Buffer {
  const packet = Buffer.alloc(PACKET_BYTES);
  packet[0] = 0xc0;
  packet.writeUInt32BE(NO_VERSION, 1);
  packet[5] = ID_BYTES;
  randomBytes(ID_BYTES).copy(packet, 6);
  packet[6 + ID_BYTES] = ID_BYTES;
  randomBytes(ID_BYTES).copy(packet, 7 + ID_BYTES);
  return packet;
}

/** True with a version negotiation packet for this greeting. Rejects with the socket's error. */
async function answer(socket: ReturnType<typeof udpSocket>, sent: Buffer): Promise<boolean> {
  for (;;) {
    const [packet] = (await once(socket, 'message')) as [Buffer];
    const isLong = packet.length > 6 + ID_BYTES && ((packet[0] as number) & 0x80) !== 0;
    // It comes back to the ID that this side chose for itself.
    const isMine = packet.subarray(6, 6 + ID_BYTES).equals(sent.subarray(7 + ID_BYTES, 7 + 2 * ID_BYTES));
    if (isLong && packet.readUInt32BE(1) === 0 && isMine) return true;
  }
}
