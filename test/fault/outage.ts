/**
 * One outage, and what the connections that live through it were promised: each scenario has a
 * connection of its own, for which something happens before, during and after.
 */
import type { ChildProcess } from 'node:child_process';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { channelsClosed } from '../support/channel-counts.js';
import { describeFaults, lasting, say } from '../support/describe-faults.js';
import type { Party } from '../support/party.js';
import { type Pair, Rig, type RigOptions } from '../support/rig.js';
import { doomedEnds, openDoomed, startSilentTarget } from '../support/silent-target.js';
import {
  type Bulk,
  completes,
  type Ends,
  SCENARIOS,
  type Scenario,
  SETTLED_MS,
  sendAndFinish,
} from './outage-scenarios.js';

const KIB = 1024;
const MIB = 1024 * KIB;
/** The path is known to be dead after this long: 5 s of silence, and time to say so on a busy machine. */
const KNOWN_DEAD_MS = 7_000;
const BULK: Bulk = { bytes: 128 * MIB };
const EACH_MS = 3 * SETTLED_MS;

export interface OutageOptions {
  readonly begin: (rig: Rig) => Promise<void>;
  readonly end: (rig: Rig) => Promise<void>;
  readonly ms: number;
  /** Whether the forward must have noticed. */
  readonly noticed: boolean;
  readonly bulk?: Bulk;
  readonly rig?: RigOptions;
}

/** Declares the tests of one outage. The story runs once; each test looks at one line of it. */
export function describeOutage(title: string, options: OutageOptions): void {
  describeFaults(title, () => {
    const results = new Map<string, Promise<void>>();
    let story: Story | undefined;

    beforeAll(async () => {
      story = await Story.live(options, results);
    }, options.ms + 120_000);

    afterAll(async () => {
      await story?.dispose();
    }, 60_000);

    const moments = options.noticed ? (['early', 'late'] as const) : (['early'] as const);
    for (const scenario of SCENARIOS) {
      for (const moment of scenario.during ? moments : (['early'] as const)) {
        const name = label(scenario, moment);
        it(name, () => results.get(name), EACH_MS);
      }
    }
    for (const moment of moments) {
      it(
        `10 connections opened during the outage (${moment}) are served after it`,
        () => results.get(`opened ${moment}`),
        EACH_MS,
      );
      it(
        `connections opened and reset during the outage (${moment}) leave nothing behind`,
        () => results.get(`opened and reset ${moment}`),
        EACH_MS,
      );
    }
    it(
      'a target that dies during it is a reset for the application',
      () => results.get('target'),
      SETTLED_MS,
    );
    it('not a byte got through meanwhile', () => results.get('silence'));
    it('the forward says that it reconnects, and that it is back', () => results.get('events'));
    it(
      'every channel ended by what an application did, and by nothing else',
      () => results.get('reasons'),
      EACH_MS,
    );
    it(
      'every channel that was opened is closed in the end, in both processes',
      () => results.get('nothing left'),
      EACH_MS,
    );
  });
}

function label(scenario: Scenario, moment: 'early' | 'late'): string {
  return scenario.during ? `${scenario.title} (${moment})` : scenario.title;
}

class Story {
  readonly #rig: Rig;
  readonly #doomed: ChildProcess;

  private constructor(rig: Rig, doomed: ChildProcess) {
    this.#rig = rig;
    this.#doomed = doomed;
  }

  static async live(options: OutageOptions, results: Map<string, Promise<void>>): Promise<Story> {
    let doomed: ChildProcess | undefined;
    const rig = await Rig.start({
      ...options.rig,
      targets: async (network) => {
        const started = await startSilentTarget(network);
        doomed = started.child;
        return [`doomed=${started.port}`];
      },
    });
    const story = new Story(rig, doomed as ChildProcess);
    try {
      await story.#run(options, results);
    } catch (error) {
      await story.dispose();
      throw error;
    }
    return story;
  }

  async dispose(): Promise<void> {
    this.#doomed.kill('SIGKILL');
    await this.#rig.dispose();
  }

  async #run(options: OutageOptions, results: Map<string, Promise<void>>): Promise<void> {
    const rig = this.#rig;
    /** A failure is the test's that asks for it, not this story's. */
    const keep = (name: string, work: Promise<void>) => {
      work.catch(() => undefined);
      results.set(name, work);
    };
    const moments = options.noticed ? (['early', 'late'] as const) : (['early'] as const);
    const running: { scenario: Scenario; moment: 'early' | 'late'; ends: Ends }[] = [];
    for (const scenario of SCENARIOS) {
      for (const moment of scenario.during ? moments : (['early'] as const)) {
        running.push({ scenario, moment, ends: await rig.connected() });
      }
    }
    const doomed = await openDoomed(rig, 8 * MIB);
    const transfers = running.filter(({ scenario }) => !scenario.during);
    const prepare = ({ scenario, ends }: (typeof running)[number]) =>
      scenario.before?.(ends, options.bulk ?? BULK);
    await Promise.all(running.filter(({ scenario }) => scenario.during).map(prepare));
    // The big transfers last, so that they are in full swing when the path goes.
    await Promise.all(transfers.map(prepare));

    const mark = rig.mark;
    const begunAt = performance.now();
    await options.begin(rig);
    const ending = lasting(options.ms);
    const opened: Pair[] = [];
    const reset: Pair[] = [];
    const act = async (now: 'early' | 'late') => {
      for (const { scenario, moment, ends } of running) if (moment === now) scenario.during?.(ends);
      const group = await Promise.all(Array.from({ length: 10 }, () => rig.connect()));
      for (const { near } of group) sendAndFinish(near, 64 * KIB);
      opened.push(...group);
      const short = await Promise.all(Array.from({ length: 5 }, () => rig.connect()));
      for (const { near } of short) void near.send(KIB).then(() => near.reset());
      reset.push(...short);
      return { group, short };
    };
    const early = await act('early');
    let late: Awaited<ReturnType<typeof act>> | undefined;
    let noticedAfter = Number.NaN;
    if (options.noticed) {
      const noticed = rig.session('reconnecting', mark).then(() => {
        noticedAfter = performance.now() - begunAt;
      });
      await Promise.race([noticed, ending]);
      noticed.catch(() => undefined);
      late = await act('late');
    }
    this.#doomed.kill('SIGKILL');
    const first = running[0]?.ends.near as Party;
    // What was already in the kernels and processes of the near side has been read by then.
    const quietFrom = Math.min(1_500, options.ms / 2);
    const left = begunAt + quietFrom - performance.now();
    if (left > 0) await lasting(left);
    const before = first.received;
    await ending;
    const during = first.received;
    const mendedAt = performance.now();
    await options.end(rig);

    keep('silence', (async () => expect(during).toBe(before))());
    const connectedAgain = first.whenReceived(during + 1, SETTLED_MS).then(() => {
      say(`  data flows ${Math.round(performance.now() - mendedAt)} ms after the mend`);
    });
    connectedAgain.catch(() => undefined);
    for (const { scenario, moment, ends } of running) keep(label(scenario, moment), scenario.after(ends));
    const groups = [['early', early] as const, ...(late ? [['late', late] as const] : [])];
    for (const [moment, { group, short }] of groups) {
      keep(
        `opened ${moment}`,
        Promise.all(group.map((pair) => served(rig, pair))).then(() => undefined),
      );
      // They may reach the service, but if they do it is as resets.
      keep(
        `opened and reset ${moment}`,
        Promise.all(short.map(resetArrives)).then(() => undefined),
      );
    }
    keep('target', doomedEnds(doomed));
    keep('events', noticedEvents(rig, { mark, noticedAfter, required: options.noticed }));
    const rest = Promise.allSettled(results.values());
    keep(
      'nothing left',
      rest.then(() => channelsClosed([rig.forward, rig.expose])),
    );
    keep(
      'reasons',
      rest.then(() => {
        const closes = [rig.forward, rig.expose].flatMap(({ events }) =>
          events.filter(({ event }) => event === 'channel.close'),
        );
        expect(closes.filter(({ reason }) => reason !== 'eos' && reason !== 'reset')).toEqual([]);
      }),
    );
  }
}

async function served(rig: Rig, pair: Pair): Promise<void> {
  const ends = { near: pair.near, far: await rig.arrival(pair, SETTLED_MS) };
  sendAndFinish(ends.far, 64 * KIB);
  await completes(ends);
}

async function resetArrives({ far }: Pair): Promise<void> {
  const arrived = await Promise.race([far, lasting(5_000)]);
  if (!arrived) return;
  expect(await arrived.whenSeen(SETTLED_MS)).toBe('reset');
}

async function noticedEvents(
  rig: Rig,
  seen: { mark: number; noticedAfter: number; required: boolean },
): Promise<void> {
  if (seen.required) {
    expect(seen.noticedAfter, 'ms until `reconnecting`').toBeLessThan(KNOWN_DEAD_MS);
    const resumed = await rig.forward.event('resume', {}, seen.mark);
    say(`  noticed after ${Math.round(seen.noticedAfter)} ms; ${JSON.stringify(resumed)}`);
    await rig.session('connected', seen.mark);
    expect(resumed.lost, 'what an application ended is not lost').toBe(0);
    expect(resumed.resumed).toBeGreaterThan(0);
    expect(resumed.downMs).toBeGreaterThan(0);
  }
  expect(rig.forward.child.exitCode).toBeNull();
  expect(rig.expose.child.exitCode).toBeNull();
}
