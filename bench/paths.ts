/**
 * How a connection comes to be: by which path, how soon, and how fast it then is; then `wan.ts`. Two sites
 * behind NATs and two relays in network namespaces (`test/support/topology.ts`; needs root and openssl).
 *
 * `npm run bench:paths [-- --quick]`: about fifteen minutes, and four.
 *
 * Times are from the start of `tunnel forward`, so they have the start of Node in them, which the first
 * column tells. Every link is as fast as this machine.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { type HostListener, namespacesMissing } from '../test/support/netns.js';
import { type NatKind, RELAY_ADDRESSES, Topology } from '../test/support/topology.js';
import { Machine } from '../test/support/tunnel-process.js';

const { values: args } = parseArgs({ options: { quick: { type: 'boolean', default: false } } });
const TRANSFER_MS = args.quick ? 2000 : 5000;
/** A direct path that has not come by then will not come. */
const DIRECT_MS = 15_000;
const CHUNK = Buffer.alloc(256 * 1024, 'x');
const say = (text: string) => console.log(text);

interface Case {
  readonly name: string;
  readonly left: NatKind;
  readonly right: NatKind;
  readonly relays: boolean;
  readonly dropUdp?: boolean;
}

const CASES: readonly Case[] = [
  { name: 'by ticket, no NAT, no relay', left: 'none', right: 'none', relays: false },
  { name: 'full-cone, full-cone', left: 'full-cone', right: 'full-cone', relays: true },
  {
    name: 'port-restricted, port-restricted',
    left: 'port-restricted',
    right: 'port-restricted',
    relays: true,
  },
  { name: 'symmetric, full-cone', left: 'symmetric', right: 'full-cone', relays: true },
  { name: 'symmetric, symmetric', left: 'symmetric', right: 'symmetric', relays: true },
  { name: 'no UDP', left: 'none', right: 'none', relays: true, dropUdp: true },
];

interface Figures {
  readonly startMs: number;
  readonly connectedMs: number;
  readonly firstByteMs: number;
  readonly directMs: number | undefined;
  readonly path: string;
  readonly megabytesPerSecond: number;
}

async function measure(one: Case, folder: string): Promise<Figures> {
  const topology = await Topology.create();
  const machines: Machine[] = [];
  let target: HostListener | undefined;
  const machine = (namespace: string) => {
    const made = new Machine({ namespace, bind: 'any', eventTimeoutMs: 60_000 });
    machines.push(made);
    return made;
  };
  try {
    await topology.left.nat(one.left);
    await topology.right.nat(one.right);
    if (one.dropUdp) await topology.left.dropUdp(true);
    const flags = ['--no-lan'];
    if (one.relays) {
      for (const address of RELAY_ADDRESSES) {
        const relay = machine(topology.internet.namespace).startAs(
          ...['relay', '--listen', `${address}:443`, '--json'],
          ...['--cert', join(folder, 'cert.pem'), '--key', join(folder, 'key.pem')],
        );
        await relay.event('ready');
        flags.push('--relay', `https://${address}/`);
      }
    } else {
      flags.push('--no-relay');
    }
    let arrived = 0;
    target = await topology.right.host.listen((socket) => {
      socket.write('.');
      socket.on('data', (chunk: Buffer) => {
        arrived += chunk.length;
      });
    });
    const far = machine(topology.right.host.namespace);
    const expose = far.startAs('expose', `bulk=${target.port}`, ...flags, '--json');
    const ticket = (await expose.event('ready')).ticket as string;
    // The relay that it calls its own is found within this time; a ticket is not used in the same second.
    await sleep(3000);
    const near = machine(topology.left.host.namespace);
    const startedAt = performance.now();
    const since = () => Math.round(performance.now() - startedAt);
    const forward = near.startAs('forward', ticket, '0:bulk', ...flags, '--json');
    const port = await forward.listeningPort();
    const startMs = since();
    const app = await topology.left.host.dial(port);
    const firstByte = new Promise<number>((resolve) => app.once('data', () => resolve(since())));
    const session = await forward.event('session', { state: 'connected' });
    const connectedMs = since();
    const firstByteMs = await firstByte;
    let directMs = session.path === 'iroh-direct' ? connectedMs : undefined;
    if (directMs === undefined) {
      const direct = forward.event('path', { path: 'iroh-direct' }).then(since, () => undefined);
      directMs = await Promise.race([direct, sleep(DIRECT_MS, undefined, { ref: false })]);
    }
    const megabytesPerSecond = await throughput(app, () => arrived);
    return {
      startMs,
      connectedMs,
      firstByteMs,
      directMs,
      path: directMs === undefined ? 'iroh-relay' : 'iroh-direct',
      megabytesPerSecond,
    };
  } finally {
    for (const one of machines.reverse()) await one.dispose();
    await topology.dispose();
    // Last: nothing else keeps this process while the others are waited for.
    await target?.close();
  }
}

async function throughput(app: Socket, arrived: () => number): Promise<number> {
  let over = false;
  const pump = () => {
    while (!over && app.write(CHUNK));
  };
  app.on('drain', pump);
  const startedAt = performance.now();
  pump();
  await sleep(TRANSFER_MS);
  const figure = arrived() / (performance.now() - startedAt) / 1000;
  over = true;
  app.destroy();
  return figure;
}

async function main(): Promise<void> {
  if (namespacesMissing !== undefined) {
    say(`nothing is measured: ${namespacesMissing}`);
    return;
  }
  const folder = mkdtempSync(join(tmpdir(), 'tunnel-bench-paths-'));
  try {
    execFileSync(
      'openssl',
      [
        ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'],
        ...['-keyout', join(folder, 'key.pem'), '-out', join(folder, 'cert.pem')],
        ...['-days', '2', '-subj', '/CN=relay.test', '-addext', 'basicConstraints=critical,CA:FALSE'],
        ...['-addext', `subjectAltName=${RELAY_ADDRESSES.map((one) => `IP:${one}`).join(',')}`],
      ],
      { stdio: 'ignore' },
    );
    process.env.NODE_EXTRA_CA_CERTS = join(folder, 'cert.pem');
    say(row(['', 'listening', 'connected', 'first byte', 'direct', 'path', 'MB/s, one stream']));
    for (const one of CASES) {
      const { startMs, connectedMs, firstByteMs, directMs, path, megabytesPerSecond } = await measure(
        one,
        folder,
      );
      const direct = directMs === undefined ? 'never' : `${directMs} ms`;
      say(
        row([
          ...[one.name, `${startMs} ms`, `${connectedMs} ms`, `${firstByteMs} ms`],
          ...[direct, path, megabytesPerSecond.toFixed(1)],
        ]),
      );
    }
  } finally {
    delete process.env.NODE_EXTRA_CA_CERTS;
    rmSync(folder, { recursive: true, force: true });
  }
  say('');
  // In a process of its own, as it is run alone.
  const wan = [fileURLToPath(new URL('./wan.ts', import.meta.url)), ...(args.quick ? ['--quick'] : [])];
  const { status } = spawnSync(process.execPath, [...process.execArgv, ...wan], { stdio: 'inherit' });
  process.exitCode = status ?? 1;
}

function row(cells: readonly string[]): string {
  const widths = [32, 9, 9, 10, 9, 11, 16];
  const padded = cells.map((cell, index) =>
    index === 0 ? cell.padEnd(widths[0] as number) : cell.padStart(widths[index] as number),
  );
  return `| ${padded.join(' | ')} |`;
}

await main();
