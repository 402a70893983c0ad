/**
 * Throughput over long lines: one stream and eight, through the tunnel with each congestion control,
 * beside plain TCP over the same emulated line (`test/support/wan.ts`; needs root and network
 * namespaces, no netem).
 *
 * `npx tsx bench/wan.ts [--quick] [--seconds 10] [--mbit 50] [--rtt 20,100,200] [--loss 0,0.1,1]`
 *
 * What is counted is what has arrived within the time, from the first connect on: slow start included. A
 * figure with `lost` is of a time in which the session was.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { type Host, namespacesMissing } from '../test/support/netns.js';
import { Machine } from '../test/support/tunnel-process.js';
import { Wan } from '../test/support/wan.js';

const { values: args } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    seconds: { type: 'string' },
    mbit: { type: 'string', default: '50' },
    rtt: { type: 'string' },
    loss: { type: 'string' },
    streams: { type: 'string', default: '1,8' },
    congestion: { type: 'string', default: 'cubic,bbr' },
  },
});
const numbers = (text: string) => text.split(',').map(Number);
const seconds = Number(args.seconds ?? (args.quick ? 4 : 10));
const roundTrips = numbers(args.rtt ?? (args.quick ? '20,200' : '20,100,200'));
const losses = numbers(args.loss ?? (args.quick ? '0,1' : '0,0.1,1'));
const bytesPerSecond = (Number(args.mbit) * 1e6) / 8;
/** A tenth of a second, as home routers have. */
const queueBytes = bytesPerSecond / 10;
/** Until the queue is empty, and twice that. */
const drainMs = (2000 * queueBytes) / bytesPerSecond;
const LOAD = fileURLToPath(new URL('./support/wan-load.js', import.meta.url));
const say = (text: string) => console.log(text);

/** Lines to a child and its lines back, one for one. */
class Talk {
  readonly child: ChildProcess;
  readonly #waiting: ((line: string) => void)[] = [];

  constructor(host: Host, role: readonly string[]) {
    this.child = spawn('ip', ['netns', 'exec', host.namespace, process.execPath, LOAD, ...role], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    createInterface({ input: this.child.stdout as NodeJS.ReadableStream }).on('line', (line) =>
      this.#waiting.shift()?.(line),
    );
  }

  next(): Promise<string> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  async ask(line = ''): Promise<number> {
    const answer = this.next();
    this.child.stdin?.write(`${line}\n`);
    return Number(await answer);
  }
}

/** Mbit/s that arrive at `sink` while `streams` connections send to `host:port`. */
async function throughput(wan: Wan, sink: Talk, to: { host: string; port: number }, streams: number) {
  const before = await sink.ask();
  const load = new Talk(wan.near, ['send', to.host, String(to.port), String(streams)]);
  const startedAt = performance.now();
  await sleep(seconds * 1000);
  const bytes = (await sink.ask()) - before;
  const tookMs = performance.now() - startedAt;
  load.child.kill('SIGKILL');
  // What the sender's kernel still holds would fill the line's queue when the next one connects.
  await sink.ask('end');
  return (bytes * 8) / tookMs / 1000;
}

async function main(): Promise<void> {
  if (namespacesMissing !== undefined) {
    say(`nothing is measured: ${namespacesMissing}`);
    return;
  }
  const wan = await Wan.create();
  const sink = new Talk(wan.far, ['sink']);
  const target = Number(await sink.next());
  const far = new Machine({ namespace: wan.far.namespace, bind: Wan.FAR });
  const near = new Machine({ namespace: wan.near.namespace, bind: Wan.NEAR, eventTimeoutMs: 60_000 });
  try {
    await wan.set({ bytesPerSecond, delayMs: 1, lossRatio: 0, queueBytes });
    const { ticket } = await far.expose(`bulk=${target}`);
    const congestion = args.congestion.split(',');
    say(
      `Mbit/s that arrive in ${seconds} s over a line of ${args.mbit} Mbit/s with a queue of ${Math.round(queueBytes / 1000)} kB`,
    );
    const tcp = (await wan.near.run('sysctl', ['-n', 'net.ipv4.tcp_congestion_control'])).trim();
    say(
      row([
        'round trip',
        'loss',
        'streams',
        `TCP ${tcp}`,
        ...congestion.map((one) => `tunnel ${one}`),
        'worst delay of the emulator',
      ]),
    );
    for (const rtt of roundTrips) {
      for (const loss of losses) {
        for (const streams of numbers(args.streams)) {
          const line = { bytesPerSecond, delayMs: rtt / 2, lossRatio: loss / 100, queueBytes };
          await wan.set(line);
          const tcpRate = await throughput(wan, sink, { host: Wan.FAR, port: target }, streams);
          const figures = [tcpRate.toFixed(1)];
          await sleep(rtt + drainMs);
          let { lateMs } = await wan.set(line);
          for (const one of congestion) {
            const forward = near.start('forward', ticket, '0:bulk', '--congestion', one);
            const port = await forward.listeningPort();
            await forward.event('session', { state: 'connected' });
            const rate = await throughput(wan, sink, { host: '127.0.0.1', port }, streams);
            const isLost = forward.events.some(({ state }) => state === 'reconnecting');
            figures.push(`${isLost ? 'lost ' : ''}${rate.toFixed(1)}`);
            forward.kill('SIGKILL');
            await forward.exited;
            await sleep(rtt + drainMs);
            lateMs = Math.max(lateMs, (await wan.set(line)).lateMs);
          }
          say(row([`${rtt} ms`, `${loss} %`, String(streams), ...figures, `${lateMs.toFixed(0)} ms`]));
        }
      }
    }
  } finally {
    sink.child.kill('SIGKILL');
    await near.dispose();
    await far.dispose();
    await wan.dispose();
  }
}

function row(cells: readonly string[]): string {
  return `| ${cells.map((cell, index) => cell.padStart([10, 5, 7][index] ?? 12)).join(' | ')} |`;
}

await main();
