/**
 * UDP through `tunnel expose` and `forward` beside two bare UDP relays in Node, on loopback.
 *
 * `npx tsx bench/udp.ts [--quick] [--rounds 3] [--only rtt,rate,ceiling,flood,flows,bulk]`
 *
 * Each figure is the median of the rounds; the contenders take turns in every round.
 */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { expose, findProgram, freshHome, TUNNEL } from './support/contenders.js';
import {
  cpuSeconds,
  freePort,
  Helper,
  type Logged,
  memoryMb,
  run,
  start,
  waitForListener,
} from './support/processes.js';
import { type Goal, goalLine, median } from './support/report.js';

const { values: args } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '3' },
    only: { type: 'string', default: 'rtt,rate,ceiling,flood,flows,bulk' },
  },
});
const rounds = Number(args.rounds);
const wanted = new Set(args.only.split(','));
const seconds = args.quick ? 2 : 5;
const goals: Goal[] = [];
const say = (text: string) => console.log(text);

interface Latencies {
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
}

interface Rate extends Latencies {
  readonly sent: number;
  readonly failed: number;
  readonly received: number;
  readonly port: number;
  readonly tookMs: number;
}

interface Dropped {
  readonly [reason: string]: number;
}

const echo = new Helper('./udp-load.ts', ['echo']);
const echoPort = (await echo.next<{ port: number }>()).port;

async function load<T>(role: string, options: Record<string, number>): Promise<T> {
  const helper = new Helper('./udp-load.ts', [role, JSON.stringify(options)]);
  const answer = await helper.next<T>();
  await helper.stop();
  return answer;
}

// ---- contenders

interface Tunnel {
  readonly port: number;
  readonly tcpPort: number | undefined;
  readonly entry: Logged;
  readonly exit: Logged;
  stop(): Promise<void>;
}

async function startTunnel(tcpTarget?: number): Promise<Tunnel> {
  const targets = [`echo=udp:127.0.0.1:${echoPort}`, ...(tcpTarget ? [`bulk=${tcpTarget}`] : [])];
  const { exit, ticket } = await expose(TUNNEL, targets);
  const specs = ['0:echo/udp', ...(tcpTarget ? ['0:bulk'] : [])];
  const local = ['--no-relay', '--bind', '127.0.0.1', '--json', '--udp-idle', '2'];
  const entry = start(
    'forward',
    process.execPath,
    [TUNNEL, 'forward', ticket, ...specs, ...local],
    freshHome(),
  );
  const port = (name: string) =>
    entry.waitFor(new RegExp(`"listening".*"protocol":"${name}","local":"127\\.0\\.0\\.1:(\\d+)"`));
  const udp = Number((await port('udp'))[1]);
  const tcp = tcpTarget ? Number((await port('tcp'))[1]) : undefined;
  await entry.waitFor(/"event":"session".*"state":"connected"/);
  return {
    port: udp,
    tcpPort: tcp,
    entry,
    exit,
    async stop() {
      await entry.stop();
      await exit.stop();
    },
  };
}

async function startRelays(): Promise<{ port: number; stop(): Promise<void> }> {
  const far = new Helper('./udp-relay.ts', [String(echoPort)]);
  const farPort = (await far.next<{ port: number }>()).port;
  const near = new Helper('./udp-relay.ts', [String(farPort)]);
  const { port } = await near.next<{ port: number }>();
  return {
    port,
    async stop() {
      await near.stop();
      await far.stop();
    },
  };
}

// ---- what is measured

async function measureRtt(): Promise<void> {
  const found = { tunnel: [] as Latencies[], relays: [] as Latencies[] };
  for (let round = 0; round < rounds; round += 1) {
    for (const name of ['relays', 'tunnel'] as const) {
      const contender = name === 'tunnel' ? await startTunnel() : await startRelays();
      found[name].push(await load<Latencies>('ping', { port: contender.port, seconds, warmUpSeconds: 5 }));
      await contender.stop();
    }
  }
  const of = (name: 'tunnel' | 'relays', key: keyof Latencies) => median(found[name].map((one) => one[key]));
  for (const name of ['relays', 'tunnel'] as const) {
    say(
      `round trip, 64 bytes, ${name.padEnd(6)}  p50 ${of(name, 'p50').toFixed(0)} µs, p99 ${of(name, 'p99').toFixed(0)} µs`,
    );
  }
  const ratios = found.tunnel.map((one, index) => one.p50 / (found.relays[index] as Latencies).p50);
  goals.push({
    what: 'round trip p50, of two bare relays',
    bound: '≤',
    wanted: 2,
    unit: '×',
    value: median(ratios),
    digits: 2,
  });
}

async function atRate(port: number, perSecond: number, bytes: number): Promise<Rate> {
  return load<Rate>('rate', { port, perSecond, bytes, seconds });
}

function lossPercent({ sent, received }: Rate): number {
  return (100 * (sent - received)) / sent;
}

async function measureRate(): Promise<void> {
  for (const name of ['relays', 'tunnel'] as const) {
    const losses: number[] = [];
    const p50: number[] = [];
    const cpu: number[] = [];
    const reached: number[] = [];
    for (let round = 0; round < rounds; round += 1) {
      const contender = name === 'tunnel' ? await startTunnel() : await startRelays();
      await atRate(contender.port, 2000, 1000);
      const pids = 'entry' in contender ? [contender.entry.pid, contender.exit.pid] : [];
      const before = cpuSeconds(pids);
      const one = await atRate(contender.port, 10_000, 1000);
      cpu.push((cpuSeconds(pids) - before) / seconds);
      losses.push(lossPercent(one));
      p50.push(one.p50);
      reached.push(one.sent / (one.tookMs / 1000));
      await contender.stop();
    }
    say(
      `10,000 packets a second of 1,000 bytes each way, ${name.padEnd(6)}  ${median(reached).toFixed(0)} sent/s, ` +
        `${median(losses).toFixed(3)} % lost, p50 ${median(p50).toFixed(0)} µs` +
        (name === 'tunnel' ? `, ${median(cpu).toFixed(2)} cores both processes` : ''),
    );
    if (name === 'tunnel')
      goals.push({
        what: 'loss at 10,000 × 1,000 bytes each way',
        bound: '≤',
        wanted: 0.5,
        unit: '%',
        value: median(losses),
        digits: 3,
      });
  }
}

/** The highest rate, in steps of 2,500, at which less than 0.1 % is lost. */
async function measureCeiling(): Promise<void> {
  for (const name of ['relays', 'tunnel'] as const) {
    const contender = name === 'tunnel' ? await startTunnel() : await startRelays();
    await atRate(contender.port, 5000, 1000);
    let best = 0;
    let stopped = '';
    for (let perSecond = 10_000; perSecond <= 40_000; perSecond += 2500) {
      const one = await atRate(contender.port, perSecond, 1000);
      const reached = one.sent / (one.tookMs / 1000);
      stopped = `at ${perSecond}: ${reached.toFixed(0)} sent/s, ${lossPercent(one).toFixed(2)} % lost`;
      if (lossPercent(one) >= 0.1 || reached < perSecond * 0.97) break;
      best = perSecond;
    }
    say(
      `loss-free ceiling (< 0.1 %), 1,000 bytes each way, ${name.padEnd(6)}  ${best} a second (${stopped})`,
    );
    await contender.stop();
  }
}

/** Packets the kernel dropped because a socket's buffer was full. */
function kernelDrops(port: number): number {
  const hex = port.toString(16).toUpperCase().padStart(4, '0');
  return readFileSync('/proc/net/udp', 'utf8')
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter((fields) => fields[1]?.endsWith(`:${hex}`))
    .reduce((sum, fields) => sum + Number(fields[12]), 0);
}

async function measureFlood(): Promise<void> {
  const tunnel = await startTunnel();
  await atRate(tunnel.port, 5000, 64);
  await tunnel.entry.waitFor(/"channel\.close"/);
  echo.send({});
  await echo.next();
  const memory = () => memoryMb(tunnel.entry.pid).now + memoryMb(tunnel.exit.pid).now;
  const helper = new Helper('./udp-load.ts', [
    'rate',
    JSON.stringify({ port: tunnel.port, perSecond: 40_000, bytes: 64, seconds: seconds * 2 }),
  ]);
  const samples: number[] = [];
  const sampler = setInterval(() => samples.push(memory()), 200);
  const one = await helper.next<Rate>();
  clearInterval(sampler);
  const kernel = {
    entry: kernelDrops(tunnel.port),
    echo: kernelDrops(echoPort),
    client: kernelDrops(one.port),
  };
  helper.send({});
  echo.send({});
  const echoed = (await echo.next<{ received: number }>()).received;
  const closed = await tunnel.entry.waitFor(
    /(?:"channel\.close"[^\n]*\n[\s\S]*)("event":"channel\.close"[^\n]*)/,
  );
  const exitClosed = await tunnel.exit.waitFor(
    /(?:"channel\.close"[^\n]*\n[\s\S]*)("event":"channel\.close"[^\n]*)/,
  );
  const near = JSON.parse(`{${closed[1]}`) as Record<string, number> & { dropped: Dropped };
  const far = JSON.parse(`{${exitClosed[1]}`) as Record<string, number> & { dropped: Dropped };
  const first = samples.slice(0, Math.ceil(samples.length / 4));
  const last = samples.slice(-Math.ceil(samples.length / 4));
  const growth = median(last) - median(first);
  const drops = (dropped: Dropped) =>
    Object.entries(dropped)
      .map(([why, count]) => `${count} ${why}`)
      .join(', ') || 'none';
  say(
    `40,000 × 64 bytes a second for ${seconds * 2} s: ${(one.sent / (one.tookMs / 1000)).toFixed(0)} sent/s, ${one.received} of ${one.sent} came back (${lossPercent(one).toFixed(2)} % lost)`,
  );
  say(
    `  memory of both processes ${median(first).toFixed(0)} → ${median(last).toFixed(0)} MB, most ${Math.max(...samples).toFixed(0)}`,
  );
  say(
    `  entry dropped ${drops(near.dropped)}; exit dropped ${drops(far.dropped)}; lost on the path ${near.lostOut} there, ${near.lostIn} back; kernel dropped ${kernel.entry} at the entry, ${kernel.echo} at the echo, ${kernel.client} at the client`,
  );
  const all = (dropped: Dropped) => Object.values(dropped).reduce((sum, count) => sum + count, 0);
  const counted =
    all(near.dropped) +
    all(far.dropped) +
    (near.lostOut ?? 0) +
    (near.lostIn ?? 0) +
    kernel.entry +
    kernel.client +
    (Number(far.packetsIn) - echoed) +
    one.failed;
  const uncounted = one.sent - one.received - counted;
  say(`  counted nowhere: ${uncounted}`);
  goals.push({
    what: 'memory growth under 40,000 small packets a second',
    bound: '≤',
    wanted: 16,
    unit: 'MB',
    value: growth,
    digits: 1,
  });
  goals.push({
    what: 'packets counted nowhere',
    bound: '≤',
    wanted: 0,
    unit: '',
    value: uncounted,
    digits: 0,
  });
  await tunnel.stop();
}

async function measureFlows(): Promise<void> {
  const tunnel = await startTunnel();
  const one = await load<{ sent: number; received: number; silent: number }>('flows', {
    port: tunnel.port,
    flows: 1000,
    packets: 10,
  });
  say(
    `1,000 flows at once, 10 packets each: ${one.received} of ${one.sent} came back, ${one.silent} flows without an answer`,
  );
  goals.push({
    what: 'of 1,000 flows at once, without an answer',
    bound: '≤',
    wanted: 0,
    unit: '',
    value: one.silent,
    digits: 0,
  });
  await tunnel.stop();
}

async function measureBulk(): Promise<void> {
  const iperf3 = findProgram('iperf3');
  if (!iperf3) {
    say('beside bulk TCP: skipped, it needs iperf3 (apt-get install iperf3)');
    return;
  }
  const target = await freePort();
  start('iperf3', iperf3, ['-s', '-p', String(target), '-B', '127.0.0.1']);
  await waitForListener(target);
  for (const direction of ['client to server', 'server to client']) {
    const p50: number[] = [];
    const p99: number[] = [];
    const rates: number[] = [];
    for (let round = 0; round < rounds; round += 1) {
      const tunnel = await startTunnel(target);
      const reverse = direction === 'client to server' ? [] : ['-R'];
      const bulk = run(iperf3, [
        '-c',
        '127.0.0.1',
        '-p',
        String(tunnel.tcpPort),
        '-J',
        '-t',
        String(seconds + 2),
        ...reverse,
      ]);
      await load('ping', { port: tunnel.port, seconds: 0.5 });
      const one = await load<Latencies>('ping', { port: tunnel.port, seconds });
      p50.push(one.p50);
      p99.push(one.p99);
      const { end } = JSON.parse(await bulk) as { end: { sum_received: { bits_per_second: number } } };
      rates.push(end.sum_received.bits_per_second / 8e6);
      await tunnel.stop();
    }
    say(
      `round trip beside one TCP stream, ${direction} (${median(rates).toFixed(0)} MB/s): p50 ${(median(p50) / 1000).toFixed(2)} ms, p99 ${(median(p99) / 1000).toFixed(2)} ms`,
    );
    goals.push({
      what: `p99 beside bulk TCP, ${direction}`,
      bound: '≤',
      wanted: 20,
      unit: 'ms',
      value: median(p99) / 1000,
      digits: 2,
    });
  }
}

const measures: Record<string, () => Promise<void>> = {
  rtt: measureRtt,
  rate: measureRate,
  ceiling: measureCeiling,
  flood: measureFlood,
  flows: measureFlows,
  bulk: measureBulk,
};
for (const [name, measure] of Object.entries(measures)) if (wanted.has(name)) await measure();
say('');
for (const goal of goals) say(goalLine(goal));
process.exit(0);
