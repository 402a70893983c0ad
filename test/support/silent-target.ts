/** A target that reads nothing, in a process of its own, so that its death is a reset. */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { expect } from 'vitest';
import type { Network } from './netns.js';
import type { Rig } from './rig.js';
import { endOf } from './sockets.js';

const KIB = 1024;

/** A target in a process of its own that never reads, so that its death is a reset. */
export async function startSilentTarget(network: Network): Promise<{ child: ChildProcess; port: number }> {
  const child = network.far.spawn(process.execPath, ['-e', SILENT_TARGET]);
  const lines = createInterface({ input: child.stdout as NodeJS.ReadableStream });
  const [line] = (await once(lines, 'line')) as [string];
  return { child, port: Number(line) };
}

const SILENT_TARGET = `
const server = require('net').createServer({ pauseOnConnect: true }, () => undefined);
server.listen(0, '127.0.0.1', () => console.log(server.address().port));`;

/** A connection to that target with an upload that has got stuck. */
export async function openDoomed(rig: Rig, bytes: number): Promise<Socket> {
  const socket = await rig.network.near.dial(await rig.portOf('doomed'));
  socket.resume();
  const chunk = Buffer.alloc(64 * KIB);
  for (let sent = 0; sent < bytes && socket.write(chunk); sent += chunk.length);
  return socket;
}

export async function doomedEnds(socket: Socket): Promise<void> {
  expect(socket.errored ? 'reset' : await endOf(socket)).toBe('reset');
}
