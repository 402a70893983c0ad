/**
 * Mutual exclusion between processes that write one file: Lamport's bakery, with files for numbers.
 *
 * Each contender makes entries of its own, named after its process, in a folder beside the file. The
 * entries of a dead process are simply removed: no lock is ever taken over from anyone, so there is no
 * moment at which two could take the same one.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, open, readdir, readlink, rmdir, stat, unlink, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { systemCode, TunnelError } from '../error.js';
import { isAlive, startTime } from './process-start.js';
import { wait } from './wait.js';

/** The work under a lock takes milliseconds. Who has not ended after so long is stopped, or of a machine that is gone. */
const STALE_MS = 10_000;
const GIVE_UP_MS = 20_000;
/** So often does one that waits say that it is there. */
const RENEW_MS = 1_000;
const POLL_MS = 4;

interface Entry {
  readonly name: string;
  /** Undefined while it chooses. */
  readonly number: number | undefined;
  readonly pid: number;
  readonly started: string;
  readonly namespace: string;
  readonly id: string;
}

/** The last of those of this process that want the lock of a path: they queue here, and one of them at a time outside. */
const queues = new Map<string, Promise<unknown>>();

/**
 * Runs `work` while no other process runs its own for the same `path`. `stillMine` answers whether the
 * lock is still held: ask it last before what cannot be undone. Throws OS_RESOURCE when others keep
 * the lock for 20 s, and system errors.
 */
export async function withFileLock<T>(
  path: string,
  work: (stillMine: () => Promise<boolean>) => Promise<T>,
): Promise<T> {
  const before = queues.get(path) ?? Promise.resolve();
  const mine = before.catch(() => undefined).then(() => locked(path, work));
  queues.set(path, mine);
  try {
    return await mine;
  } finally {
    if (queues.get(path) === mine) queues.delete(path);
  }
}

async function locked<T>(path: string, work: (stillMine: () => Promise<boolean>) => Promise<T>): Promise<T> {
  const giveUpAt = performance.now() + GIVE_UP_MS;
  for (;;) {
    const done = await contend(path, giveUpAt, work);
    if (done !== undefined) return done.result;
  }
}

/** Answers undefined when others took this process for dead before its turn came: to be tried again. */
async function contend<T>(
  path: string,
  giveUpAt: number,
  work: (stillMine: () => Promise<boolean>) => Promise<T>,
): Promise<{ readonly result: T } | undefined> {
  const folder = `${path}.lock`;
  const suffix = `${process.pid}.${await startTime(process.pid)}.${await pidNamespace()}.${randomBytes(6).toString('hex')}`;
  const choosing = join(folder, `c.${suffix}`);
  let held: string | undefined;
  try {
    await enter(folder, choosing);
    let number: number;
    try {
      number = 1 + Math.max(0, ...(await entries(folder)).map((entry) => entry.number ?? 0));
      held = join(folder, `${number}.${suffix}`);
      await touch(held);
      // Gone already: somebody did not wait for this choice.
      await unlink(choosing);
      await turn(path, folder, number, suffix, giveUpAt);
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return undefined;
      throw error;
    }
    const own = held;
    return { result: await work(async () => (await stat(own).catch(() => undefined)) !== undefined) };
  } finally {
    await unlink(choosing).catch(() => undefined);
    if (held !== undefined) await unlink(held).catch(() => undefined);
    // Only an empty one goes.
    await rmdir(folder).catch(() => undefined);
  }
}

/** Who leaves last removes the folder: it is made again then. */
async function enter(folder: string, choosing: string): Promise<void> {
  for (let tries = 0; ; tries += 1) {
    try {
      // That, too, fails when the folder goes while it looks at it.
      await mkdir(folder, { recursive: true, mode: 0o700 });
      return await touch(choosing);
    } catch (error) {
      if (systemCode(error) !== 'ENOENT' || tries > 100) throw error;
    }
  }
}

/** Returns when it is the turn of `number`. Throws ENOENT when the entry of this process is gone. */
async function turn(
  path: string,
  folder: string,
  number: number,
  suffix: string,
  giveUpAt: number,
): Promise<void> {
  const id = suffix.slice(suffix.lastIndexOf('.') + 1);
  const renew = () => utimes(join(folder, `${number}.${suffix}`), new Date(), new Date());
  let renewAt = performance.now() + RENEW_MS;
  // Who chose while this one did may get a number below its own: first they are all to have one.
  let choosers: ReadonlySet<string> | undefined;
  for (;;) {
    const others = (await entries(folder)).filter((entry) => entry.id !== id);
    const inTheWay = others.filter((entry) =>
      choosers === undefined || choosers.size > 0
        ? entry.number === undefined && (choosers?.has(entry.id) ?? true)
        : entry.number !== undefined && (entry.number < number || (entry.number === number && entry.id < id)),
    );
    const living = await removeDead(folder, inTheWay);
    if (choosers === undefined || choosers.size > 0) {
      choosers = new Set(living.map((entry) => entry.id));
      if (choosers.size === 0) continue;
    } else if (living.length === 0) return renew();
    if (performance.now() > giveUpAt) {
      throw new TunnelError('OS_RESOURCE', `${path} is being written by the process ${living[0]?.pid}`, {
        hint: 'run the command again; if that process hangs, end it',
      });
    }
    await wait(POLL_MS * (1 + Math.random()));
    if (performance.now() < renewAt) continue;
    await renew();
    renewAt = performance.now() + RENEW_MS;
  }
}

async function entries(folder: string): Promise<readonly Entry[]> {
  return (await readdir(folder)).flatMap((name) => {
    const match = /^(c|\d{1,15})\.(\d+)\.(\d*)\.(\d*)\.([0-9a-f]{12})$/.exec(name);
    if (!match) return [];
    const [, number = '', pid, started = '', namespace = '', id = ''] = match;
    return [
      { name, number: number === 'c' ? undefined : Number(number), pid: Number(pid), started, namespace, id },
    ];
  });
}

/** Those of `found` whose processes live. */
async function removeDead(folder: string, found: readonly Entry[]): Promise<readonly Entry[]> {
  const living: Entry[] = [];
  for (const entry of found) {
    const path = join(folder, entry.name);
    const made = await stat(path).catch(() => undefined);
    if (made === undefined) continue;
    if (Math.abs(Date.now() - made.mtimeMs) < STALE_MS && (await lives(entry))) living.push(entry);
    else await unlink(path).catch(() => undefined);
  }
  return living;
}

async function lives({ pid, started, namespace }: Entry): Promise<boolean> {
  // Of another container that shares the folder: its pids say nothing here.
  if (namespace !== (await pidNamespace())) return true;
  return isAlive(pid, started);
}

async function pidNamespace(): Promise<string> {
  return /\d+/.exec(await readlink('/proc/self/ns/pid').catch(() => ''))?.[0] ?? '';
}

async function touch(path: string): Promise<void> {
  await (await open(path, 'wx', 0o600)).close();
}
