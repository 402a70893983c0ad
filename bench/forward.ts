/**
 * `tunnel expose` and `forward` beside dumbpipe, `ssh -L` and a plain TCP relay, on loopback.
 *
 * `npx tsx bench/forward.ts [--quick] [--only tunnel,dumbpipe,ssh,relay] [--json] [--rounds 3]
 *   [--skip rates,memory,start] [--variant name=path/to/bin/run.js]…`
 *
 * The contenders take turns in every round, so that whatever else the machine does meets them all.
 */
import { cpus } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import {
  type Contender,
  dumbpipe,
  expose,
  findDumbpipe,
  findProgram,
  findSsh,
  type Running,
  relay,
  ssh,
  TUNNEL,
  tunnel,
} from './support/contenders.js';
import { cpuSeconds, freePort, Helper, memoryMb, run, start, waitForListener } from './support/processes.js';
import {
  type Goal,
  goalLine,
  isMet,
  type Metric,
  median,
  type Rounds,
  ratio,
  table,
} from './support/report.js';

const { values: args } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
    only: { type: 'string', default: 'tunnel,dumbpipe,ssh,relay' },
    skip: { type: 'string', default: '' },
    rounds: { type: 'string', default: '3' },
    variant: { type: 'string', multiple: true, default: [] },
  },
});
const only = new Set(args.only.split(','));
const skip = new Set(args.skip.split(','));
const rounds = Number(args.rounds);
const transferSeconds = args.quick ? 1 : 3;
const connectSeconds = args.quick ? 1 : 2;
const pings = args.quick ? 2000 : 5000;
const turns = args.quick ? 3000 : 15_000;
/** V8 has compiled what connections need by then: a tunnel runs for days, and the row before it tells of the rest. */
const WARM_UP_CONNECTIONS = 5000;
/** Until here RSS grows because V8 compiles and its heap finds its size: measured, flat from 10,000 to 60,000. */
const WARM_UP_TURNS = 10_000;
/** What an allocator may keep without anything leaking. */
const GROWTH_NOISE_MB = 8;

const say = (text: string): void => {
  process.stderr.write(`${text}\n`);
};

// ---- load

const iperf3 = findProgram('iperf3');

interface Transfer {
  readonly bytes: number;
  readonly seconds: number;
}

interface TransferOptions {
  readonly streams: number;
  readonly reverse: boolean;
  /** Instead of a time. */
  readonly bytes?: number;
}

async function startBulkServer(): Promise<number> {
  if (!iperf3) return (await new Helper('./load.ts', ['bulk-server']).next<{ port: number }>()).port;
  const port = await freePort();
  start('iperf3', iperf3, ['-s', '-p', String(port), '-B', '127.0.0.1']);
  await waitForListener(port);
  return port;
}

async function startEchoServer(): Promise<number> {
  return (await new Helper('./load.ts', ['echo-server']).next<{ port: number }>()).port;
}

/** Shown with the results. */
const failedTransfers: string[] = [];

async function transfer(
  what: string,
  port: number,
  { streams, reverse, bytes }: TransferOptions,
): Promise<Transfer> {
  if (!iperf3) {
    const amount = bytes === undefined ? { seconds: transferSeconds } : { bytes };
    return load('bulk', { port, streams, reverse, ...amount });
  }
  const amount = bytes === undefined ? ['-t', String(transferSeconds)] : ['-n', String(bytes)];
  const command = ['-c', '127.0.0.1', '-p', String(port), '-J', '-P', String(streams), ...amount];
  if (reverse) command.push('-R');
  for (let attempt = 1; ; attempt += 1) {
    try {
      const text = await run(iperf3, command);
      const result = JSON.parse(text) as { end: { sum_received?: Transfer }; error?: string };
      // It exits 0 also when the server turned it away.
      if (!result.end.sum_received) throw new Error(`iperf3: ${result.error ?? text.slice(-500)}`);
      return result.end.sum_received;
    } catch (error) {
      // The server takes one test at a time and may not have noticed the end of the last one yet. Any
      // other failure is tried again too, for the run's sake, but reported: a tunnel may have lost it.
      if (attempt === 3) throw error;
      if (!/busy/.test(String(error))) {
        failedTransfers.push(`${what}: ${error instanceof Error ? error.message : String(error)}`);
        say(`failed, once more: ${failedTransfers.at(-1)}`);
      }
      await sleep(500);
    }
  }
}

async function load<T>(role: string, options: object): Promise<T> {
  const helper = new Helper('./load.ts', [role, JSON.stringify(options)]);
  try {
    return await helper.next<T>(120_000);
  } finally {
    await helper.stop();
  }
}

// ---- rates

const RATES: readonly Metric[] = [
  { key: 'up', title: 'one stream, client to server, MB/s', digits: 0 },
  { key: 'down', title: 'one stream, server to client, MB/s', digits: 0 },
  { key: 'eight', title: '8 streams, client to server, MB/s', digits: 0 },
  { key: 'cpu', title: 'CPU seconds a GB, both processes', digits: 2 },
  { key: 'connects', title: 'connect+echo a second, one at a time', digits: 0 },
  { key: 'cold', title: '  the first 1,000 of a fresh process', digits: 0 },
  { key: 'connects50', title: 'connect+echo a second, 50 at once', digits: 0 },
  { key: 'p50', title: 'round trip p50, µs', digits: 0 },
  { key: 'p99', title: 'round trip p99, µs', digits: 0 },
];

async function measureRates(contenders: readonly Contender[]): Promise<Map<string, Rounds>> {
  const measured = new Map<string, Rounds>();
  const add = (key: string, name: string, value: number) => {
    const all: Rounds = measured.get(key) ?? new Map<string, number[]>();
    measured.set(key, all);
    all.set(name, [...(all.get(name) ?? []), value]);
  };
  const bulkPort = await startBulkServer();
  const echoPort = await startEchoServer();
  const running: { name: string; bulk: Running; echo: Running }[] = [];
  for (const contender of contenders) {
    const bulk = await contender.start(bulkPort);
    const echo = await contender.start(echoPort);
    await load('verify', { port: echo.port, bytes: 32 * 1024 * 1024 });
    const fresh = { port: echo.port, count: 1000, parallel: 1 };
    add('cold', contender.name, (await load<{ perSecond: number }>('connections', fresh)).perSecond);
    await load('connections', { port: echo.port, count: WARM_UP_CONNECTIONS, parallel: 20 });
    running.push({ name: contender.name, bulk, echo });
  }
  // Each metric in a round of its own: the shorter the time between two contenders, the likelier the
  // machine was the same for both.
  for (let round = 1; round <= rounds; round += 1) {
    say(`round ${round} of ${rounds}`);
    const cpu = new Map(running.map(({ name }) => [name, { seconds: 0, bytes: 0 }]));
    for (const [key, options] of [
      ['up', { streams: 1, reverse: false }],
      ['down', { streams: 1, reverse: true }],
      ['eight', { streams: 8, reverse: false }],
    ] as const) {
      for (const { name, bulk } of running) {
        const before = cpuSeconds(bulk.pids);
        const { bytes, seconds } = await transfer(`${name}, ${key}`, bulk.port, options);
        add(key, name, bytes / seconds / 1e6);
        const spent = cpu.get(name);
        if (!spent || key === 'eight') continue;
        spent.seconds += cpuSeconds(bulk.pids) - before;
        spent.bytes += bytes;
      }
    }
    for (const [name, { seconds, bytes }] of cpu) add('cpu', name, seconds / (bytes / 1e9));
    for (const [key, parallel] of [
      ['connects', 1],
      ['connects50', 50],
    ] as const) {
      for (const { name, echo } of running) {
        const options = { port: echo.port, seconds: connectSeconds, parallel };
        add(key, name, (await load<{ perSecond: number }>('connections', options)).perSecond);
      }
    }
    for (const { name, echo } of running) {
      const { p50, p99 } = await load<{ p50: number; p99: number }>('ping-pong', {
        port: echo.port,
        rounds: pings,
      });
      add('p50', name, p50);
      add('p99', name, p99);
    }
    for (const { bulk, echo } of running) {
      bulk.check();
      echo.check();
    }
  }
  for (const { bulk, echo } of running) {
    await bulk.stop();
    await echo.stop();
  }
  return measured;
}

// ---- memory

interface Memory {
  /** MB, entry and exit. */
  readonly start: number[];
  readonly idle: number[];
  readonly bulkUp: number[];
  readonly bulkDown: number[];
  readonly turnsBefore: number[];
  readonly turnsAfter: number[];
}

/** Every measurement on processes of its own: what the one before left behind is not the next one's. */
async function measureMemory(contender: Contender): Promise<Memory> {
  const echoPort = await startEchoServer();
  const bulkPort = await startBulkServer();
  const rss = (pids: readonly number[]) => pids.map((pid) => memoryMb(pid).now);

  const idleOnes = await contender.start(echoPort);
  const atStart = rss(idleOnes.pids);
  const holder = new Helper('./load.ts', ['hold', JSON.stringify({ port: idleOnes.port, count: 1000 })]);
  await holder.next();
  await sleep(1000);
  const idle = rss(idleOnes.pids);
  idleOnes.check();
  await holder.stop();
  await idleOnes.stop();

  const peaks: number[][] = [];
  for (const reverse of [false, true]) {
    const fresh = await contender.start(bulkPort);
    await transfer(`${contender.name}, 1 GiB`, fresh.port, { streams: 1, reverse, bytes: 1024 ** 3 });
    peaks.push(fresh.pids.map((pid) => memoryMb(pid).peak));
    fresh.check();
    await fresh.stop();
  }

  const inTurn = await contender.start(echoPort);
  await load('connections', { port: inTurn.port, count: WARM_UP_TURNS, parallel: 20 });
  await sleep(500);
  const turnsBefore = rss(inTurn.pids);
  await load('connections', { port: inTurn.port, count: turns, parallel: 1 });
  await sleep(500);
  const turnsAfter = rss(inTurn.pids);
  inTurn.check();
  await inTurn.stop();
  return {
    start: atStart,
    idle,
    bulkUp: peaks[0] ?? [],
    bulkDown: peaks[1] ?? [],
    turnsBefore,
    turnsAfter,
  };
}

const growth = (memory: Memory): number[] =>
  memory.turnsAfter.map((after, at) => after - (memory.turnsBefore[at] ?? 0));

// ---- start

interface Start {
  readonly versionMs: number;
  readonly nodeMs: number;
  readonly ratio: number;
  readonly exposeReadyMs: number;
}

async function measureStart(program: string): Promise<Start> {
  const versions: number[] = [];
  const nodes: number[] = [];
  for (let at = 0; at < (args.quick ? 7 : 15); at += 1) {
    for (const [list, command] of [
      [versions, [program, '--version']],
      [nodes, ['-e', '0']],
    ] as const) {
      const began = performance.now();
      await run(process.execPath, command);
      list.push(performance.now() - began);
    }
  }
  const ready: number[] = [];
  for (let at = 0; at < 5; at += 1) {
    const { exit, readyMs } = await expose(program, 9);
    ready.push(readyMs);
    await exit.stop();
  }
  const pairs: Rounds = new Map([
    ['tunnel', versions],
    ['node', nodes],
  ]);
  return {
    versionMs: median(versions),
    nodeMs: median(nodes),
    ratio: ratio(pairs, 'tunnel', 'node'),
    exposeReadyMs: median(ready),
  };
}

// ---- all of it

function choose(): Contender[] {
  const chosen: Contender[] = [];
  if (only.has('tunnel')) chosen.push(tunnel('tunnel', TUNNEL));
  for (const text of args.variant) {
    const [name, program] = text.split('=');
    if (!name || !program) throw new Error(`--variant ${text}: name=path/to/bin/run.js is wanted`);
    chosen.push(tunnel(name, program));
  }
  if (only.has('dumbpipe')) {
    const program = findDumbpipe();
    if (program) chosen.push(dumbpipe(program));
    else say('dumbpipe: not found, skipped (cargo install dumbpipe, or DUMBPIPE=path)');
  }
  if (only.has('ssh')) {
    const programs = findSsh();
    if (programs) chosen.push(ssh(programs));
    else say('ssh: ssh, sshd or ssh-keygen not found, skipped (apt-get install openssh-server)');
  }
  if (only.has('relay')) chosen.push(relay);
  if (!iperf3)
    say('iperf3: not found, Node generates the load instead, which is slower (apt-get install iperf3)');
  return chosen;
}

function goals(
  measured: ReadonlyMap<string, Rounds> | undefined,
  hasBase: boolean,
  memory: Memory | undefined,
  started: Start | undefined,
): Goal[] {
  const list: Goal[] = [];
  if (measured && hasBase) {
    const versus = (key: string, what: string, bound: Goal['bound'], wanted: number) => {
      const value = ratio(measured.get(key) ?? new Map<string, number[]>(), 'tunnel', 'dumbpipe');
      list.push({ what, bound, wanted, unit: 'of dumbpipe', value, digits: 2 });
    };
    versus('up', 'one stream', '≥', 0.9);
    versus('down', 'one stream, server to client', '≥', 0.9);
    versus('eight', '8 streams', '≥', 0.8);
    versus('connects', 'connect+echo, one at a time', '≥', 1.5);
    versus('connects50', 'connect+echo, 50 at once', '≥', 2.5);
    versus('p50', 'round trip p50', '≤', 2);
  }
  if (memory) {
    const most = (what: string, wanted: number, values: readonly number[]) =>
      list.push({ what, bound: '≤', wanted, unit: 'MB a process', value: Math.max(...values), digits: 0 });
    most('1,000 idle connections', 130, memory.idle);
    most('1 GiB through one channel, peak', 250, [...memory.bulkUp, ...memory.bulkDown]);
    most(`growth over ${turns} connections in turn`, GROWTH_NOISE_MB, growth(memory));
  }
  if (started) {
    const { ratio: value, exposeReadyMs } = started;
    list.push({ what: '--version', bound: '≤', wanted: 2, unit: 'of node -e 0', value, digits: 2 });
    list.push({
      what: 'expose ready',
      bound: '≤',
      wanted: 1000,
      unit: 'ms',
      value: exposeReadyMs,
      digits: 0,
    });
  }
  return list;
}

async function main(): Promise<void> {
  const contenders = choose();
  const names = contenders.map(({ name }) => name);
  const measured = skip.has('rates') ? undefined : await measureRates(contenders);
  const ours = contenders.find(({ name }) => name === 'tunnel');
  let memory: Memory | undefined;
  if (ours && !skip.has('memory')) {
    say('memory');
    memory = await measureMemory(ours);
  }
  let started: Start | undefined;
  if (ours && !skip.has('start')) {
    say('start');
    started = await measureStart(TUNNEL);
  }
  const base = names.includes('dumbpipe') ? 'dumbpipe' : undefined;
  const list = goals(measured, base !== undefined && ours !== undefined, memory, started);
  if (args.json) {
    const rates = [...(measured ?? [])].map(([key, all]) => [key, Object.fromEntries(all)]);
    const withResult = list.map((goal) => ({ ...goal, met: isMet(goal) }));
    console.log(
      JSON.stringify({
        rounds,
        rates: Object.fromEntries(rates),
        memory,
        start: started,
        goals: withResult,
        failedTransfers,
      }),
    );
    return;
  }
  const lines = [
    `${cpus().length} × ${cpus()[0]?.model}, Node ${process.version}, ${iperf3 ? 'iperf3' : 'Node'} as generator`,
  ];
  if (measured) {
    const against = base ? `; in brackets the ratio to ${base}` : '';
    lines.push(`medians of ${rounds} rounds in turn${against}`, '', table(RATES, measured, names, base), '');
  }
  if (memory) {
    const both = (values: readonly number[]) => values.map((value) => value.toFixed(0)).join(' / ');
    lines.push(
      'memory of tunnel, entry / exit, MB',
      `  started                        ${both(memory.start)}`,
      `  1,000 idle connections         ${both(memory.idle)}`,
      `  peak at 1 GiB, to the server   ${both(memory.bulkUp)}`,
      `  peak at 1 GiB, to the client   ${both(memory.bulkDown)}`,
      `  before and after ${turns} turns  ${both(memory.turnsBefore)}  ${both(memory.turnsAfter)}`,
      '',
    );
  }
  if (started) {
    lines.push(
      `start: --version ${started.versionMs.toFixed(0)} ms, node -e 0 ${started.nodeMs.toFixed(0)} ms, ` +
        `expose ready ${started.exposeReadyMs.toFixed(0)} ms`,
      '',
    );
  }
  lines.push(...failedTransfers.map((failure) => `failed and repeated: ${failure}`));
  console.log([...lines, ...list.map(goalLine)].join('\n'));
}

try {
  await main();
  process.exit(0);
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exit(1);
}
