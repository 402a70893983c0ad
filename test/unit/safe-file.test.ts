import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { withFileLock } from '../../src/tunnel/file-lock.js';
import { fileStamp, readSafeFile, type SafeFile, updateSafeFile } from '../../src/tunnel/safe-file.js';
import { rejected } from '../support/errors.js';

const UNIX = process.platform !== 'win32';
const LINUX = process.platform === 'linux';
const SCRIPT = new URL('../support/update-file.ts', import.meta.url).pathname;

let folder: string;
let file: SafeFile;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tunnel-safe-'));
  file = { path: join(folder, 'state', 'book'), what: 'book', maxBytes: 1000 };
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

function write(text: string): Promise<void> {
  return updateSafeFile(file, () => ({ text, result: undefined }));
}

function child(...args: string[]) {
  return spawn(process.execPath, ['--import', 'tsx', SCRIPT, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
}

describe('a safe file', () => {
  it('is not there until it is written, then private and whole, with nothing beside it', async () => {
    expect(await readSafeFile(file)).toBeUndefined();
    await write('one');
    expect(await readSafeFile(file)).toBe('one');
    expect(readdirSync(join(folder, 'state'))).toEqual(['book']);
    if (!UNIX) return;
    expect(statSync(file.path).mode & 0o777).toBe(0o600);
    expect(statSync(join(folder, 'state')).mode & 0o777).toBe(0o700);
  });

  it('is left alone by a change that answers no text, and by one that throws', async () => {
    await write('one');
    const stamp = fileStamp(file.path);
    expect(await updateSafeFile(file, (text) => ({ result: text }))).toBe('one');
    await expect(
      updateSafeFile(file, () => {
        throw new Error('no');
      }),
    ).rejects.toThrow('no');
    expect(fileStamp(file.path)).toBe(stamp);
    expect(readdirSync(join(folder, 'state'))).toEqual(['book']);
  });

  it('has another stamp after each write, of the same text too', async () => {
    const stamps = [fileStamp(file.path)];
    for (let count = 0; count < 5; count += 1) {
      await write('same');
      stamps.push(fileStamp(file.path));
    }
    expect(stamps[0]).toBe('');
    expect(stamps.every((stamp, index) => stamp !== stamps[index - 1])).toBe(true);
  });

  it.runIf(UNIX).each([0o640, 0o604, 0o620, 0o602, 0o666])(
    'of mode %o is refused, and left as it is',
    async (mode) => {
      await write('one');
      chmodSync(file.path, mode);
      for (const error of [await rejected(readSafeFile(file)), await rejected(write('two'))]) {
        expect(error.code).toBe('BAD_STATE');
        expect(error.hint).toContain(`chmod 600 '${file.path}'`);
      }
      expect(readFileSync(file.path, 'utf8')).toBe('one');
    },
  );

  it.runIf(UNIX)('that is a symbolic link is refused, and neither it nor its target is touched', async () => {
    const target = join(folder, 'elsewhere');
    writeFileSync(target, 'theirs', { mode: 0o600 });
    mkdirSync(join(folder, 'state'));
    symlinkSync(target, file.path);
    expect((await rejected(readSafeFile(file))).code).toBe('BAD_STATE');
    expect((await rejected(write('mine'))).message).toContain('symbolic link');
    expect(readFileSync(target, 'utf8')).toBe('theirs');
  });

  it.runIf(UNIX)('that is a folder, a FIFO, or too large is refused', async () => {
    mkdirSync(join(folder, 'state', 'book'), { recursive: true });
    expect((await rejected(readSafeFile(file))).code).toBe('BAD_STATE');
    rmSync(file.path, { recursive: true });
    execFileSync('mkfifo', ['-m', '600', file.path]);
    expect((await rejected(readSafeFile(file))).code).toBe('BAD_STATE');
    rmSync(file.path);
    writeFileSync(file.path, 'x'.repeat(1001), { mode: 0o600 });
    expect((await rejected(readSafeFile(file))).message).toContain('larger');
  });

  it.runIf(LINUX)('is the old one when there is no room for the new one', async () => {
    await write('old');
    // No file of this child may be larger than 512 bytes: the write fails midway, as on a full disk.
    const writer = spawn(
      'sh',
      [
        '-c',
        'ulimit -f 1; exec "$0" --import tsx "$@"',
        process.execPath,
        SCRIPT,
        file.path,
        'x'.repeat(2000),
        '1',
      ],
      { stdio: ['ignore', 'ignore', 'pipe'] },
    );
    let stderr = '';
    writer.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    const [code] = await once(writer, 'close');
    expect(code).not.toBe(0);
    expect(stderr).toContain('OS_RESOURCE');
    expect(stderr).toContain('nothing was lost');
    expect(readFileSync(file.path, 'utf8')).toBe('old');
    expect(readdirSync(join(folder, 'state'))).toEqual(['book']);
  });

  it('loses no change when many are made at once in one process', async () => {
    await Promise.all(
      Array.from({ length: 50 }, (_, index) =>
        updateSafeFile(file, (text = '') => ({ text: `${text}${index}\n`, result: undefined })),
      ),
    );
    const lines = (await readSafeFile(file))?.trim().split('\n').map(Number);
    expect(lines?.sort((a, b) => a - b)).toEqual(Array.from({ length: 50 }, (_, index) => index));
  });

  it('loses no change when many processes make them at once', async () => {
    const writers = Array.from({ length: 4 }, (_, index) => child(file.path, `w${index}`, '100'));
    const codes = await Promise.all(writers.map(async (writer) => (await once(writer, 'exit'))[0]));
    expect(codes).toEqual([0, 0, 0, 0]);
    const lines = readFileSync(file.path, 'utf8').trim().split('\n');
    expect(new Set(lines).size).toBe(400);
    expect(lines).toHaveLength(400);
    expect(readdirSync(join(folder, 'state'))).toEqual(['book']);
  });

  it('is free at once when the process that was writing it is killed, and what that left is cleared', async () => {
    await write('one');
    const holder = child(file.path, 'holder', 'hold');
    await once(holder.stdout, 'data');
    writeFileSync(`${file.path}.0123456789ab.new`, 'half');
    let done = false;
    const writing = write('two').then(() => {
      done = true;
    });
    expect(await withTimer(writing, 200)).toBe('timer');
    expect(done).toBe(false);
    holder.kill('SIGKILL');
    await once(holder, 'exit');
    await writing;
    expect(readFileSync(file.path, 'utf8')).toBe('two');
    expect(readdirSync(join(folder, 'state'))).toEqual(['book']);
  });
});

describe('the lock of a file', () => {
  it('is had by one at a time, in one process', async () => {
    mkdirSync(join(folder, 'state'));
    let inside = 0;
    let most = 0;
    await Promise.all(
      Array.from({ length: 20 }, () =>
        withFileLock(file.path, async () => {
          inside += 1;
          most = Math.max(most, inside);
          await new Promise((resolve) => setImmediate(resolve));
          inside -= 1;
        }),
      ),
    );
    expect(most).toBe(1);
    expect(existsSync(`${file.path}.lock`)).toBe(false);
  });

  it('of a process that has stopped for long is passed by, and lost to it', async () => {
    mkdirSync(join(folder, 'state'));
    await withFileLock(file.path, async (stillMine) => {
      expect(await stillMine()).toBe(true);
      const lock = `${file.path}.lock`;
      const [mine = ''] = readdirSync(lock);
      utimesSync(join(lock, mine), new Date(0), new Date(0));
      const other = child(file.path, 'other', '1');
      await once(other, 'exit');
      expect(await stillMine()).toBe(false);
    });
    expect(readFileSync(file.path, 'utf8')).toBe('other 0\n');
  });

  it('is waited for again by one that was taken for dead while it waited', async () => {
    mkdirSync(join(folder, 'state'));
    const lock = `${file.path}.lock`;
    let other: ReturnType<typeof child> | undefined;
    await withFileLock(file.path, async () => {
      const [mine = ''] = readdirSync(lock);
      other = child(file.path, 'other', '1');
      const waiting = () => readdirSync(lock).filter((name) => name !== mine && !name.startsWith('c.'));
      await expect.poll(waiting, { timeout: 20_000 }).toHaveLength(1);
      const [first = ''] = waiting();
      unlinkSync(join(lock, first));
      await expect.poll(waiting).toEqual([expect.not.stringMatching(first)]);
    });
    expect(await once(other as ReturnType<typeof child>, 'exit')).toEqual([0, null]);
    expect(readFileSync(file.path, 'utf8')).toBe('other 0\n');
  });

  it('is not held up by names that mean nothing, nor by a dead process that was choosing', async () => {
    const lock = `${file.path}.lock`;
    mkdirSync(lock, { recursive: true });
    writeFileSync(join(lock, 'what'), '');
    const dead = spawn(process.execPath, ['-e', '']);
    await once(dead, 'exit');
    const namespace = LINUX ? /\d+/.exec(readlinkSync('/proc/self/ns/pid'))?.[0] : '';
    writeFileSync(join(lock, `c.${dead.pid}.1.${namespace}.0123456789ab`), '');
    await write('one');
    expect(readdirSync(lock)).toEqual(['what']);
  });
});

async function withTimer(work: Promise<unknown>, ms: number): Promise<unknown> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise((resolve) => {
    timer = setTimeout(resolve, ms, 'timer');
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
