/** `tunnel speed`: who may, what is told, and that figures are of this path. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { NO_TMUX, Terminal } from '../support/terminal.js';
import { type JsonEvent, Machine, RUN, type TunnelProcess } from '../support/tunnel-process.js';

let far: Machine;
let near: Machine;

beforeEach(() => {
  far = new Machine();
  near = new Machine();
});

afterEach(async () => {
  await near.dispose();
  await far.dispose();
});

const named = ({ events }: TunnelProcess, name: string) => events.filter(({ event }) => event === name);
const QUICK = ['--duration', '1s'];
/** Where it matters who may measure, and not what is measured. */
const SHORTEST = ['--duration', '500ms'];

interface Way {
  readonly bytes: number;
  readonly durationMs: number;
  readonly bytesPerSecond: number;
  readonly lossRatio?: number;
  readonly rttMs?: { readonly min: number; readonly p50: number; readonly max: number };
  readonly sent?: number;
  readonly received?: number;
  readonly jitterMs?: number;
}

async function measured(speed: TunnelProcess): Promise<{ down: Way; up: Way; summary: JsonEvent }> {
  expect(await speed.exited, speed.stderr).toBe(0);
  const summary = speed.events.at(-1) as JsonEvent;
  expect(summary.event).toBe('summary');
  return { down: summary.down as Way, up: summary.up as Way, summary };
}

describe('tunnel speed', () => {
  it('measures both ways for a peer that is allowed, and tells how far it is', async () => {
    const { ticket } = await far.expose('8080', '--allow-speed', 'all');
    const speed = near.start('speed', ticket, ...QUICK);
    const { down, up, summary } = await measured(speed);
    expect(summary).toMatchObject({ path: 'iroh-direct', rttMs: { min: expect.any(Number) } });
    for (const way of [down, up]) {
      // Loopback: slower than this is no measurement.
      expect(way.bytesPerSecond).toBeGreaterThan(2e6);
      expect(way.durationMs).toBeGreaterThanOrEqual(900);
      expect(way.durationMs).toBeLessThan(4000);
      expect(Math.abs(way.bytesPerSecond / ((way.bytes / way.durationMs) * 1000) - 1)).toBeLessThan(0.01);
      expect(way.lossRatio).toBeGreaterThanOrEqual(0);
      expect(way.rttMs?.max).toBeGreaterThan(0);
    }
    const progress = named(speed, 'speed');
    expect(new Set(progress.map(({ direction }) => direction))).toEqual(new Set(['down', 'up']));
    const downBytes = progress
      .filter(({ direction }) => direction === 'down')
      .map(({ bytes }) => bytes as number);
    expect(downBytes).toEqual([...downBytes].sort((a, b) => a - b));
  });

  it('sends datagrams at the rate it is told to, and counts them', async () => {
    const { ticket } = await far.expose('8080', '--allow-speed', 'all');
    const speed = near.start('speed', ticket, '--udp', '--rate', '4M', ...QUICK);
    const { down, up } = await measured(speed);
    for (const way of [down, up]) {
      // 4 Mbit/s of 1,200 bytes for a second are 416; a busy machine may be late.
      expect(way.sent).toBeGreaterThan(300);
      expect(way.sent).toBeLessThan(450);
      expect(way.received).toBeLessThanOrEqual(way.sent as number);
      expect(way.lossRatio).toBeCloseTo(1 - (way.received as number) / (way.sent as number), 6);
      expect(way.lossRatio).toBeLessThan(0.1);
      expect(way.jitterMs).toBeGreaterThan(0);
    }
  });

  it('goes over WebTransport where it is told to', async () => {
    const { ticket } = await far.expose('8080', '--allow-speed', 'all', '--webtransport', '127.0.0.1:0');
    const { down, summary } = await measured(
      near.start('speed', ticket, '--via', 'webtransport', ...SHORTEST),
    );
    expect(summary.path).toMatch(/^webtransport-h[23]$/);
    expect(down.bytesPerSecond).toBeGreaterThan(1e6);
  });

  it('77 for a peer that is let in and not allowed to measure, with what to do', async () => {
    const { ticket } = await far.expose('8080');
    const speed = near.start('speed', ticket, ...QUICK);
    expect(await speed.exited).toBe(77);
    expect(speed.events.at(-1)).toMatchObject({ event: 'error', code: 'DENIED' });
    expect(speed.events.at(-1)?.hint).toContain('--allow-speed');
  });

  it('is allowed to the peer that is named, and to no other', async () => {
    const nodeId = await near.nodeId();
    const { ticket } = await far.expose('8080', '--allow-speed', nodeId);
    await measured(near.start('speed', ticket, ...SHORTEST));
    // The owner needs no word.
    await measured(far.start('speed', ticket, ...SHORTEST));
    const other = near.start('speed', ticket, '--identity', 'other', ...SHORTEST);
    expect(await other.exited).toBe(77);
  });

  it('is one at a time for a peer', async () => {
    const { ticket } = await far.expose('8080', '--allow-speed', 'all');
    const first = near.start('speed', ticket, '--duration', '20s');
    await first.event('speed');
    const second = near.start('speed', ticket, ...SHORTEST);
    expect(await second.exited).not.toBe(0);
    expect(second.events.at(-1)).toMatchObject({ event: 'error', code: 'RESOURCE_EXHAUSTED' });
    first.kill('SIGINT');
    expect(await first.exited).toBe(130);
    await measured(near.start('speed', ticket, ...SHORTEST));
  });

  it.skipIf(NO_TMUX)('has a bar while it measures, and leaves nothing but the figures', async () => {
    const { ticket } = await far.expose('8080', '--allow-speed', 'all');
    const terminal = new Terminal(
      `${process.execPath} ${RUN} speed '${ticket}' --no-relay --bind 127.0.0.1 --duration 2s`,
      { columns: 200, env: { TUNNEL_HOME: near.home } },
    );
    try {
      await terminal.until(/download +█*░+ \d/);
      const lines = (await terminal.until(/EXIT 0/)).split('\n');
      expect(lines.slice(0, 5).map((line) => line.split(/ {2,}/)[0])).toEqual([
        ...['path', 'at rest', 'download', 'upload', 'EXIT 0'],
      ]);
    } finally {
      terminal.close();
    }
  });

  it('ends when the peer ends, with 69', async () => {
    const { process: expose, ticket } = await far.expose('8080', '--allow-speed', 'all');
    const speed = near.start('speed', ticket, '--duration', '60s');
    await speed.event('speed');
    expose.kill('SIGKILL');
    expect(await speed.exited).toBe(69);
  });

  it.each([
    ["'61s'", ['--duration', '61s']],
    ["'0'", ['--rate', '0']],
    ["'2G'", ['--rate', '2G']],
    ["'fast'", ['--rate', 'fast']],
  ])('64 for %s', async (token, args) => {
    const { code, stderr } = await near.run('speed', 'ab'.repeat(32), ...args);
    expect(code).toBe(64);
    expect(stderr).toContain(token);
  });
});
