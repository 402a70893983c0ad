import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { lockIdentity } from '../../src/cli/identity-lock.js';
import { rejected } from '../support/errors.js';

const LINUX = process.platform === 'linux';

let root: string;
let folder: string;
let path: string;

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'tunnel-lock-'));
  folder = join(root, 'runtime');
  path = join(folder, 'default.lock');
});

afterEach(async () => {
  await rm(root, { recursive: true, force: true });
});

/** Takes the lock, and gives it back, to have a file of the right form. */
async function aLockFile(): Promise<{ pid: number; started: string }> {
  const unlock = await lockIdentity(folder, 'default');
  const text = await readFile(path, 'utf8');
  await unlock();
  return JSON.parse(text);
}

describe('the lock of an identity', () => {
  it('is held, then given back, and leaves no file', async () => {
    const unlock = await lockIdentity(folder, 'default');
    expect(await readdir(folder)).toEqual(['default.lock']);
    await unlock();
    expect(await readdir(folder)).toEqual([]);
    await (await lockIdentity(folder, 'default'))();
  });

  it.runIf(process.platform !== 'win32')('is for its owner alone', async () => {
    const unlock = await lockIdentity(folder, 'default');
    expect((await stat(folder)).mode & 0o777).toBe(0o700);
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    await unlock();
  });

  it('that is held is refused, naming the pid that holds it and both ways out', async () => {
    const unlock = await lockIdentity(folder, 'default');
    const error = await rejected(lockIdentity(folder, 'default'));
    expect(error.code).toBe('IDENTITY_LOCKED');
    expect(error.message).toContain(String(process.pid));
    expect(error.message).toContain('default');
    expect(error.hint).toContain('--identity');
    await unlock();
    expect(await readdir(folder)).toEqual([]);
  });

  it('of one identity does not keep another from being locked', async () => {
    const one = await lockIdentity(folder, 'default');
    const two = await lockIdentity(folder, 'work');
    await one();
    expect(await readdir(folder)).toEqual(['work.lock']);
    await two();
  });

  it('that another process holds is refused for as long as that lives, and taken over after it died', async () => {
    const script = new URL('../support/hold-lock.ts', import.meta.url).pathname;
    const holder = spawn(process.execPath, ['--import', 'tsx', script, folder], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const exited = once(holder, 'exit');
    await once(holder.stdout, 'data');
    const error = await rejected(lockIdentity(folder, 'default'));
    expect(error.code).toBe('IDENTITY_LOCKED');
    expect(error.message).toContain(String(holder.pid));
    holder.kill('SIGKILL');
    await exited;
    await (await lockIdentity(folder, 'default'))();
    expect(await readdir(folder)).toEqual([]);
  });

  it('left by a process that is dead is taken over', async () => {
    const dead = spawn(process.execPath, ['-e', '']);
    await once(dead, 'exit');
    await aLockFile();
    await writeFile(path, JSON.stringify({ pid: dead.pid, started: '12345' }));
    const unlock = await lockIdentity(folder, 'default');
    expect(JSON.parse(await readFile(path, 'utf8')).pid).toBe(process.pid);
    await unlock();
    expect(await readdir(folder)).toEqual([]);
  });

  it.runIf(LINUX)('left by a process whose pid another one has now is taken over', async () => {
    const { pid, started } = await aLockFile();
    expect(started).toMatch(/^\d+$/);
    await writeFile(path, JSON.stringify({ pid, started: `${started}0` }));
    await (await lockIdentity(folder, 'default'))();
    expect(await readdir(folder)).toEqual([]);
  });

  it.each([
    ['empty', ''],
    ['half written', '{"pid":12'],
    ['of another form', '[]'],
    ['null', 'null'],
    ['with a word for a pid', '{"pid":"x","started":""}'],
    // Signal 0 to "process 0" asks about one's own group, which always lives.
    ['with pid 0', '{"pid":0,"started":""}'],
    ['with a negative pid', '{"pid":-1,"started":""}'],
    ['with a pid no system has', '{"pid":4000000000000,"started":""}'],
  ])('that is %s holds nobody up', async (_what, text) => {
    await aLockFile();
    await writeFile(path, text);
    await (await lockIdentity(folder, 'default'))();
    expect(await readdir(folder)).toEqual([]);
  });

  it.runIf(process.platform !== 'win32')(
    'that is a link, to a file or to nothing, holds nobody up and harms nothing',
    async () => {
      await aLockFile();
      const other = join(root, 'other');
      await writeFile(other, 'of somebody else');
      for (const target of [other, join(root, 'nowhere')]) {
        await symlink(target, path);
        await (await lockIdentity(folder, 'default'))();
        expect(await readdir(folder)).toEqual([]);
      }
      expect(await readFile(other, 'utf8')).toBe('of somebody else');
      expect(await readdir(root)).toEqual(['other', 'runtime']);
    },
    5000,
  );

  it('is won by exactly one of many that want it at once', async () => {
    const results = await Promise.allSettled(
      Array.from({ length: 20 }, () => lockIdentity(folder, 'default')),
    );
    const won = results.filter((result) => result.status === 'fulfilled');
    expect(won).toHaveLength(1);
    for (const result of results) {
      if (result.status === 'rejected') expect(result.reason).toMatchObject({ code: 'IDENTITY_LOCKED' });
    }
    await won[0]?.value();
    expect(await readdir(folder)).toEqual([]);
  });

  it('that is stale is taken over by exactly one of two that want it at once', async () => {
    for (let round = 0; round < 50; round += 1) {
      await aLockFile();
      await writeFile(path, JSON.stringify({ pid: 4_000_000, started: String(round) }));
      const results = await Promise.allSettled([
        lockIdentity(folder, 'default'),
        lockIdentity(folder, 'default'),
      ]);
      const won = results.filter((result) => result.status === 'fulfilled');
      expect(won, `round ${round}`).toHaveLength(1);
      await won[0]?.value();
      expect(await readdir(folder)).toEqual([]);
    }
  });

  it('that was taken over is not given back by the one it was taken from', async () => {
    const unlock = await lockIdentity(folder, 'default');
    const other = JSON.stringify({ pid: process.pid, started: 'of another process' });
    await writeFile(path, other);
    await unlock();
    expect(await readFile(path, 'utf8')).toBe(other);
  });
});
