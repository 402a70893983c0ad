/** The faults are faults, and the test networks leave nothing behind. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { describeFaults } from '../support/describe-faults.js';
import { eventually } from '../support/eventually.js';
import { Network } from '../support/netns.js';

const PROBE = fileURLToPath(new URL('../support/udp-probe.js', import.meta.url));
const namespaces = () =>
  execFileSync('ip', ['netns', 'list'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });

describeFaults('a test network', () => {
  let network: Network;
  let port: number;

  beforeAll(async () => {
    network = await Network.create();
    const echo = network.far.spawn(process.execPath, [PROBE]);
    const [line] = (await once(echo.stdout?.setEncoding('utf8') as NodeJS.ReadableStream, 'data')) as [
      string,
    ];
    port = Number(line);
  });

  afterAll(async () => {
    await network.dispose();
    expect(namespaces()).not.toContain(network.near.namespace);
  });

  /** How many of ten packets came back. */
  const answered = async (): Promise<number> =>
    Number(await network.near.run(process.execPath, [PROBE, network.far.address, String(port), '10']));

  it('joins two hosts', async () => {
    expect(await answered()).toBe(10);
  });

  it('drops everything while it is cut, and nothing when it is mended', async () => {
    await network.cut();
    expect(await answered()).toBe(0);
    await network.mend();
    expect(await answered()).toBe(10);
  });

  it('drops a share of the packets', async () => {
    await network.lose(50);
    const got = (await answered()) + (await answered()) + (await answered());
    await network.lose(0);
    expect(got).toBeGreaterThan(0);
    expect(got).toBeLessThan(30);
  });

  it('takes a link down and up, and changes an address', async () => {
    await network.near.linkDown();
    expect(await answered()).toBe(0);
    await network.near.linkUp();
    expect(await answered()).toBe(10);
    const before = network.near.address;
    await network.near.changeAddress();
    expect(network.near.address).not.toBe(before);
    expect(await answered()).toBe(10);
  });

  it('hands out sockets of its hosts', async () => {
    const listener = await network.far.listen((socket) => socket.pipe(socket));
    // The port is the far host's: nobody listens on it in the near one.
    await expect(network.near.dial(listener.port)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    const socket = await network.far.dial(listener.port);
    socket.end('to and fro');
    let got = '';
    for await (const chunk of socket) got += chunk;
    expect(got).toBe('to and fro');
    await listener.close();
  });

  it('is removed, with the processes in it, when the test process is killed', async () => {
    const program = fileURLToPath(new URL('../support/netns-child.ts', import.meta.url));
    const child = spawn(process.execPath, ['--import', 'tsx', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [line] = (await once(child.stdout.setEncoding('utf8'), 'data')) as [string];
    expect(namespaces()).toContain(line.trim());
    child.kill('SIGKILL');
    await once(child, 'exit');
    expect(await eventually(() => !namespaces().includes(line.trim()))).toBe(true);
  });
});
