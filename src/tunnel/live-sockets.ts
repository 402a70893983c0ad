/** The applications' sockets of this process, for the moment in which nobody else can reset them. */
import type { Socket } from 'node:net';

const sockets = new Set<Socket>();

/** Counts `socket` in until it is closed. */
export function keepLive(socket: Socket): void {
  sockets.add(socket);
  socket.once('close', () => sockets.delete(socket));
}

/** At once, for a process that is about to end: the kernel would close them, which looks like an end. */
export function resetLive(): void {
  for (const socket of sockets) {
    try {
      socket.resetAndDestroy();
    } catch {
      // A unix socket knows no reset.
    }
  }
}
