/** Who is seen on the local network, by real processes in a network namespace of their own. */
import { readFile } from 'node:fs/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { eventually } from '../support/eventually.js';
import { Network, namespacesMissing } from '../support/netns.js';
import { type JsonEvent, Machine } from '../support/tunnel-process.js';

interface Node {
  readonly name: string;
  readonly nodeId: string;
  readonly addresses: readonly string[];
  readonly specs: readonly string[];
  readonly forward: string;
  readonly peer?: string;
}

describe('bad flags', () => {
  it.each([
    ['expose', ['8080', '--announce', 'x', '--no-lan'], '--no-lan'],
    ['expose', ['8080', '--announce', 'x', '--bind', '127.0.0.1'], '127.0.0.1'],
    ['expose', ['8080', '--announce=a;b'], "'a;b'"],
    ['peers', ['nearby', '--timeout', '2h'], "'2h'"],
    ['peers', ['nearby', '--bind', '::1'], '::1'],
  ])('%s %j ends with 64 and one sentence', async (command, args, token) => {
    const machine = new Machine();
    const { code, stdout, stderr } = await machine.run(command, ...args);
    expect({ code, stdout, lines: stderr.trim().split('\n').length }).toEqual({
      code: 64,
      stdout: '',
      lines: 1,
    });
    expect(stderr).toContain(token);
    await machine.dispose();
  });
});

describe.skipIf(namespacesMissing)('tunnel peers nearby', () => {
  let network: Network;
  const machines: Machine[] = [];

  beforeAll(async () => {
    network = await Network.create();
  });

  afterEach(async () => {
    for (const machine of machines.splice(0)) await machine.dispose();
  });

  afterAll(() => network.dispose());

  function machine(): Machine {
    const made = new Machine({ namespace: network.near.namespace, bind: 'any' });
    machines.push(made);
    return made;
  }

  async function nearby(looking: Machine, ...flags: string[]): Promise<readonly Node[]> {
    const { code, stdout, stderr } = await looking.run('peers', 'nearby', '--json', ...flags);
    expect([code, stderr]).toEqual([0, '']);
    const [event, ...more] = stdout.trim().split('\n');
    expect(more).toEqual([]);
    return (JSON.parse(event as string) as JsonEvent).nodes as readonly Node[];
  }

  it('lists who announces itself, with what it offers, and nobody else', async () => {
    const [named, silent, looking] = [machine(), machine(), machine()];
    const shown = await named.expose('8080', 'db=5432', 'dns=udp:5300', '--announce', 'the workshop');
    expect(shown.process.events[0]).toMatchObject({ event: 'ready', announced: 'the workshop' });
    const hidden = await silent.expose('9090');
    expect(hidden.process.events[0]).not.toHaveProperty('announced');
    await looking.run('peers', 'add', 'ada', shown.nodeId);
    const nodes = await nearby(looking);
    expect(nodes).toEqual([
      {
        name: 'the workshop',
        nodeId: shown.nodeId,
        addresses: [expect.stringMatching(new RegExp(`^${network.near.address}:\\d+$`))],
        specs: ['8080', '5432:db', '5300:dns/udp'],
        forward: expect.stringMatching(new RegExp(`forward ${shown.nodeId} 8080 5432:db 5300:dns/udp$`)),
        peer: 'ada',
      },
    ]);

    // The line is the one to run: as soon as the node lets this one in, it works as it is printed.
    const self = await looking.nodeId();
    expect((await named.run('peers', 'allow', self, '--all', '--name', 'eve')).code).toBe(0);
    const [, line] = (nodes[0] as Node).forward.split(' forward ') as [string, string];
    const forward = looking.start('forward', ...line.split(' '));
    expect(await forward.event('session', { state: 'connected' })).toMatchObject({ path: 'iroh-direct' });

    // Not shown is not the same as not there: who knows the ID still finds it.
    expect((await silent.run('peers', 'allow', self, '--all', '--name', 'eve')).code).toBe(0);
    const ping = looking.start('ping', hidden.nodeId);
    expect(await ping.exited).toBe(0);
  });

  it('sees that a node is gone, and takes the time it is given', async () => {
    const [named, looking] = [machine(), machine()];
    const { process } = await named.expose('8080', '--announce');
    expect((await nearby(looking)).map(({ specs }) => specs)).toEqual([['8080']]);
    process.kill('SIGTERM');
    expect(await process.exited).toBe(0);
    const startedAt = performance.now();
    expect(await nearby(looking, '--timeout', '1s')).toEqual([]);
    expect(performance.now() - startedAt).toBeGreaterThan(1000);
    const { stdout } = await looking.run('peers', 'nearby', '--timeout', '300ms');
    expect(stdout).toBe(
      'nobody on this network shows itself; a machine does with: tunnel expose … --announce\n',
    );
  });

  it('ends with 130 when it is interrupted, with what it has', async () => {
    const looking = machine();
    const process = looking.startAs('peers', 'nearby', '--timeout', '50s', '--json', '--log-level', 'debug');
    // The port of mDNS, bound: it is looking.
    const looks = async () => (await readFile(`/proc/${process.pid}/net/udp`, 'utf8')).includes(':14E9 ');
    expect(await eventually(looks, 20_000)).toBe(true);
    process.kill('SIGINT');
    expect(await process.exited).toBe(130);
  });
});
