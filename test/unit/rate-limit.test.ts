import { describe, expect, it } from 'vitest';
import { RateLimit } from '../../src/tunnel/rate-limit.js';

describe('a rate limit', () => {
  it('lets so many through each second, and then tells how many it held back', () => {
    const limit = new RateLimit(2);
    expect([0, 1, 2, 3, 999].map((now) => limit.take(now))).toEqual([0, 0, undefined, undefined, undefined]);
    expect([1000, 1001, 1002].map((now) => limit.take(now))).toEqual([3, 0, undefined]);
    expect(limit.take(5000)).toBe(1);
  });

  it('never lets more than twice the rate through in any second', () => {
    const limit = new RateLimit(5);
    const taken: number[] = [];
    for (let now = 0; now < 20_000; now += 7) if (limit.take(now) !== undefined) taken.push(now);
    for (const start of taken) {
      expect(taken.filter((at) => at >= start && at < start + 1000).length).toBeLessThanOrEqual(10);
    }
  });

  it('loses nobody: those let through and those counted are all there were', () => {
    const limit = new RateLimit(3);
    let through = 0;
    let counted = 0;
    for (let now = 0; now < 10_000; now += 10) {
      const skipped = limit.take(now);
      if (skipped === undefined) continue;
      through += 1;
      counted += skipped;
    }
    const last = limit.take(20_000) as number;
    expect(through + counted + last).toBe(1000);
  });

  it('lets the first one through whatever the clock says', () => {
    expect(new RateLimit(1).take(0)).toBe(0);
    expect(new RateLimit(1).take(1e12)).toBe(0);
    expect(new RateLimit(1).take()).toBe(0);
  });
});
