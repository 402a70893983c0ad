/** Keys on the way in and out, and a book that there is no room for. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Machine, RUN } from '../support/tunnel-process.js';

const run = promisify(execFile);

let machine: Machine;

beforeEach(() => {
  machine = new Machine();
});

afterEach(() => machine.dispose());

/** Runs `tunnel …` with that on stdin. */
async function piped(
  stdin: string,
  ...args: string[]
): Promise<{ code: number; stdout: string; stderr: string }> {
  const child = spawn(process.execPath, [RUN, ...args], {
    env: { ...process.env, TUNNEL_HOME: machine.home },
  });
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  child.stdin.end(stdin);
  const [code] = await once(child, 'close');
  return { code: code as number, stdout, stderr };
}

describe('tunnel id', () => {
  it('exports a key to a private file or a pipe, and imports it under another name, never over one', async () => {
    const id = (await machine.run('id')).stdout.trim();
    const file = join(machine.home, 'backup.key');
    expect((await machine.run('id', '--export', file)).code).toBe(0);
    if (process.platform !== 'win32') expect(statSync(file).mode & 0o777).toBe(0o600);
    const pem = (await machine.run('id', '--export', '-')).stdout;
    expect(pem).toBe(readFileSync(file, 'utf8'));
    expect((await machine.run('id', '--import', file, '--identity', 'two')).stdout.trim()).toBe(id);
    expect((await piped(pem, 'id', '--import', '-', '--identity', 'three')).stdout.trim()).toBe(id);
    const again = await piped(pem, 'id', '--import', '-', '--identity', 'three');
    expect(again.code).toBe(78);
    expect(again.stderr).not.toContain('MC4');
    const listed = JSON.parse((await machine.run('id', '--list', '--json')).stdout);
    expect(listed.identities).toEqual(
      ['default', 'three', 'two'].map((identity) => ({ identity, nodeId: id })),
    );
  });

  it.runIf(process.platform !== 'win32')(
    'takes no key that others can read, and none that is none',
    async () => {
      const file = join(machine.home, 'key');
      await machine.run('id');
      await machine.run('id', '--export', file);
      chmodSync(file, 0o644);
      expect((await machine.run('id', '--import', file, '--identity', 'two')).stderr).toContain('chmod 600');
      expect((await piped('secret words', 'id', '--import', '-', '--identity', 'two')).code).toBe(78);
      const { stderr } = await piped(
        'secret words',
        'id',
        '--import',
        '-',
        '--identity',
        'two',
        '--log-level',
        'debug',
      );
      expect(stderr).not.toContain('secret words');
      expect((await machine.run('id', '--export', '-', '--identity', 'none')).code).toBe(78);
      expect((await machine.run('id', '--export', '-', '--json')).code).toBe(64);
      expect(
        (await machine.run('id', '--import', join(machine.home, 'nothing'), '--identity', 'two')).code,
      ).toBe(64);
      writeFileSync(join(machine.home, 'config', 'tunnel', 'identities', 'bad.key'), 'x', { mode: 0o644 });
      const { stdout } = await machine.run('id', '--list');
      expect(stdout).toMatch(/^bad +identity file .* can be read by others/m);
      expect(stdout).not.toContain('two');
    },
  );
});

it.runIf(process.platform === 'linux')(
  'a book that there is no room for stays as it was, and says so',
  async () => {
    for (const digit of ['1', '2', '3', '4', '5'])
      await machine.run('peers', 'add', `p${digit}`, digit.repeat(64));
    const folder = join(machine.home, 'config', 'tunnel');
    const before = readFileSync(join(folder, 'peers.toml'), 'utf8');
    // No file of this process may be larger than 512 bytes: the write fails midway, as on a full disk.
    const error = await run(
      'sh',
      ['-c', 'ulimit -f 1; exec "$0" "$@"', process.execPath, RUN, 'peers', 'deny', 'p1'],
      { env: { ...process.env, TUNNEL_HOME: machine.home } },
    ).catch((cause: { code: number; stderr: string }) => cause);
    expect(error).toMatchObject({
      code: 71,
      stderr: expect.stringMatching(/OS_RESOURCE .*cannot be saved.*nothing was lost/),
    });
    expect(readFileSync(join(folder, 'peers.toml'), 'utf8')).toBe(before);
    expect(readdirSync(folder)).toEqual(['peers.toml']);
  },
);
