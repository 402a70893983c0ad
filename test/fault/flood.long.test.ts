/**
 * 1,000 dials a second for a minute while somebody works. All processes share this machine's cores, so
 * speeds are compared within one run, and with a run in which the same flood goes to another expose.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { parseTicket } from '../../src/session/ticket.js';
import { say } from '../support/describe-faults.js';
import { listen } from '../support/sockets.js';
import { Machine, type TunnelProcess } from '../support/tunnel-process.js';

const SECONDS = Number(process.env.FLOOD_SECONDS ?? 60);
const DIALS_PER_SECOND = Number(process.env.FLOOD_RATE ?? 1000);
const MIB = 1024 * 1024;
const CHUNK = Buffer.alloc(256 * 1024);

const open: { close?(): unknown; dispose?(): unknown }[] = [];
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await (one.close ?? one.dispose)?.call(one);
});

/** Sends to who connects, for as long as it takes. */
async function source(): Promise<number> {
  const target = await listen((socket) => {
    const pump = () => {
      while (!socket.destroyed && socket.write(CHUNK));
    };
    socket.on('drain', pump);
    pump();
  });
  open.push(target);
  return target.port;
}

function machine(): Machine {
  const made = new Machine({ eventTimeoutMs: 60_000 });
  open.push(made);
  return made;
}

/** Bytes a second over the time that `during` takes. */
async function speed(socket: Socket, during: Promise<unknown>): Promise<number> {
  let bytes = 0;
  const count = (chunk: Buffer) => {
    bytes += chunk.length;
  };
  socket.on('data', count);
  const startedAt = performance.now();
  await during;
  socket.off('data', count);
  socket.resume();
  return bytes / ((performance.now() - startedAt) / 1000);
}

interface Flood {
  readonly dialled: number;
  readonly perSecond: number;
  readonly failed: number;
  readonly endings: Readonly<Record<string, number>>;
}

async function flood(ticket: string, seconds: number): Promise<Flood> {
  const { nodeId, direct } = parseTicket(ticket);
  const script = new URL('../support/flood-child.ts', import.meta.url).pathname;
  const args = [nodeId, direct[0] as string, String(DIALS_PER_SECOND), String(seconds)];
  const child = spawn(process.execPath, ['--import', 'tsx', script, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (piece: string) => {
    text += piece;
  });
  await once(child, 'close');
  return JSON.parse(text) as Flood;
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** The highest resident memory seen until `during` is over. */
async function peakMemory(process: TunnelProcess, during: Promise<unknown>): Promise<number> {
  let over = false;
  void during.finally(() => {
    over = true;
  });
  let peak = 0;
  while (!over) {
    peak = Math.max(peak, await process.residentBytes());
    await pause(500);
  }
  return peak;
}

describe(`${DIALS_PER_SECOND} dials a second for ${SECONDS} s`, () => {
  it.each([
    ['at the speed of a line of 10 MB/s', ['--limit-rate', '10MB/s'], 0.8],
    // Two cores have nothing left over for anybody: what counts is the comparison with the flood elsewhere.
    ['as fast as the machine can', [], undefined],
  ] as const)(
    'leave a transfer %s alone, and memory flat',
    async (_what, flags, least) => {
      const far = machine();
      const expose = far.start('expose', `svc=${await source()}`);
      const ticket = (await expose.event('ready')).ticket as string;
      const other = machine().start('expose', `svc=${await source()}`);
      const otherTicket = (await other.event('ready')).ticket as string;
      const near = machine();
      const forward = near.start('forward', ticket, '0:svc', ...flags);
      const app = connect(await forward.listeningPort(), '127.0.0.1');
      open.push({ close: () => app.destroy() });
      await once(app, 'data');
      await speed(app, pause(3000));
      const quiet = await speed(app, pause(10_000));
      const elsewhere = flood(otherTicket, Math.min(20, SECONDS));
      const control = await speed(app, elsewhere);
      const there = await elsewhere;
      await speed(app, pause(3000));
      const before = await expose.residentBytes();
      const attack = flood(ticket, SECONDS);
      const peak = peakMemory(expose, attack);
      const attacked = await speed(app, attack);
      const result = await attack;
      await speed(app, pause(5000));
      const after = await expose.residentBytes();
      const again = await speed(app, pause(10_000));
      const mib = (bytes: number) => (bytes / MIB).toFixed(1);
      say(
        `  MiB/s: quiet ${mib(quiet)}, flood elsewhere ${mib(control)}, flooded ${mib(attacked)}, quiet again ${mib(again)}`,
      );
      say(
        `  flooded : quiet ${(attacked / quiet).toFixed(2)}, flooded : elsewhere ${(attacked / control).toFixed(2)}`,
      );
      for (const [where, { perSecond, failed, dialled, endings }] of Object.entries({
        elsewhere: there,
        here: result,
      })) {
        say(`  ${where}: ${perSecond} dials/s, ${failed} failed of ${dialled}, ${JSON.stringify(endings)}`);
      }
      say(`  expose MiB: before ${mib(before)}, peak ${mib(await peak)}, after ${mib(after)}`);
      // Somebody who belongs here gets in, and nobody was.
      const late = near.start('forward', ticket, '0:svc');
      await late.event('session', { state: 'connected' });
      expect(
        expose.events.filter(({ event, state }) => event === 'session' && state === 'connected'),
      ).toHaveLength(2);
      const errors = expose.events.filter(({ event }) => event === 'error').length;
      expect(errors).toBeLessThan((SECONDS + 40) * 6);
      expect(again / quiet).toBeGreaterThan(0.8);
      expect(attacked / control).toBeGreaterThan(0.8);
      if (least !== undefined) expect(attacked / quiet).toBeGreaterThan(least);
      expect(result.perSecond).toBeGreaterThan(DIALS_PER_SECOND / 2);
      expect((await peak) - before).toBeLessThan(100 * MIB);
      expect(after - before).toBeLessThan(80 * MIB);
    },
    (SECONDS + 90) * 1000,
  );
});
