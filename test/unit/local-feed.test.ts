/** When a view of its own process is told of what it asked for. */
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { LocalFeed } from '../../src/cli/local-feed.js';
import { ModelBench } from '../support/figures.js';

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
});

afterEach(() => {
  vi.useRealTimers();
});

it('another question is answered in a quarter of a second, also where nothing moves', async () => {
  const bench = new ModelBench({ now: () => performance.now() });
  bench.open(1, { service: 'web' });
  bench.open(2, { service: 'db' });
  const feed = new LocalFeed(bench.model);
  const seen: string[] = [];
  feed.subscribe(() => {
    seen.push(
      feed
        .current()
        .flatMap(({ channels }) => channels.map(({ service }) => service))
        .join(),
    );
  });
  feed.ask({ sort: 'id', reverse: false, filter: '', limit: 9 });
  // By then it looks every two seconds only, and has just looked.
  await vi.advanceTimersByTimeAsync(4300);
  expect(seen.at(-1)).toBe('db,web');
  feed.ask({ sort: 'id', reverse: false, filter: 'w', limit: 9 });
  feed.ask({ sort: 'id', reverse: false, filter: 'we', limit: 9 });
  const told = seen.length;
  await vi.advanceTimersByTimeAsync(250);
  expect(seen.slice(told)).toEqual(['web']);
  bench.model.close();
  expect(vi.getTimerCount()).toBe(0);
});
