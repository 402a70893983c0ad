/** What the dashboard leaves behind of a frame: it is left open for weeks. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, it } from 'vitest';
import { mountBuilt } from '../support/built-dashboard.js';
import { ManualFeed, ModelBench } from '../support/figures.js';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

it('keeps nothing of the frames that have passed', async () => {
  const bench = new ModelBench();
  bench.listening('127.0.0.1:1');
  for (let id = 1; id <= 100; id += 1) bench.open(id);
  const feed = new ManualFeed(bench.snapshot());
  const dashboard = await mountBuilt(feed, 200, 60);
  let opened = 100;
  const frames = async (count: number) => {
    for (let frame = 0; frame < count; frame += 1) {
      for (const figures of bench.channels.values()) figures.bytesIn += Math.floor(Math.random() * 100_000);
      // Rows come, go and change places, as they do on the screen.
      opened += 1;
      bench.open(opened);
      bench.close(opened - 100);
      bench.after(250);
      const painted = dashboard.nextFrame();
      feed.show(bench.snapshot({ sort: 'rate' }));
      await painted;
    }
    collect();
    return process.memoryUsage().heapUsed;
  };
  const before = await frames(300);
  const perFrame = ((await frames(500)) - before) / 500;
  dashboard.unmount();
  bench.model.close();
  // A frame of these rows has 10 kB of text.
  expect(perFrame).toBeLessThan(1000);
});
