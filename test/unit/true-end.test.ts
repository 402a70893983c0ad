import { setImmediate as checked } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { LastData } from '../../src/tunnel/true-end.js';

it('an end in the turn of the event loop in which there was data is not apart from it', async () => {
  const lastData = new LastData();
  expect(lastData.isApart, 'without any data').toBe(true);
  lastData.note(false);
  expect(lastData.isApart).toBe(false);
  // Microtasks and ticks run between two pieces that are read in one go.
  await Promise.resolve();
  await new Promise<void>((resolve) => process.nextTick(resolve));
  expect(lastData.isApart).toBe(false);
  await checked();
  expect(lastData.isApart).toBe(true);
});

it('an end that had to wait for a reader is not told apart', async () => {
  const lastData = new LastData();
  lastData.note(true);
  await checked();
  expect(lastData.isApart).toBe(false);
  lastData.note(false);
  await checked();
  expect(lastData.isApart).toBe(true);
});

it('counts for each socket by itself', async () => {
  const [one, other] = [new LastData(), new LastData()];
  one.note(false);
  await checked();
  other.note(false);
  expect([one.isApart, other.isApart]).toEqual([true, false]);
});
