/** No namespace outlives its test process, however that one ends. */
import {
  type ChildProcess,
  type ExecFileSyncOptionsWithStringEncoding,
  execFile,
  execFileSync,
  spawn,
  spawnSync,
} from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import type { Socket } from 'node:net';

export const PREFIX = 'tnl-test-';

let watchdog: ChildProcess | undefined;

/** Waits for its stdin to close, which no kind of death can keep from happening. */
const WATCHDOG = `cat >/dev/null
for ns in $(ip netns list | cut -d' ' -f1 | grep "^$1"); do
  for pid in $(ip netns pids "$ns"); do kill -KILL "$pid"; done
  ip netns del "$ns"
  rm -rf "/etc/netns/$ns"
done`;

/** Where `ip netns exec` takes files from, in the place of those of the same name in /etc. */
export const filesOf = (namespace: string) => `/etc/netns/${namespace}`;

export function watch(): void {
  if (watchdog) return;
  watchdog = spawn('sh', ['-c', WATCHDOG, 'netns-watchdog', `${PREFIX}${process.pid}-`], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  });
  watchdog.unref();
  (watchdog.stdin as unknown as Socket).unref();
}

/** A namespace that another process removes meanwhile is worth no line. */
const QUIETLY: ExecFileSyncOptionsWithStringEncoding = {
  encoding: 'utf8',
  stdio: ['ignore', 'pipe', 'ignore'],
};

/** What processes left that are no more. */
export function removeStale(): void {
  for (const line of execFileSync('ip', ['netns', 'list'], QUIETLY).split('\n')) {
    const name = line.split(' ')[0] ?? '';
    const pid = new RegExp(`^${PREFIX}(\\d+)-`).exec(name)?.[1];
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) removeNamespace(name);
  }
}

export function removeNamespace(name: string): void {
  const pids = spawnSync('ip', ['netns', 'pids', name], { encoding: 'utf8' });
  if (pids.status !== 0) return;
  for (const pid of pids.stdout.split('\n').filter(Boolean)) {
    try {
      process.kill(Number(pid), 'SIGKILL');
    } catch {
      // It has ended by itself.
    }
  }
  spawnSync('ip', ['netns', 'del', name]);
  rmSync(filesOf(name), { recursive: true, force: true });
}

export function execute(program: string, args: readonly string[], input?: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = execFile(program, args, (error, stdout, stderr) => {
      if (error) reject(new Error(`${program} ${args.join(' ')}: ${stderr || error.message}`));
      else resolve(stdout);
    });
    // A program that reads nothing may be gone before this.
    child.stdin?.on('error', () => undefined);
    child.stdin?.end(input ?? '');
  });
}
