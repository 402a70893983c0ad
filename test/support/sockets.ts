/** Raw TCP clients and servers for tests: every end of a connection told apart. */

import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { confirmEnd, holdOpen } from '../../src/tunnel/true-end.js';

export type Ending = 'end' | 'reset' | 'closed';

export async function listen(
  onConnection: (socket: Socket) => void,
): Promise<{ server: Server; port: number; close(): Promise<void> }> {
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('close', () => sockets.delete(socket));
    onConnection(socket);
  });
  server.listen({ port: 0, host: '127.0.0.1', backlog: 1024 });
  await once(server, 'listening');
  return {
    server,
    port: (server.address() as AddressInfo).port,
    close: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}

/** A connection that was there, also where its reset comes before the connect is reported: see `endOf`. */
export async function dial(port: number): Promise<Socket> {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  await once(socket, 'connect').catch((error) => {
    if (!isReset(error)) throw error;
  });
  return socket;
}

function isReset(error: NodeJS.ErrnoException | null): boolean {
  return error?.code === 'ECONNRESET';
}

/** Reads to the end, whatever it is. */
export async function readAll(socket: Socket): Promise<{ ending: Ending; bytes: number; sha256: string }> {
  const hash = createHash('sha256');
  let bytes = 0;
  socket.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    hash.update(chunk);
  });
  const ending = await endOf(socket);
  return { ending, bytes, sha256: hash.digest('hex') };
}

/** How a socket ended: a clean end of file, or a reset (ECONNRESET). */
export function endOf(socket: Socket): Promise<Ending> {
  if (isReset(socket.errored)) return Promise.resolve('reset');
  holdOpen(socket);
  return new Promise((resolve) => {
    // Where libuv takes a reset for an end of file, the test must not either.
    socket.once('end', () => confirmEnd(socket, () => resolve('end')));
    socket.once('error', (error: NodeJS.ErrnoException) => resolve(isReset(error) ? 'reset' : 'closed'));
    socket.once('close', () => resolve('closed'));
  });
}

/** Writes respecting backpressure; stops silently when the socket fails. */
export async function writeAll(socket: Socket, data: Buffer, chunkBytes = 64 * 1024): Promise<void> {
  for (let offset = 0; offset < data.length && !socket.destroyed; offset += chunkBytes) {
    if (socket.write(data.subarray(offset, offset + chunkBytes))) continue;
    await drainOrClose(socket);
  }
}

function drainOrClose(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      socket.off('drain', done);
      socket.off('close', done);
      resolve();
    };
    socket.on('drain', done);
    socket.on('close', done);
  });
}

export function sha256(data: Buffer): string {
  return createHash('sha256').update(data).digest('hex');
}

export function random(bytes: number): Buffer {
  return randomBytes(bytes);
}
