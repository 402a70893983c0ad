/**
 * What the dashboard costs: `npx tsx bench/dashboard.ts [--rounds 3] [--seconds 3]`, after `npm run build`.
 *
 * A forward with it and one with `--plain` take turns in every round, both in a terminal of tmux, each with
 * 1,000 open connections beside the transfer. Then its CPU when nothing happens, its first frame, and the
 * time of a frame with 10,000 channels. Everything on loopback.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { mountBuilt } from '../test/support/built-dashboard.js';
import { ManualFeed, ModelBench } from '../test/support/figures.js';
import { NO_TMUX, Terminal } from '../test/support/terminal.js';
import { TUNNEL } from './support/contenders.js';
import { cpuSeconds, Helper, onExit, scratchPath, start } from './support/processes.js';
import { type Goal, goalLine, median, type Rounds, ratio } from './support/report.js';

const { values: args } = parseArgs({
  options: { rounds: { type: 'string', default: '3' }, seconds: { type: 'string', default: '3' } },
});
const rounds = Number(args.rounds);
const seconds = Number(args.seconds);
const CHANNELS = 1000;
const STREAMS = 4;
const IDLE_SECONDS = 10;
const STARTS = 5;
const FRAMES = 100;

const LOCAL = ['--no-relay', '--bind', '127.0.0.1'];

async function helperPort(role: string): Promise<number> {
  return (await new Helper('./load.ts', [role]).next<{ port: number }>()).port;
}

async function startExpose(): Promise<string> {
  const services = [`bulk=${await helperPort('bulk-server')}`, `echo=${await helperPort('echo-server')}`];
  const env = { TUNNEL_HOME: scratchPath('expose') };
  const child = start('expose', process.execPath, [TUNNEL, 'expose', ...services, '--json', ...LOCAL], env);
  return (await child.waitFor(/"ticket":"([^"]+)"/))[1] as string;
}

interface Forward {
  readonly terminal: Terminal;
  readonly pid: number;
  readonly bulk: number;
  readonly echo: number;
}

async function startForward(ticket: string, flags = ''): Promise<Forward> {
  const terminal = new Terminal(
    `node ${TUNNEL} forward '${ticket}' 0:bulk 0:echo ${LOCAL.join(' ')} ${flags}`,
    { columns: 120, rows: 40, env: { TUNNEL_HOME: scratchPath('forward') } },
  );
  onExit(() => terminal.close());
  const port = async (name: string) => {
    const route = new RegExp(`127\\.0\\.0\\.1:(\\d+) → ${name}`);
    return Number(route.exec(await terminal.until(route))?.[1]);
  };
  const forward = { terminal, bulk: await port('bulk'), echo: await port('echo'), pid: terminal.pid() };
  await terminal.until(flags === '' ? /● .*iroh-direct/ : /connected to .*iroh-direct/);
  return forward;
}

async function throughput(ticket: string, flags: string): Promise<number> {
  const forward = await startForward(ticket, flags);
  const holder = new Helper('./load.ts', ['hold', JSON.stringify({ port: forward.echo, count: CHANNELS })]);
  await holder.next();
  const options = { port: forward.bulk, streams: STREAMS, reverse: true, seconds };
  const mover = new Helper('./load.ts', ['bulk', JSON.stringify(options)]);
  const moved = await mover.next<{ bytes: number; seconds: number }>(120_000);
  await mover.stop();
  if (flags === '') await forward.terminal.until(/CHANNELS 1,?00\d/);
  await holder.stop();
  forward.terminal.close();
  return moved.bytes / moved.seconds / 1e6;
}

/** Percent of one core. */
async function idle(ticket: string, flags: string): Promise<number> {
  const { terminal, pid } = await startForward(ticket, flags);
  await sleep(3000);
  const before = cpuSeconds([pid]);
  await sleep(IDLE_SECONDS * 1000);
  const spent = cpuSeconds([pid]) - before;
  terminal.close();
  return (spent / IDLE_SECONDS) * 100;
}

/** Milliseconds from the start of Node until the panes have been written to a terminal (of `script`). */
async function firstFrame(ticket: string): Promise<number> {
  const forward = `exec env -u CI node ${TUNNEL} forward '${ticket}' 0:echo ${LOCAL.join(' ')}`;
  const began = performance.now();
  const env = { TUNNEL_HOME: scratchPath('forward'), TERM: 'xterm-256color' };
  const child = start('script', 'script', ['-qfec', forward, '/dev/null'], env);
  await child.waitFor(/▸CHANNELS/, 15_000, 2);
  const elapsed = performance.now() - began;
  await child.stop();
  return elapsed;
}

/** Milliseconds for a sample, a snapshot and the whole frame, with every channel moving. */
async function frames(count: number): Promise<readonly number[]> {
  const bench = new ModelBench();
  bench.listening('127.0.0.1:1');
  for (let id = 1; id <= count; id += 1) bench.open(id);
  const feed = new ManualFeed(bench.snapshot({ sort: 'rate', limit: 500 }));
  const dashboard = await mountBuilt(feed, 200, 60);
  const times: number[] = [];
  for (let frame = 0; frame < FRAMES; frame += 1) {
    await sleep(20);
    for (const figures of bench.channels.values()) figures.bytesIn += Math.floor(Math.random() * 100_000);
    const painted = dashboard.nextFrame();
    const began = performance.now();
    bench.after(250);
    feed.show(bench.snapshot({ sort: 'rate', limit: 500 }));
    await painted;
    times.push(performance.now() - began);
  }
  dashboard.unmount();
  bench.model.close();
  return times.sort((a, b) => a - b);
}

async function main(): Promise<void> {
  if (NO_TMUX) throw new Error(`${NO_TMUX}; the dashboard needs a terminal`);
  const ticket = await startExpose();
  const moved: Rounds = new Map([
    ['dashboard', []],
    ['plain', []],
  ]);
  for (let round = 1; round <= rounds; round += 1) {
    process.stderr.write(`round ${round} of ${rounds}\n`);
    const order = [
      ['dashboard', ''],
      ['plain', '--plain'],
    ] as const;
    for (const [name, flags] of round % 2 === 1 ? order : order.toReversed()) {
      moved.get(name)?.push(await throughput(ticket, flags));
    }
  }
  const starts: number[] = [];
  for (let at = 0; at < STARTS; at += 1) starts.push(await firstFrame(ticket));
  const times = await frames(10_000);
  const goals: readonly Goal[] = [
    {
      what: `throughput with ${CHANNELS} channels, of plain`,
      bound: '≥',
      wanted: 97,
      unit: '%',
      value: ratio(moved, 'dashboard', 'plain') * 100,
      digits: 1,
    },
    {
      what: 'CPU when nothing happens',
      bound: '≤',
      wanted: 2,
      unit: '%',
      value: await idle(ticket, ''),
      digits: 2,
    },
    { what: 'first frame', bound: '≤', wanted: 600, unit: 'ms', value: median(starts), digits: 0 },
    {
      what: 'a frame with 10000 channels, p95',
      bound: '≤',
      wanted: 50,
      unit: 'ms',
      value: times[Math.floor(times.length * 0.95)] as number,
      digits: 1,
    },
  ];
  const rate = (name: string) => median(moved.get(name) ?? []).toFixed(0);
  console.log(`MB/s with ${CHANNELS} channels: dashboard ${rate('dashboard')}, plain ${rate('plain')}`);
  console.log(`a frame with 10000 channels: p50 ${median(times).toFixed(1)} ms`);
  console.log(`CPU of one core when nothing happens, plain: ${(await idle(ticket, '--plain')).toFixed(2)} %`);
  for (const goal of goals) console.log(goalLine(goal));
}

await main();
process.exit(0);
