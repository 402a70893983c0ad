/**
 * One outage, and what the connections that live through it were promised: each scenario has a
 * connection of its own, for which something happens before, during and after.
 */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { describeFaults, lasting, say } from '../support/describe-faults.js';
import { eventually } from '../support/eventually.js';
import type { Network } from '../support/netns.js';
import type { Party } from '../support/party.js';
import { type Pair, Rig } from '../support/rig.js';
import { endOf } from '../support/sockets.js';
import type { TunnelProcess } from '../support/tunnel-process.js';

const KIB = 1024;
const MIB = 1024 * KIB;
/** The path is known to be dead after this long: 5 s of silence, and time to say so on a busy machine. */
const KNOWN_DEAD_MS = 7_000;
/** After the mend everything must come to its end within this time. */
const SETTLED_MS = 40_000;

export interface OutageOptions {
  readonly begin: (rig: Rig) => Promise<void>;
  readonly end: (rig: Rig) => Promise<void>;
  readonly ms: number;
  /** Whether the forward must have noticed. */
  readonly noticed: boolean;
}

interface Ends {
  readonly near: Party;
  readonly far: Party;
}

interface Scenario {
  readonly title: string;
  /** Resolves when the outage may begin. */
  before?(ends: Ends): Promise<void>;
  during?(ends: Ends): void;
  after(ends: Ends): Promise<void>;
}

/** Both sides' streams are whole, and both ends are ends. */
async function completes({ near, far }: Ends): Promise<void> {
  expect(await near.whenSeen(SETTLED_MS), `${near}`).toBe('end');
  expect(await far.whenSeen(SETTLED_MS), `${far}`).toBe('end');
  exact(near, far);
  exact(far, near);
}

function exact(receiver: Party, sender: Party): void {
  expect(receiver.wrongAt, 'first wrong byte').toBeUndefined();
  expect(receiver.received).toBe(sender.sent);
  expect(receiver.receivedSha256).toBe(sender.sentSha256);
}

function sendAndFinish(party: Party, bytes: number): void {
  void party.send(bytes).then(() => party.finish());
}

async function exchange({ near, far }: Ends): Promise<void> {
  await Promise.all([near.send(KIB), far.send(KIB)]);
  await Promise.all([near.whenReceived(KIB, SETTLED_MS), far.whenReceived(KIB, SETTLED_MS)]);
}

const SCENARIOS: readonly Scenario[] = [
  {
    title: 'a download in mid-transfer arrives with the same SHA-256',
    async before({ near, far }) {
      sendAndFinish(far, 128 * MIB);
      near.finish();
      await near.whenReceived(8 * MIB, SETTLED_MS);
    },
    after: completes,
  },
  {
    title: 'an upload in mid-transfer arrives with the same SHA-256',
    async before({ near, far }) {
      sendAndFinish(near, 128 * MIB);
      far.finish();
      await far.whenReceived(8 * MIB, SETTLED_MS);
    },
    after: completes,
  },
  {
    title: 'an idle connection goes on',
    before: exchange,
    async after(ends) {
      sendAndFinish(ends.near, 300 * KIB);
      sendAndFinish(ends.far, 300 * KIB);
      await completes(ends);
    },
  },
  {
    title: 'what both sides write and end during the outage arrives whole',
    before: exchange,
    during({ near, far }) {
      sendAndFinish(near, 600 * KIB);
      sendAndFinish(far, 600 * KIB);
    },
    after: completes,
  },
  {
    title: 'a late reply of 4 MiB, begun during the outage after a half-close before it, arrives whole',
    async before({ near, far }) {
      sendAndFinish(near, MIB);
      expect(await far.whenSeen(SETTLED_MS)).toBe('end');
    },
    during: ({ far }) => sendAndFinish(far, 4 * MIB),
    after: completes,
  },
  {
    title: 'a late request of 4 MiB, begun during the outage after the service ended its side, arrives whole',
    async before({ near, far }) {
      far.finish();
      expect(await near.whenSeen(SETTLED_MS)).toBe('end');
    },
    during: ({ near }) => sendAndFinish(near, 4 * MIB),
    after: completes,
  },
  {
    title: 'a reader that stopped before the outage and goes on after it gets every byte',
    async before({ near, far }) {
      near.pause();
      sendAndFinish(far, 48 * MIB);
      near.finish();
      await far.until('a blocked sender', SETTLED_MS, () => far.socket.writableNeedDrain);
    },
    async after(ends) {
      ends.near.resume();
      await completes(ends);
    },
  },
  {
    title: 'a reset by the application during the outage reaches the service as a reset',
    before: exchange,
    during: ({ near }) => near.reset(),
    async after({ far }) {
      expect(await far.whenSeen(SETTLED_MS)).toBe('reset');
    },
  },
  {
    title: 'a reset by the application in mid-upload during the outage reaches the service as a reset',
    async before({ near, far }) {
      void near.send(256 * MIB);
      await far.whenReceived(4 * MIB, SETTLED_MS);
    },
    during: ({ near }) => near.reset(),
    async after({ near, far }) {
      expect(await far.whenSeen(SETTLED_MS)).toBe('reset');
      expect(far.wrongAt).toBeUndefined();
      expect(far.received).toBeLessThan(near.sent);
    },
  },
  {
    title: 'a reset by the service during the outage reaches the application as a reset',
    before: exchange,
    during: ({ far }) => far.reset(),
    async after({ near }) {
      expect(await near.whenSeen(SETTLED_MS)).toBe('reset');
    },
  },
  {
    title: 'a reset by the service during the outage, after the application ended its side, is no clean end',
    async before({ near, far }) {
      sendAndFinish(near, KIB);
      expect(await far.whenSeen(SETTLED_MS)).toBe('end');
      await far.send(KIB);
    },
    during: ({ far }) => far.reset(),
    async after({ near }) {
      expect(await near.whenSeen(SETTLED_MS)).toBe('reset');
    },
  },
];

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
        it(name, () => results.get(name), SETTLED_MS * 2);
      }
    }
    for (const moment of moments) {
      it(
        `10 connections opened during the outage (${moment}) are served after it`,
        () => results.get(`opened ${moment}`),
        SETTLED_MS * 2,
      );
      it(
        `connections opened and reset during the outage (${moment}) leave nothing behind`,
        () => results.get(`opened and reset ${moment}`),
        SETTLED_MS * 2,
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
      'every channel that was opened is closed in the end, in both processes',
      () => results.get('nothing left'),
      SETTLED_MS * 2,
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
    const prepare = ({ scenario, ends }: (typeof running)[number]) => scenario.before?.(ends);
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
    const mendMark = rig.mark;
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
        Promise.all(group.map(served)).then(() => undefined),
      );
      // They may reach the service, but if they do it is as resets.
      keep(
        `opened and reset ${moment}`,
        Promise.all(short.map(resetArrives)).then(() => undefined),
      );
    }
    keep('target', doomedEnds(doomed));
    keep('events', noticedEvents(rig, { mark, mendMark, noticedAfter, required: options.noticed }));
    await Promise.allSettled(results.values());
    keep('nothing left', channelsClosed([rig.forward, rig.expose]));
    await Promise.allSettled(results.values());
  }
}

async function served({ near, far }: Pair): Promise<void> {
  const ends = { near, far: await far };
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
  seen: { mark: number; mendMark: number; noticedAfter: number; required: boolean },
): Promise<void> {
  if (seen.required) {
    expect(seen.noticedAfter, 'ms until `reconnecting`').toBeLessThan(KNOWN_DEAD_MS);
    const resumed = await rig.forward.event('resume', {}, seen.mark);
    say(`  noticed after ${Math.round(seen.noticedAfter)} ms; ${JSON.stringify(resumed)}`);
    await rig.session('connected', seen.mark);
    expect(resumed.lost).toBe(0);
    expect(resumed.resumed).toBeGreaterThan(0);
    expect(resumed.downMs).toBeGreaterThan(0);
  }
  expect(rig.forward.child.exitCode).toBeNull();
  expect(rig.expose.child.exitCode).toBeNull();
}

export async function channelsClosed(processes: readonly TunnelProcess[]): Promise<void> {
  const count = (one: TunnelProcess, name: string) => one.events.filter(({ event }) => event === name).length;
  for (const one of processes) {
    await eventually(() => count(one, 'channel.open') === count(one, 'channel.close'), SETTLED_MS);
    expect(count(one, 'channel.open'), 'channels still open').toBe(count(one, 'channel.close'));
  }
}

/** A target in a process of its own that never reads, so that its death is a reset. */
async function startSilentTarget(network: Network): Promise<{ child: ChildProcess; port: number }> {
  const child = network.far.spawn(process.execPath, ['-e', SILENT_TARGET]);
  const lines = createInterface({ input: child.stdout as NodeJS.ReadableStream });
  const [line] = (await once(lines, 'line')) as [string];
  return { child, port: Number(line) };
}

const SILENT_TARGET = `
const server = require('net').createServer({ pauseOnConnect: true }, () => undefined);
server.listen(0, '127.0.0.1', () => console.log(server.address().port));`;

/** A connection to that target with an upload that has got stuck. */
async function openDoomed(rig: Rig, bytes: number): Promise<Socket> {
  const socket = await rig.network.near.dial(await rig.portOf('doomed'));
  socket.resume();
  const chunk = Buffer.alloc(64 * KIB);
  for (let sent = 0; sent < bytes && socket.write(chunk); sent += chunk.length);
  return socket;
}

async function doomedEnds(socket: Socket): Promise<void> {
  expect(socket.errored ? 'reset' : await endOf(socket)).toBe('reset');
}
