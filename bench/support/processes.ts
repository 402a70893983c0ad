/** Processes the benchmark starts: their output goes to files, none of them outlives it. */
import { type ChildProcess, fork, type Serializable, spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

/** Logs, keys and identities of this run. They hold tickets, so the folder is the user's alone. */
export const scratch = mkdtempSync(join(tmpdir(), 'tunnel-bench-'));
export const scratchPath = (name: string): string => join(scratch, name);

const children = new Set<ChildProcess>();
const atExit: (() => void)[] = [];

/** Runs when the benchmark ends, however it ends. Must be synchronous. */
export function onExit(cleanup: () => void): void {
  atExit.push(cleanup);
}

process.on('exit', () => {
  for (const child of children) killTree(child);
  for (const cleanup of atExit) cleanup();
  rmSync(scratch, { recursive: true, force: true });
});
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const) {
  process.on(signal, () => process.exit(code));
}

/** SIGKILL, also to what it started itself: sshd leaves its session processes behind otherwise. */
function killTree(child: ChildProcess): void {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  for (const pid of tree(child.pid)) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // Gone already.
    }
  }
}

export interface Logged {
  readonly name: string;
  readonly pid: number;
  /** Everything it wrote so far. */
  output(): string;
  /** The match, once the output has it. Throws when the process ends first, or after `timeoutMs`. */
  waitFor(pattern: RegExp, timeoutMs?: number, pollMs?: number): Promise<RegExpExecArray>;
  /** Throws when it has ended: nothing that is measured may die meanwhile. */
  check(): void;
  stop(): Promise<void>;
}

let logs = 0;

/**
 * Starts a program with its output in a file. A pipe would wake the benchmark for every line that a
 * contender prints, on a machine whose cores are all taken by what is measured.
 */
export function start(name: string, command: string, args: readonly string[], env = {}): Logged {
  logs += 1;
  const log = scratchPath(`${logs}-${name}.log`);
  const fd = openSync(log, 'w', 0o600);
  const child = spawn(command, args, {
    stdio: ['ignore', fd, fd],
    env: { ...process.env, ...env },
  });
  closeSync(fd);
  children.add(child);
  let failure: Error | undefined;
  const ended = new Promise<void>((resolve) => {
    child.once('error', (error) => {
      failure = error;
      children.delete(child);
      resolve();
    });
    child.once('exit', () => {
      children.delete(child);
      resolve();
    });
  });
  const output = () => readFileSync(log, 'utf8');
  const check = () => {
    if (failure) throw new Error(`${name} did not start: ${failure.message}`);
    if (child.exitCode === null && child.signalCode === null) return;
    throw new Error(
      `${name} ended by itself (${child.exitCode ?? child.signalCode}):\n${output().slice(-2000)}`,
    );
  };
  return {
    name,
    pid: child.pid ?? 0,
    output,
    check,
    async waitFor(pattern, timeoutMs = 15_000, pollMs = 10) {
      const deadline = performance.now() + timeoutMs;
      for (;;) {
        const match = pattern.exec(output());
        if (match) return match;
        check();
        if (performance.now() > deadline) {
          throw new Error(`${name} did not print ${pattern} in time:\n${output().slice(-2000)}`);
        }
        await sleep(pollMs);
      }
    },
    async stop() {
      killTree(child);
      await ended;
    },
  };
}

/** Runs a program to its end. Throws unless it exits 0 in time. */
export async function run(command: string, args: readonly string[], timeoutMs = 60_000): Promise<string> {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  children.add(child);
  const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  try {
    const code = await new Promise<number | null>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', resolve);
    });
    if (code === 0) return stdout;
    throw new Error(
      `${command} ${args.join(' ')} failed (${code ?? child.signalCode}): ${(stderr + stdout).slice(-1000)}`,
    );
  } finally {
    clearTimeout(timer);
    children.delete(child);
  }
}

/** A module of this folder in a process of its own; it answers through `process.send`. */
export class Helper {
  readonly pid: number;
  readonly #child: ChildProcess;
  readonly #messages: Serializable[] = [];
  #wake: (() => void) | undefined;
  #over: string | undefined;

  constructor(file: string, args: readonly string[]) {
    this.#child = fork(fileURLToPath(new URL(file, import.meta.url)), args, {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    this.pid = this.#child.pid ?? 0;
    children.add(this.#child);
    this.#child.on('message', (message) => {
      this.#messages.push(message);
      this.#wake?.();
    });
    const over = (why: string) => {
      this.#over = why;
      children.delete(this.#child);
      this.#wake?.();
    };
    this.#child.once('error', (error) => over(error.message));
    this.#child.once('exit', (code, signal) => over(`exit ${code ?? signal}`));
    this.#name = `${file} ${args.join(' ')}`;
  }

  readonly #name: string;

  /** Its next message. Throws when it ends without one, or after `timeoutMs`. */
  async next<T>(timeoutMs = 60_000): Promise<T> {
    const deadline = performance.now() + timeoutMs;
    while (this.#messages.length === 0) {
      const left = deadline - performance.now();
      if (this.#over !== undefined) throw new Error(`${this.#name} ended without an answer (${this.#over})`);
      if (left <= 0) throw new Error(`${this.#name} gave no answer in ${timeoutMs} ms`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      this.#wake = undefined;
    }
    return this.#messages.shift() as T;
  }

  send(message: Serializable): void {
    this.#child.send(message);
  }

  async stop(): Promise<void> {
    if (this.#over !== undefined) return;
    const ended = new Promise((resolve) => this.#child.once('exit', resolve));
    killTree(this.#child);
    await ended;
  }
}

// ---- what the kernel says

/** A process and everything below it. */
export function tree(root: number): number[] {
  const parents = new Map<number, number>();
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    const fields = stat(Number(entry));
    if (fields) parents.set(Number(entry), Number(fields[1]));
  }
  const found = [root];
  for (let at = 0; at < found.length; at += 1) {
    for (const [pid, parent] of parents) if (parent === found[at]) found.push(pid);
  }
  return found;
}

/** The fields of /proc/<pid>/stat behind the name, which may hold spaces: state, ppid, … */
function stat(pid: number): string[] | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return text.slice(text.lastIndexOf(')') + 2).split(' ');
  } catch {
    return undefined;
  }
}

/** USER_HZ is 100 on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100;

/** Seconds of user and system time of these processes and what they started. */
export function cpuSeconds(roots: readonly number[]): number {
  let ticks = 0;
  for (const pid of roots.flatMap(tree)) {
    const fields = stat(pid);
    if (fields) ticks += Number(fields[11]) + Number(fields[12]);
  }
  return ticks / TICKS_PER_SECOND;
}

/** MB (10^6 bytes): resident now, and the most it ever was. */
export function memoryMb(pid: number): { now: number; peak: number } {
  const text = readFileSync(`/proc/${pid}/status`, 'utf8');
  const kib = (key: string) => Number(new RegExp(`^${key}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? Number.NaN);
  return { now: (kib('VmRSS') * 1024) / 1e6, peak: (kib('VmHWM') * 1024) / 1e6 };
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

/** Waits for a listener without connecting: a probe would go all the way through to the server. */
export async function waitForListener(port: number, timeoutMs = 15_000): Promise<void> {
  const hex = port.toString(16).toUpperCase().padStart(4, '0');
  const listening = new RegExp(`^\\s*\\d+: [0-9A-F]+:${hex} [0-9A-F:]+ 0A `, 'm');
  const deadline = performance.now() + timeoutMs;
  while (!['/proc/net/tcp', '/proc/net/tcp6'].some((file) => listening.test(readFileSync(file, 'utf8')))) {
    if (performance.now() > deadline) throw new Error(`nothing listens on port ${port}`);
    await sleep(10);
  }
}
