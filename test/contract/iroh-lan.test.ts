/** Who is seen on the local network, in a network namespace of its own. */
import type { ChildProcess } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { NearbyNode } from '../../src/session/engines/iroh-network.js';
import { Network, namespacesMissing } from '../support/netns.js';

const SCRIPT = fileURLToPath(new URL('../support/lan-child.ts', import.meta.url));

type Lines = AsyncIterator<string>;

interface Started {
  readonly nodeId: string;
  readonly errors: object;
}

describe.skipIf(namespacesMissing)('iroh: the local network', { timeout: 60_000 }, () => {
  let network: Network;
  const children: ChildProcess[] = [];

  beforeAll(async () => {
    network = await Network.create();
  });

  afterAll(async () => {
    for (const child of children) child.kill('SIGKILL');
    await network.dispose();
  });

  async function start(...args: string[]): Promise<{ child: ChildProcess; lines: Lines } & Started> {
    const child = network.near.spawn(process.execPath, ['--import', 'tsx', SCRIPT, ...args]);
    children.push(child);
    const input = child.stdout as NodeJS.ReadableStream;
    const lines = createInterface({ input })[Symbol.asyncIterator]();
    return { child, lines, ...(JSON.parse(await next(lines)) as Started) };
  }

  async function next(lines: Lines): Promise<string> {
    const { value, done } = await lines.next();
    if (done) throw new Error('the process has ended');
    return value;
  }

  async function nearby(lines: Lines, as: (nodes: readonly NearbyNode[]) => boolean) {
    for (;;) {
      const nodes = JSON.parse(await next(lines)) as readonly NearbyNode[];
      if (as(nodes)) return nodes;
    }
  }

  async function leaveIpv4(): Promise<string> {
    const { near } = network;
    const address = 'fd00:77::2';
    await near.run('sh', ['-c', 'echo 0 > /proc/sys/net/ipv6/conf/net0/disable_ipv6']);
    await near.run('ip', ['addr', 'add', `${address}/64`, 'dev', 'net0', 'nodad']);
    await near.run('ip', ['-4', 'addr', 'flush', 'dev', 'net0']);
    return `[${address}]`;
  }

  it.each([4, 6])(
    'by IPv%i shows a node that announces itself, under its name, until it is gone; not one that only looks',
    async (family) => {
      const host = family === 4 ? network.near.address : await leaveIpv4();
      const looking = await start();
      expect(looking.errors).toEqual({});
      const announced = await start('the workshop');
      const named = ({ name }: NearbyNode) => name === 'the workshop';
      const seen = await nearby(looking.lines, (nodes) => nodes.some(named));
      expect(seen).toEqual([
        { nodeId: announced.nodeId, name: 'the workshop', hints: { direct: expect.any(Array), relays: [] } },
      ]);
      expect(seen[0]?.hints.direct.some((address) => address.startsWith(`${host}:`))).toBe(true);
      announced.child.kill('SIGTERM');
      await nearby(looking.lines, (nodes) => nodes.length === 0);
    },
  );
});
