/**
 * One endpoint per identity: two under one key confuse relays and peers' address caches. The lock is
 * a file with the holder's pid and start time, so that one left by a dead process, or by another
 * process that got its pid since, is known for stale.
 */
import { randomBytes } from 'node:crypto';
import { link, lstat, mkdir, readFile, rename, rm, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { systemCode, TunnelError } from '../error.js';
import { isAlive, startTime } from '../tunnel/process-start.js';

interface Holder {
  readonly pid: number;
  /** Clock ticks since boot at which the process began; empty where the system does not tell. */
  readonly started: string;
}

/** Throws IDENTITY_LOCKED naming the pid that holds it. Answers what gives it back. */
export async function lockIdentity(runtimeFolder: string, name: string): Promise<() => Promise<void>> {
  await mkdir(runtimeFolder, { recursive: true, mode: 0o700 });
  const path = join(runtimeFolder, `${name}.lock`);
  const mine = JSON.stringify({ pid: process.pid, started: await startTime(process.pid) } satisfies Holder);
  const temporary = `${path}.${process.pid}.${randomBytes(4).toString('hex')}`;
  await writeFile(temporary, mine, { mode: 0o600 });
  try {
    for (;;) {
      try {
        // link(2) is exclusive, and what appears is complete.
        await link(temporary, path);
        return async () => {
          if ((await readFile(path, 'utf8').catch(() => '')) === mine) await rm(path, { force: true });
        };
      } catch (error) {
        if (systemCode(error) !== 'EEXIST') throw error;
      }
      await takeOverStale(path, name);
    }
  } finally {
    await unlink(temporary).catch(() => undefined);
  }
}

/** Who holds it: a pid, `stale` where a dead process left it behind, undefined where it is free. Changes nothing. */
export async function lockHolder(runtimeFolder: string, name: string): Promise<number | 'stale' | undefined> {
  const path = join(runtimeFolder, `${name}.lock`);
  const stat = await lstat(path).catch(() => undefined);
  if (!stat) return undefined;
  const holder = stat.isFile() ? parseHolder(await readFile(path, 'utf8').catch(() => '')) : undefined;
  return holder && (await isAlive(holder.pid, holder.started)) ? holder.pid : 'stale';
}

/** Returns when the lock at `path` was stale and is gone; throws when it is held. */
async function takeOverStale(path: string, name: string): Promise<void> {
  const stat = await lstat(path).catch(() => undefined);
  if (!stat) return;
  // A link or a pipe is no lock of anybody's: it is not read, which could lead elsewhere or never end.
  const isFile = stat.isFile();
  const text = isFile ? await readFile(path, 'utf8').catch(() => undefined) : '';
  if (text === undefined) return;
  const holder = parseHolder(text);
  if (holder && (await isAlive(holder.pid, holder.started))) {
    throw new TunnelError('IDENTITY_LOCKED', `identity '${name}' is in use by the process ${holder.pid}`, {
      hint: 'give one process all the targets (expose 8080 5432), or use another identity: --identity other',
    });
  }
  // Moved aside first: another process may have done the same and made a lock of its own since.
  const aside = `${path}.stale.${randomBytes(4).toString('hex')}`;
  try {
    await rename(path, aside);
  } catch {
    return;
  }
  if (isFile && (await readFile(aside, 'utf8').catch(() => text)) !== text)
    await link(aside, path).catch(() => undefined);
  await unlink(aside).catch(() => undefined);
}

function parseHolder(text: string): Holder | undefined {
  try {
    const { pid, started } = JSON.parse(text) as Partial<Holder>;
    return Number.isInteger(pid) && (pid as number) > 0 && typeof started === 'string'
      ? { pid: pid as number, started }
      : undefined;
  } catch {
    return undefined;
  }
}
