/**
 * Dials a node so many times a second, for so long, from several endpoints: a third says nothing, a third
 * sends a HELLO without any right, a third opens streams as well. Prints what became of it as JSON.
 *
 * Arguments: node ID, `ip:port`, dials a second, seconds.
 */

import { FrameType } from '../../src/session/frame.js';
import { Identity } from '../../src/session/identity.js';
import { parseNodeId } from '../../src/session/node-id.js';
import { Attacker, type RawSession } from './attacker.js';

const ENDPOINTS = 4;
const TICK_MS = 10;
/** Sessions kept half-open by this side; the oldest is let go. */
const KEPT = 2000;

const [node, address, perSecond, seconds] = process.argv.slice(2) as [string, string, string, string];
const victim = { nodeId: parseNodeId(node), direct: [address] };
const attackers = await Promise.all(
  Array.from({ length: ENDPOINTS }, () => Attacker.bind(Identity.generate())),
);
const endings: Record<string, number> = {};
let dialled = 0;
let failed = 0;
const kept: RawSession[] = [];
const startedAt = performance.now();

function count(what: string): void {
  endings[what] = (endings[what] ?? 0) + 1;
}

async function dial(number: number): Promise<void> {
  dialled += 1;
  try {
    const raw = await (attackers[number % ENDPOINTS] as Attacker).dial(victim);
    void raw.ending().then(count);
    kept.push(raw);
    if (kept.length > KEPT) kept.shift()?.session.close();
    if (number % 3 === 0) return;
    const control = await raw.control();
    if (number % 3 === 2) await raw.open(1, 'svc');
    control.frame(0, FrameType.HELLO, raw.hello());
  } catch {
    failed += 1;
  }
}

await new Promise<void>((resolve) => {
  let next = 0;
  const timer = setInterval(() => {
    const elapsed = performance.now() - startedAt;
    if (elapsed > Number(seconds) * 1000) {
      clearInterval(timer);
      resolve();
      return;
    }
    // What a busy machine missed is not made up for all at once.
    const due = Math.min((elapsed / 1000) * Number(perSecond), next + Number(perSecond) / 20);
    for (; next < due; next += 1) void dial(next);
  }, TICK_MS);
});
const took = (performance.now() - startedAt) / 1000;
process.stdout.write(
  `${JSON.stringify({ dialled, perSecond: Math.round(dialled / took), failed, endings })}\n`,
);
process.exit(0);
