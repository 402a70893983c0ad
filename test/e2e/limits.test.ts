/** A process at its limit of open files refuses so that nobody takes it for an answer, and goes on afterwards. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { eventually } from '../support/eventually.js';
import { dial, type Ending, endOf, listen, readAll } from '../support/sockets.js';
import { Machine } from '../support/tunnel-process.js';

const cleanups: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

describe.skipIf(process.platform === 'win32')('a forward that may have 128 files open', () => {
  it('resets what it has no descriptor for, says so, and serves again when there are some', async () => {
    const target = await listen((socket) => socket.pipe(socket));
    const here = new Machine();
    const there = new Machine({ openFiles: 128 });
    cleanups.push(
      () => target.close(),
      () => here.dispose(),
      () => there.dispose(),
    );
    const { ticket } = await here.expose(`svc=${target.port}`);
    const { process: forward, port } = await there.forward(ticket, 'svc');
    const sockets: Socket[] = [];
    const endings: Ending[] = [];
    for (let i = 0; i < 200; i += 1) {
      const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
      sockets.push(socket);
      socket.resume();
      void endOf(socket).then((ending) => endings.push(ending));
      // The reset may be there before the connection is known to be.
      await once(socket, 'connect').catch(() => undefined);
    }
    const error = await forward.event('error', { code: 'OS_RESOURCE' });
    expect(error.hint).toContain('ulimit -n');
    if (process.platform === 'linux') expect(error.message).toContain('the 128 file descriptors');
    const served = () => forward.events.filter(({ event }) => event === 'channel.open').length;
    expect(await eventually(() => served() + endings.length === sockets.length, 10_000)).toBe(true);
    expect(served()).toBeGreaterThan(20);
    expect(new Set(endings)).toEqual(new Set(['reset']));
    for (const socket of sockets) socket.resetAndDestroy();
    const closed = () => forward.events.filter(({ event }) => event === 'channel.close').length;
    expect(await eventually(() => closed() === served(), 10_000)).toBe(true);
    const app = await dial(port);
    app.end('again');
    expect(await readAll(app)).toMatchObject({ ending: 'end', bytes: 5 });
  });
});
