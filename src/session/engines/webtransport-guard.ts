/**
 * Holds a listener's TCP connections: each has so long to prove a node ID, so many may be trying at once,
 * and none is left when the listener closes. The library does none of this, and its own close waits for ever.
 */
import type { Server, Socket } from 'node:net';

/** Connections at once that have proven nothing yet. */
const MAX_UNPROVEN = 256;

interface Guarded {
  readonly socket: Socket;
  timer: NodeJS.Timeout | undefined;
}

export class ConnectionGuard {
  readonly #connections = new Map<string, Guarded>();
  readonly #timeoutMs: number;
  #unproven = 0;

  constructor(server: Server, timeoutMs: number) {
    this.#timeoutMs = timeoutMs;
    server.on('connection', (socket) => this.#hold(socket));
  }

  /** The connection from this address may stay. */
  proven(remote: string): void {
    const connection = this.#connections.get(remote);
    if (!connection?.timer) return;
    clearTimeout(connection.timer);
    connection.timer = undefined;
    this.#unproven -= 1;
  }

  destroy(remote: string): void {
    this.#connections.get(remote)?.socket.destroy();
  }

  destroyAll(): void {
    for (const { socket } of this.#connections.values()) socket.destroy();
  }

  #hold(socket: Socket): void {
    if (this.#unproven >= MAX_UNPROVEN) {
      socket.destroy();
      return;
    }
    const remote = remoteOf(socket);
    const timer = setTimeout(() => socket.destroy(), this.#timeoutMs);
    timer.unref();
    this.#unproven += 1;
    this.#connections.set(remote, { socket, timer });
    socket.once('close', () => {
      this.proven(remote);
      this.#connections.delete(remote);
    });
  }
}

/** `ip:port`, IPv6 in brackets. */
export function remoteOf(socket: {
  readonly remoteAddress?: string | undefined;
  readonly remotePort?: number | undefined;
}): string {
  const { remoteAddress = '', remotePort = 0 } = socket;
  return remoteAddress.includes(':') ? `[${remoteAddress}]:${remotePort}` : `${remoteAddress}:${remotePort}`;
}
