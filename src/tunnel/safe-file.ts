/**
 * Files that decide who may connect: read only when nobody else can write or read them, and replaced
 * as a whole (written under another name, synced, renamed), under a lock between processes. Whatever
 * fails on the way, the file is the old one or the new one.
 */
import { randomBytes } from 'node:crypto';
import { constants, statSync } from 'node:fs';
import { type FileHandle, mkdir, open, readdir, rename, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { systemCode, TunnelError, toTunnelError } from '../error.js';
import { withFileLock } from './file-lock.js';

const MAX_TRIES = 3;

export interface SafeFile {
  readonly path: string;
  /** What it is, for sentences: `ticket store`. */
  readonly what: string;
  readonly maxBytes: number;
}

/** What is there, or undefined when there is no file. Throws BAD_STATE when it is not a private file of this user. */
export async function readSafeFile({ path, what, maxBytes }: SafeFile): Promise<string | undefined> {
  let file: FileHandle;
  try {
    // Not to wait for ever where a FIFO lies in its place; not to follow a link that somebody put there.
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK | (constants.O_NOFOLLOW ?? 0));
  } catch (error) {
    const code = systemCode(error);
    if (code === 'ENOENT') return undefined;
    const hint = code === 'ELOOP' ? `put the file itself at ${path}` : 'check its owner and mode';
    throw badFile(
      path,
      what,
      code === 'ELOOP' ? 'is a symbolic link' : `cannot be read (${code})`,
      hint,
      error,
    );
  }
  try {
    const stat = await file.stat();
    if (!stat.isFile()) throw badFile(path, what, 'is not a file', 'move it away');
    const uid = process.getuid?.();
    if (uid !== undefined && stat.uid !== uid && stat.uid !== 0)
      throw badFile(path, what, 'belongs to another user', `run: sudo chown ${uid} '${path}'`);
    if (process.platform !== 'win32' && (stat.mode & 0o077) !== 0) {
      const problem = `is open to others (mode ${formatMode(stat.mode)})`;
      throw badFile(path, what, problem, `run: chmod 600 '${path}'`);
    }
    if (stat.size > maxBytes)
      throw badFile(path, what, `is larger than ${maxBytes} bytes`, 'restore it from a backup');
    return await file.readFile('utf8');
  } finally {
    await file.close();
  }
}

/**
 * Changes the file as one step, whatever other processes do at the same time. `change` gets what
 * `readSafeFile` answers and may run more than once; without a `text` in its answer nothing is written.
 * Resolves when it is on the disk. Throws BAD_STATE, OS_RESOURCE, and what `change` throws; the file is
 * as it was then.
 */
export async function updateSafeFile<T>(
  file: SafeFile,
  change: (text: string | undefined) => { readonly text?: string; readonly result: T },
): Promise<T> {
  const { path, what } = file;
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    for (let tries = 1; ; tries += 1) {
      const done = await withFileLock(path, async (stillMine) => {
        const { text, result } = change(await readSafeFile(file));
        if (text !== undefined && !(await replace(path, text, stillMine))) return undefined;
        return { result };
      });
      if (done) return done.result;
      if (tries === MAX_TRIES) {
        throw new TunnelError('OS_RESOURCE', `the ${what} ${path} cannot be saved: the lock was lost`, {
          hint: 'run the command again',
        });
      }
    }
  } catch (error) {
    const code = systemCode(error);
    if (error instanceof TunnelError || code === undefined) throw toTunnelError(error);
    throw new TunnelError('OS_RESOURCE', `the ${what} ${path} cannot be saved: ${saying(code)}`, {
      hint: `${remedy(code, path)}; nothing was lost, it is as it was before`,
      cause: error,
    });
  }
}

/** Differs when the file has been replaced since. Empty when there is none. */
export function fileStamp(path: string): string {
  const stat = statSync(path, { throwIfNoEntry: false, bigint: true });
  return stat === undefined ? '' : `${stat.ino} ${stat.mtimeNs} ${stat.size} ${stat.mode}`;
}

/** As `chmod` takes it: `0600`. */
export function formatMode(mode: number): string {
  return (mode & 0o777).toString(8).padStart(4, '0');
}

/** BAD_STATE about a file: `problem` completes the sentence. */
export function badFile(
  path: string,
  what: string,
  problem: string,
  hint: string,
  cause?: unknown,
): TunnelError {
  return new TunnelError('BAD_STATE', `the ${what} ${path} ${problem}`, { hint, cause });
}

/** Answers false, with nothing changed, when the lock has been lost. */
async function replace(path: string, text: string, stillMine: () => Promise<boolean>): Promise<boolean> {
  await removeLeftovers(path);
  const temporary = `${path}.${randomBytes(6).toString('hex')}.new`;
  try {
    const file = await open(temporary, 'wx', 0o600);
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
    if (!(await stillMine())) return false;
    await rename(temporary, path);
  } catch (error) {
    // Lost at the last moment: whoever has the lock now has cleared what it took for left.
    if (systemCode(error) === 'ENOENT' && !(await stillMine())) return false;
    throw error;
  } finally {
    await unlink(temporary).catch(() => undefined);
  }
  await syncFolder(dirname(path));
  return true;
}

/** What a writer left that died at it. Called under the lock: nobody writes now. */
async function removeLeftovers(path: string): Promise<void> {
  const name = basename(path);
  for (const other of await readdir(dirname(path))) {
    if (other.startsWith(`${name}.`) && /\.[0-9a-f]{12}\.new$/.test(other))
      await unlink(join(dirname(path), other)).catch(() => undefined);
  }
}

async function syncFolder(folder: string): Promise<void> {
  // Windows has no such thing, nor have some network file systems.
  const handle = await open(folder, constants.O_RDONLY).catch(() => undefined);
  await handle?.sync().catch(() => undefined);
  await handle?.close();
}

function saying(code: string): string {
  if (code === 'ENOSPC' || code === 'EDQUOT') return `the disk is full (${code})`;
  if (code === 'EROFS') return 'it is on a read-only file system (EROFS)';
  return code;
}

function remedy(code: string, path: string): string {
  if (code === 'ENOSPC' || code === 'EDQUOT') return `make room in ${dirname(path)}`;
  return `make ${dirname(path)} writable, or point TUNNEL_HOME elsewhere`;
}
