/** What a long line does to the start of a session. */
import { afterEach, expect, it } from 'vitest';
import { describeFaults } from '../support/describe-faults.js';
import { Machine } from '../support/tunnel-process.js';
import { type LineProperties, Wan } from '../support/wan.js';

const MIB = 1024 * 1024;
const LINE: LineProperties = { bytesPerSecond: 10 * MIB, delayMs: 20, lossRatio: 0, queueBytes: 8 * MIB };

const cleanUp: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const undo of cleanUp.splice(0).reverse()) await undo();
});

describeFaults('a line that loses the first packet of a handshake', () => {
  it('takes a second more to connect, and is filled all the same', async () => {
    const wan = await Wan.create();
    cleanUp.push(() => wan.dispose());
    await wan.set(LINE);
    let received = 0;
    const target = await wan.far.listen((socket) => socket.on('data', (chunk) => (received += chunk.length)));
    cleanUp.push(() => target.close());
    const far = new Machine({ namespace: wan.far.namespace, bind: Wan.FAR });
    const near = new Machine({ namespace: wan.near.namespace, bind: Wan.NEAR, eventTimeoutMs: 60_000 });
    cleanUp.push(
      () => far.dispose(),
      () => near.dispose(),
    );
    const { ticket } = await far.expose(`svc=${target.port}`);
    await wan.set({ ...LINE, lossRatio: 1 });
    const forward = near.start('forward', ticket, '0:svc');
    await expect
      .poll(async () => (await wan.set({ ...LINE, lossRatio: 1 })).lost, { timeout: 30_000 })
      .toBeGreaterThan(0);
    await wan.set(LINE);
    const port = await forward.listeningPort();
    await forward.event('session', { state: 'connected' });
    const socket = await wan.near.dial(port);
    socket.write(Buffer.alloc(4 * MIB));
    await expect.poll(() => received, { timeout: 60_000 }).toBe(4 * MIB);

    const { stdout } = await near.run('status', '--json');
    const [session] = JSON.parse(stdout).processes[0].sessions;
    // Of a start that ended with the handshake: some 10 packets, a few more by now.
    expect(session.congestionWindow).toBeGreaterThan(256 * 1024);
    expect((await wan.set(LINE)).lost).toBe(0);
    socket.destroy();
  }, 120_000);
});
