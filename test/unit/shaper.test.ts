/** Bytes a second, shared: with a clock of the test's own, so that rates are exact. */
import { describe, expect, it } from 'vitest';
import { Lane, Shaper, type ShaperClock } from '../../src/tunnel/shaper.js';
import { TurnQueue } from '../../src/tunnel/turn-queue.js';

class FakeClock implements ShaperClock {
  #now = 0;
  #timers: { at: number; callback: () => void }[] = [];

  now(): number {
    return this.#now;
  }

  after(ms: number, callback: () => void): void {
    this.#timers.push({ at: this.#now + ms, callback });
  }

  /** `lateMs`: by how much every timer is late. */
  async run(ms: number, lateMs = 0): Promise<void> {
    const end = this.#now + ms;
    for (;;) {
      await Promise.resolve();
      this.#timers.sort((a, b) => a.at - b.at);
      const next = this.#timers[0];
      if (!next || next.at + lateMs > end) break;
      this.#timers.shift();
      this.#now = Math.max(this.#now, next.at + lateMs);
      next.callback();
    }
    this.#now = end;
  }
}

/** Sends as much as it may, in pieces of `bytes`. */
class Bulk {
  sent = 0;
  readonly #lane: Lane;
  readonly #bytes: number;

  constructor(lane: Lane, bytes = lane.turnBytes) {
    this.#lane = lane;
    this.#bytes = bytes;
    this.#go();
  }

  stop(): void {
    this.#lane.close();
  }

  #go(): void {
    while (this.#lane.take(this.#bytes)) this.sent += this.#bytes;
    this.#lane.wait(this.#bytes, () => {
      this.sent += this.#bytes;
      this.#go();
    });
  }
}

const MB = 1e6;

describe('a queue of turns', () => {
  it('gives the lowest key first, however they came', () => {
    const queue = new TurnQueue<number>();
    const keys = Array.from({ length: 500 }, (_, i) => (i * 7919) % 503);
    for (const key of keys) queue.push(key, key);
    const out = keys.map(() => queue.pop());
    expect(out).toEqual([...keys].sort((a, b) => a - b));
    expect([queue.pop(), queue.size]).toEqual([undefined, 0]);
  });
});

describe('a shaper', () => {
  it.each([
    ['one bulk sender of 100 kB/s', 0.1 * MB, 1],
    ['one of 10 MB/s', 10 * MB, 1],
    ['one of 200 MB/s', 200 * MB, 1],
    ['fifty of 1 MB/s together', MB, 50],
  ])('holds %s to the rate, within 2 %% over 10 s', async (_what, rate, senders) => {
    const clock = new FakeClock();
    const shaper = new Shaper(rate, clock);
    const all = Array.from({ length: senders }, () => new Bulk(new Lane([shaper])));
    await clock.run(2000);
    const before = all.reduce((sum, { sent }) => sum + sent, 0);
    await clock.run(10_000);
    const after = all.reduce((sum, { sent }) => sum + sent, 0);
    expect((after - before) / 10 / rate).toBeCloseTo(1, 1);
    expect(Math.abs((after - before) / 10 / rate - 1)).toBeLessThan(0.02);
  });

  it('keeps the rate where timers come 30 ms late', async () => {
    const clock = new FakeClock();
    const bulk = new Bulk(new Lane([new Shaper(20 * MB, clock)]));
    await clock.run(1000, 30);
    const before = bulk.sent;
    await clock.run(10_000, 30);
    expect(Math.abs((bulk.sent - before) / 10 / (20 * MB) - 1)).toBeLessThan(0.05);
  });

  it('never lets more than a bounded burst go beyond the rate, whoever comes at once', async () => {
    const clock = new FakeClock();
    const shaper = new Shaper(MB, clock);
    await clock.run(60_000);
    const all = Array.from({ length: 500 }, () => new Bulk(new Lane([shaper])));
    await clock.run(1000);
    expect(all.reduce((sum, { sent }) => sum + sent, 0)).toBeLessThan(1.3 * MB);
  });

  it('shares in bytes, not in pieces', async () => {
    const clock = new FakeClock();
    const shaper = new Shaper(MB, clock);
    const large = new Bulk(new Lane([shaper]));
    const small = new Bulk(new Lane([shaper]), 100);
    await clock.run(20_000);
    expect(small.sent / large.sent).toBeGreaterThan(0.85);
    expect(small.sent / large.sent).toBeLessThan(1.15);
  });

  it('lets who sends little pass at once beside bulk transfers', async () => {
    const clock = new FakeClock();
    const shaper = new Shaper(MB, clock);
    const bulk = Array.from({ length: 20 }, () => new Bulk(new Lane([shaper])));
    const keystrokes = new Lane([shaper]);
    await clock.run(5000);
    let waited = 0;
    for (let i = 0; i < 200; i += 1) {
      if (!keystrokes.take(100)) waited += 1;
      await clock.run(20);
    }
    expect(waited).toBe(0);
    for (const one of bulk) one.stop();
  });

  it('polices what cannot wait to its fair share beside a bulk transfer, and to the rate alone', async () => {
    const clock = new FakeClock();
    const shaper = new Shaper(MB, clock);
    const datagrams = new Lane([shaper]);
    const offer = async (ms: number) => {
      let passed = 0;
      for (let t = 0; t < ms; t += 1) {
        for (let i = 0; i < 4; i += 1) if (datagrams.take(1000)) passed += 1000;
        await clock.run(1);
      }
      return passed / ms / 1000;
    };
    expect(await offer(5000)).toBeCloseTo(1, 1);
    const bulk = new Bulk(new Lane([shaper]));
    const share = await offer(5000);
    expect(share).toBeGreaterThan(0.4);
    expect(share).toBeLessThan(0.6);
    expect(bulk.sent / 5 / MB).toBeGreaterThan(0.4);
    bulk.stop();
  });

  it('serves the others when one that waits gives up', async () => {
    const clock = new FakeClock();
    const shaper = new Shaper(MB, clock);
    const [gone, left] = [new Bulk(new Lane([shaper])), new Bulk(new Lane([shaper]))];
    await clock.run(1000);
    gone.stop();
    const before = left.sent;
    await clock.run(5000);
    expect((left.sent - before) / 5 / MB).toBeCloseTo(1, 1);
  });
});

describe('a lane under several limits', () => {
  it('goes at the lowest rate, and leaves the rest of the higher one to others', async () => {
    const clock = new FakeClock();
    const [all, service] = [new Shaper(4 * MB, clock), new Shaper(MB, clock)];
    const limited = new Bulk(new Lane([all, service]));
    const other = new Bulk(new Lane([all]), 4096);
    await clock.run(2000);
    const before = [limited.sent, other.sent] as const;
    await clock.run(10_000);
    expect((limited.sent - before[0]) / 10 / MB).toBeCloseTo(1, 1);
    expect((other.sent - before[1]) / 10 / MB).toBeGreaterThan(2.8);
  });
});
