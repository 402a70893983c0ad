/** What a view of other processes makes of their sockets. */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { RemoteFeed } from '../../src/cli/status-client.js';
import { eventually } from '../support/eventually.js';
import { ModelBench } from '../support/figures.js';

it('a process that sends nothing more is said to be silent, until it sends again', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'tunnel-status-'));
  const bench = new ModelBench();
  const tell = (socket: Socket) =>
    socket.write(`${JSON.stringify({ type: 'snapshot', snapshot: bench.snapshot() })}\n`);
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket.on('error', () => undefined).resume());
    tell(socket);
  }).listen(join(folder, '4242.sock'));
  await once(server, 'listening');
  const feed = new RemoteFeed(folder, { silentMs: 500 });
  await feed.start();
  const silent = () => feed.current().map(({ silentMs }) => silentMs !== undefined);
  expect(await eventually(() => silent()[0] === false)).toBe(true);
  expect(await eventually(() => silent()[0] === true)).toBe(true);
  // The first only looked whether anybody listens.
  tell(sockets.at(-1) as Socket);
  expect(await eventually(() => silent()[0] === false)).toBe(true);
  feed.close();
  bench.model.close();
  await new Promise((resolve) => server.close(resolve));
  rmSync(folder, { recursive: true });
});
