/** The monkey's mischief: a list that follows from the seed, and what carries it out. */
import { lasting } from '../support/describe-faults.js';
import { Schedule } from '../support/random.js';
import type { Rig } from '../support/rig.js';

const KINDS = [
  ...['cut', 'cut', 'cut', 'near link', 'far link', 'loss', 'near address'],
  ...['stop expose', 'stop forward', 'cut and stop expose', 'cut and near address'],
] as const;

export interface Fault {
  readonly afterMs: number;
  readonly kind: (typeof KINDS)[number];
  readonly ms: number;
  readonly percent: number;
}

/** As many as fit into the time. */
export function scheduleFaults(seed: number, seconds: number): readonly Fault[] {
  const schedule = new Schedule(seed);
  const faults: Fault[] = [];
  for (let at = 0; ; ) {
    const fault = {
      afterMs: schedule.between(50, 2_500),
      kind: schedule.pick(KINDS),
      // Mostly short, now and then longer than the session lives.
      ms: schedule.chance(0.1) ? schedule.between(9_000, 14_000) : schedule.magnitude(50, 8_000),
      percent: schedule.between(5, 40),
    };
    at += fault.afterMs + fault.ms;
    if (at > seconds * 1000) return faults;
    faults.push(fault);
  }
}

/** Carries them out in turn, and leaves network and processes whole. */
export async function sufferFaults(rig: Rig, faults: readonly Fault[], log: string[]): Promise<void> {
  const startedAt = performance.now();
  for (const fault of faults) {
    await lasting(fault.afterMs);
    const at = ((performance.now() - startedAt) / 1000).toFixed(1);
    log.push(
      `${at} s: ${fault.kind} for ${fault.ms} ms${fault.kind === 'loss' ? ` of ${fault.percent} %` : ''}`,
    );
    await suffer(rig, fault);
  }
}

async function suffer(rig: Rig, { kind, ms, percent }: Fault): Promise<void> {
  const { network } = rig;
  switch (kind) {
    case 'cut':
      await network.cut();
      await lasting(ms);
      return network.mend();
    case 'near link':
      await network.near.linkDown();
      await lasting(ms);
      return network.near.linkUp();
    case 'far link':
      await network.far.linkDown();
      await lasting(ms);
      return network.far.linkUp();
    case 'loss':
      await network.lose(percent);
      await lasting(ms);
      return network.lose(0);
    case 'near address':
      return network.near.changeAddress();
    case 'stop expose':
      return stopped(rig.expose.pid, () => lasting(ms));
    case 'stop forward':
      return stopped(rig.forward.pid, () => lasting(ms));
    case 'cut and stop expose':
      await network.cut();
      await stopped(rig.expose.pid, () => lasting(ms));
      return network.mend();
    case 'cut and near address':
      await network.cut();
      await network.near.changeAddress();
      await lasting(ms);
      return network.mend();
  }
}

async function stopped(pid: number, meanwhile: () => Promise<void>): Promise<void> {
  process.kill(pid, 'SIGSTOP');
  try {
    await meanwhile();
  } finally {
    process.kill(pid, 'SIGCONT');
  }
}
