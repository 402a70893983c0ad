/** UDP sockets of the system: made, bound, connected, and asked for large buffers. */
import { createSocket, type Socket } from 'node:dgram';
import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';

/** Asked for each way: a burst of some thousand packets while the event loop is elsewhere. */
export const SOCKET_BUFFER_BYTES = 4 * 1024 * 1024;
/** Bytes that may wait in libuv for one socket, beyond the system's own buffer. */
const MAX_SEND_QUEUE_BYTES = 4 * 1024 * 1024;

export interface HostAddress {
  readonly address: string;
  readonly family: 4 | 6;
}

/** Rejects with the system's error (`ENOTFOUND`, `EAI_AGAIN`). The addresses in the resolver's order. */
export async function resolveHost(host: string): Promise<readonly HostAddress[]> {
  const literal = isIP(host.replace(/%.*$/, ''));
  if (literal !== 0) return [{ address: host, family: literal as 4 | 6 }];
  const found = await lookup(host, { all: true });
  return found.map(({ address, family }) => ({ address, family: family as 4 | 6 }));
}

/** A socket that is only ever given addresses: the look-up that `dgram` makes at each send is answered at once. */
export function udpSocket(family: 4 | 6): Socket {
  return createSocket({
    type: family === 6 ? 'udp6' : 'udp4',
    lookup: (address, _options, callback) => callback(null, address, family),
  });
}

/** Throws the system's error. */
export function bindSocket(socket: Socket, port: number, address: string): Promise<void> {
  return settled(socket, 'listening', () => socket.bind({ port, address, exclusive: true }));
}

/** From now on it receives from there only. Throws the system's error. */
export function connectSocket(socket: Socket, port: number, address: string): Promise<void> {
  return settled(socket, 'connect', () => socket.connect(port, address));
}

async function settled(socket: Socket, event: string, begin: () => void): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const onError = (error: Error) => {
      socket.off(event, onDone);
      reject(error);
    };
    const onDone = () => {
      socket.off('error', onError);
      resolve();
    };
    socket.once('error', onError);
    socket.once(event, onDone);
    begin();
  });
}

/** Asks for large buffers; answers the smaller of the two that the system gave, in bytes. */
export function askForBuffers(socket: Socket): number {
  // Linux clips in silence and answers twice what it gave; others refuse what is too large.
  const factor = process.platform === 'linux' ? 2 : 1;
  const ask = (set: (bytes: number) => void, get: () => number) => {
    for (let bytes = SOCKET_BUFFER_BYTES; bytes >= 64 * 1024; bytes /= 2) {
      try {
        set(bytes);
        break;
      } catch {
        // Half of it, then.
      }
    }
    return get() / factor;
  };
  return Math.min(
    ask(
      (bytes) => socket.setRecvBufferSize(bytes),
      () => socket.getRecvBufferSize(),
    ),
    ask(
      (bytes) => socket.setSendBufferSize(bytes),
      () => socket.getSendBufferSize(),
    ),
  );
}

/** The system takes no more now, and what it did not take has become too much. */
export function isCongested(socket: Socket): boolean {
  return socket.getSendQueueSize() > MAX_SEND_QUEUE_BYTES;
}

/** Closes what may be closed, or never opened. */
export function closeSocket(socket: Socket): void {
  try {
    socket.close();
  } catch {
    // Closed before.
  }
}
