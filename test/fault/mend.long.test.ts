/** How soon data flows again after a path has come back: figures, and a ceiling far above the goal. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { describeFaults, lasting, percentile, say } from '../support/describe-faults.js';
import type { Party } from '../support/party.js';
import { Rig } from '../support/rig.js';

const CUTS = 20;
/** Of one cut. The goals are 2 s and, where the machine reports the change, 1 s (p95). */
const CEILING_MS = 5_000;
/** Below what the session's own timers survive, around it, and beyond. */
const LENGTHS_MS = [2_000, 4_000, 7_000, 12_000];

describeFaults('after a mend data flows again', () => {
  let rig: Rig;
  let near: Party;
  let far: Party;

  beforeAll(async () => {
    rig = await Rig.start();
    ({ near, far } = await rig.connected());
    // A trickle without an end, so that the first new byte is seen when it can be.
    void far.send(Number.MAX_SAFE_INTEGER, { bytesPerSecond: 3 * 1024 * 1024 });
    await near.whenReceived(1024 * 1024, 30_000);
  });

  afterAll(() => rig.dispose());

  it.each([
    ['silent cuts', 2_000, () => rig.network.cut(), () => rig.network.mend()],
    ['the link down and up', 1_000, () => rig.network.near.linkDown(), () => rig.network.near.linkUp()],
  ] as const)(
    '%s',
    async (what, goalMs, begin, end) => {
      const took: number[] = [];
      for (let cut = 0; cut < CUTS; cut += 1) {
        await begin();
        await lasting(LENGTHS_MS[cut % LENGTHS_MS.length] as number);
        const at = near.received;
        await end();
        const mendedAt = performance.now();
        await near.whenReceived(at + 1, 60_000);
        took.push(Math.max(0, near.lastReceivedAt - mendedAt));
        // Back in full, before the next one.
        await near.whenReceived(at + 6 * 1024 * 1024, 60_000);
      }
      const [p50, p95, most] = [50, 95, 100].map((percent) => Math.round(percentile(took, percent)));
      const byLength = LENGTHS_MS.map((ms, index) => {
        const of = took.filter((_one, cut) => cut % LENGTHS_MS.length === index);
        return `${ms / 1000} s: ${Math.round(Math.max(...of))}`;
      });
      say(
        `  ${what}: p50 ${p50} ms, p95 ${p95} ms, most ${most} ms over ${CUTS} cuts; goal p95 ${goalMs} ms`,
      );
      say(`  most after a cut of ${byLength.join(', ')} ms`);
      expect(p95).toBeLessThan(CEILING_MS);
      expect([near.seen, near.wrongAt]).toEqual(['open', undefined]);
    },
    590_000,
  );
});
