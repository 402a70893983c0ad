/**
 * The monkey: connections that each do something of their own, while the network and the processes are
 * interfered with at random. All of it follows from a seed; what the machine makes of the times does not.
 */
import { lasting } from '../support/describe-faults.js';
import type { Party } from '../support/party.js';
import { Schedule } from '../support/random.js';
import type { Pair, Rig } from '../support/rig.js';
import { scheduleFaults, sufferFaults } from './monkey-faults.js';
import { violations } from './monkey-rules.js';

const KIB = 1024;
const MIB = 1024 * KIB;
/** After the last fault every connection must come to its end within this time. */
const SETTLE_MS = 90_000;

export interface MonkeyOptions {
  readonly seed: number;
  readonly seconds: number;
  /** At any one time. */
  readonly connections: number;
  /** None takes much longer than this of its own accord, seconds; 15 unless told. */
  readonly longest?: number;
}

export interface MonkeyReport {
  /** What was done, in order. */
  readonly faults: readonly string[];
  readonly connections: number;
  readonly bytes: number;
  readonly resets: number;
  /** Every rule that was broken, in words. Empty when all is well. */
  readonly violations: readonly string[];
}

/** What one connection will do. */
interface Plan {
  readonly upBytes: number;
  readonly downBytes: number;
  readonly bytesPerSecond: number;
  /** The service answers only after the application has ended its side. */
  readonly lateReply: boolean;
  readonly resetBy: 'near' | 'far' | undefined;
  readonly resetAfterMs: number;
  /** One side does not read for a while. */
  readonly pauseOf: 'near' | 'far' | undefined;
  readonly pauseMs: number;
}

function plan(schedule: Schedule, longest: number): Plan {
  const bytes = () => (schedule.chance(0.1) ? 0 : schedule.magnitude(1, 8 * MIB));
  const [upBytes, downBytes] = [bytes(), bytes()];
  const least = Math.max(16 * KIB, Math.ceil(Math.max(upBytes, downBytes) / longest));
  return {
    upBytes,
    downBytes,
    bytesPerSecond: schedule.magnitude(least, 16 * MIB),
    lateReply: schedule.chance(0.15),
    resetBy: schedule.pick(['near', 'far', ...Array.from({ length: 6 }, () => undefined)]) as Plan['resetBy'],
    resetAfterMs: schedule.between(0, 8_000),
    pauseOf: schedule.pick(['near', 'far', ...Array.from({ length: 6 }, () => undefined)]) as Plan['pauseOf'],
    pauseMs: schedule.between(100, 5_000),
  };
}

export async function runMonkey(rig: Rig, options: MonkeyOptions): Promise<MonkeyReport> {
  const { seed, seconds, connections } = options;
  const until = performance.now() + seconds * 1000;
  const lived: { name: string; near: Party; far: Party | undefined; plan: Plan }[] = [];
  const broken: string[] = [];
  const faults: string[] = [];
  const suffering = sufferFaults(rig, scheduleFaults(seed, seconds), faults);
  let calmAt: number | undefined;
  void suffering.finally(() => {
    calmAt = performance.now();
  });
  /** Whether both sides were over in time. */
  const settled = async (near: Party, far: () => Party | undefined): Promise<boolean> => {
    for (;;) {
      const other = far();
      // One that was reset before it arrived may never arrive.
      if (near.isOver && (other ? other.isOver : near.didReset)) return true;
      if (calmAt !== undefined && performance.now() - calmAt > SETTLE_MS) return false;
      const open = [near, other].filter((party) => party && !party.isOver).map((party) => party?.changed());
      await Promise.race([...open, lasting(500)]);
    }
  };
  const worker = async (number: number) => {
    for (let turn = 0; performance.now() < until; turn += 1) {
      const name = `${number}/${turn}`;
      const doing = plan(new Schedule(seed * 7919 + number * 104_729 + turn), options.longest ?? 15);
      const pair = await rig.connect();
      let far: Party | undefined;
      void pair.far.then((party) => {
        far = party;
        void actFar(party, doing);
      });
      void actNear(pair, doing);
      const inTime = await settled(pair.near, () => far);
      lived.push({ name, near: pair.near, far, plan: doing });
      const rules = violations(pair.near, far);
      if (!inTime && rules.length === 0) rules.push(`is not over; near ${pair.near}; far ${far}`);
      broken.push(...rules.map((rule) => `connection ${name} (#${pair.id}): ${rule}`));
    }
  };
  await Promise.all([suffering, ...Array.from({ length: connections }, (_, number) => worker(number))]);
  return {
    faults,
    connections: lived.length,
    bytes: lived.reduce((sum, { near, far }) => sum + near.received + (far?.received ?? 0), 0),
    resets: lived.filter(({ near, far }) => near.didReset || far?.didReset).length,
    violations: broken,
  };
}

async function actNear({ near }: Pair, doing: Plan): Promise<void> {
  if (doing.resetBy === 'near') resetLater(near, doing.resetAfterMs);
  if (doing.pauseOf === 'near') void pauseFor(near, doing.pauseMs);
  if (await near.send(doing.upBytes, doing)) near.finish();
}

async function actFar(far: Party, doing: Plan): Promise<void> {
  if (doing.resetBy === 'far') resetLater(far, doing.resetAfterMs);
  if (doing.pauseOf === 'far') void pauseFor(far, doing.pauseMs);
  while (doing.lateReply && far.seen === 'open' && !far.isOver) await far.changed();
  if (await far.send(doing.downBytes, doing)) far.finish();
}

function resetLater(party: Party, afterMs: number): void {
  const timer = setTimeout(() => party.reset(), afterMs);
  party.socket.on('close', () => clearTimeout(timer));
}

async function pauseFor(party: Party, ms: number): Promise<void> {
  party.pause();
  await lasting(ms);
  party.resume();
}
