/** A fault in the program: what it carried is reset, and the end is told in words. */
import type { Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { dial, endOf, listen } from '../support/sockets.js';
import { Machine } from '../support/tunnel-process.js';

/** Node runs it before the program, in every process that is started with it. */
const FAULT = "process.on('SIGUSR2', () => { throw new Error('a fault of the test'); });";

const cleanups: (() => Promise<void>)[] = [];
const options = process.env.NODE_OPTIONS;

afterEach(async () => {
  if (options === undefined) delete process.env.NODE_OPTIONS;
  else process.env.NODE_OPTIONS = options;
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

describe.skipIf(process.platform === 'win32')('an exception that nothing caught', () => {
  it.each(['forward', 'expose'] as const)('in the %s resets its connections', async (which) => {
    process.env.NODE_OPTIONS = `--import=data:text/javascript,${encodeURIComponent(FAULT)}`;
    let take!: (socket: Socket) => void;
    const accepted = new Promise<Socket>((resolve) => {
      take = resolve;
    });
    const target = await listen(take);
    cleanups.push(() => target.close());
    const here = new Machine();
    const there = new Machine();
    cleanups.push(
      () => here.dispose(),
      () => there.dispose(),
    );
    const { process: expose, ticket } = await here.expose(`svc=${target.port}`);
    const { process: forward, port } = await there.forward(ticket, 'svc');
    const app = await dial(port);
    const service = await accepted;
    const ending = endOf(which === 'forward' ? app : service);
    app.resume();
    service.resume();
    const faulty = which === 'forward' ? forward : expose;
    faulty.kill('SIGUSR2');
    expect(await ending).toBe('reset');
    expect(await faulty.exited).toBe(70);
    expect(faulty.stderr).toContain('a fault of this program ended it: a fault of the test');
    expect(faulty.stderr).not.toMatch(/^ +at /m);
    expect(await faulty.event('error')).toMatchObject({ code: 'INTERNAL', hint: expect.any(String) });
    app.destroy();
  });
});
