/** Real `tunnel` processes for end-to-end tests: each machine has files of its own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { identityPath, resolvePaths } from '../../src/cli/paths.js';
import { loadIdentity } from '../../src/session/identity.js';

export const RUN = fileURLToPath(new URL('../../bin/run.js', import.meta.url));
const EVENT_TIMEOUT_MS = 60_000;

export interface JsonEvent {
  readonly event: string;
  readonly time: string;
  readonly [field: string]: unknown;
}

export interface MachineOptions {
  /** The network namespace its processes run in. */
  readonly namespace?: string;
  /** The address to bind; `any` for every interface. Loopback unless told otherwise. */
  readonly bind?: string;
  /** The limit of open files of its processes. */
  readonly openFiles?: number;
  /** More of its processes' environment. */
  readonly env?: Readonly<Record<string, string>>;
  /** What its processes read from stdin; nothing unless given. */
  readonly input?: string;
  /** The largest file its processes may write, in blocks of 512 bytes: beyond it writing fails, as on a full disk. */
  readonly fileBlocks?: number;
  /** Makes the path of its home longer. */
  readonly folder?: string;
  /** How long to wait for an event or a line, milliseconds. */
  readonly eventTimeoutMs?: number;
}

export interface Finished {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A `TUNNEL_HOME` of its own, removed by `dispose`. */
export class Machine {
  readonly home: string;
  readonly #root = mkdtempSync(join(tmpdir(), 'tunnel-test-'));
  readonly #options: MachineOptions;
  readonly #processes = new Set<TunnelProcess>();

  constructor(options: MachineOptions = {}) {
    this.#options = options;
    this.home = join(this.#root, options.folder ?? '');
  }

  /** Starts `tunnel …` with `--json` and without relays, on the machine's address. */
  start(...args: string[]): TunnelProcess {
    return this.#spawn([...args, '--json', ...this.#network()]);
  }

  /** As `start`, printing plain lines. */
  startPlain(...args: string[]): TunnelProcess {
    return this.#spawn([...args, ...this.#network()]);
  }

  #network(): string[] {
    const { bind = '127.0.0.1' } = this.#options;
    return bind === 'any' ? ['--no-relay'] : ['--no-relay', '--bind', bind];
  }

  /** As `start`, under other conditions. */
  startUnder(options: MachineOptions, ...args: string[]): TunnelProcess {
    return this.#spawn([...args, '--json', ...this.#network()], options);
  }

  /** Starts `tunnel …` as given. */
  startAs(...args: string[]): TunnelProcess {
    return this.#spawn(args);
  }

  /** Runs `tunnel …` as given and waits for its end. */
  run(...args: string[]): Promise<Finished> {
    return this.runUnder({}, ...args);
  }

  /** As `run`, under other conditions. */
  async runUnder(options: MachineOptions, ...args: string[]): Promise<Finished> {
    const child = this.#spawn(args, options);
    const code = await child.exited;
    return { code, stdout: child.stdout, stderr: child.stderr };
  }

  /** The ID of its default identity, made on first use as `tunnel id` does, without a process for it. */
  async nodeId(): Promise<string> {
    const path = identityPath(resolvePaths({ TUNNEL_HOME: this.home }), 'default');
    return (await loadIdentity(path)).identity.nodeId;
  }

  async expose(...targets: string[]): Promise<{ process: TunnelProcess; ticket: string; nodeId: string }> {
    const process = this.start('expose', ...targets);
    const ready = await process.event('ready');
    return { process, ticket: ready.ticket as string, nodeId: ready.nodeId as string };
  }

  /** Starts a forward of one service and waits until it is connected. */
  async forward(peer: string, service: string): Promise<{ process: TunnelProcess; port: number }> {
    const process = this.start('forward', peer, `0:${service}`);
    const port = await process.listeningPort();
    await process.event('session', { state: 'connected' });
    return { process, port };
  }

  #spawn(args: string[], options: MachineOptions = {}): TunnelProcess {
    const process = new TunnelProcess(args, this.home, { ...this.#options, ...options });
    this.#processes.add(process);
    return process;
  }

  async dispose(): Promise<void> {
    for (const process of this.#processes) process.kill('SIGKILL');
    await Promise.all([...this.#processes].map(({ exited }) => exited));
    rmSync(this.#root, { recursive: true, force: true });
  }
}

export class TunnelProcess {
  readonly child: ChildProcess;
  readonly events: JsonEvent[] = [];
  stdout = '';
  stderr = '';
  /** The exit code, null after a signal. */
  readonly exited: Promise<number | null>;
  readonly #watching = new Set<() => void>();
  readonly #eventTimeoutMs: number;
  #unfinishedLine = '';
  #done = false;

  constructor(args: string[], home: string, options: MachineOptions = {}) {
    const [program, ...rest] = commandLine([process.execPath, RUN, ...args], options);
    this.#eventTimeoutMs = options.eventTimeoutMs ?? EVENT_TIMEOUT_MS;
    this.child = spawn(program as string, rest, {
      env: { ...process.env, ...options.env, TUNNEL_HOME: home },
      stdio: [options.input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
    });
    // Left open: who gives a ticket need not end there.
    this.child.stdin?.write(options.input ?? '');
    this.child.stdin?.on('error', () => undefined);
    this.child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.stdout += text;
      this.#read(text);
    });
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
    });
    this.exited = once(this.child, 'close').then(([code]) => {
      this.#done = true;
      this.#wake();
      return code as number | null;
    });
  }

  get pid(): number {
    return this.child.pid as number;
  }

  kill(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }

  /** The first event of that name and those fields from index `from` on, as soon as it is there. */
  async event(name: string, fields: Record<string, unknown> = {}, from = 0): Promise<JsonEvent> {
    const matches = (event: JsonEvent) =>
      event.event === name && Object.entries(fields).every(([key, value]) => event[key] === value);
    return this.#until(
      () => this.events.slice(from).find(matches),
      `event ${name} ${JSON.stringify(fields)}`,
    );
  }

  /** The first line of stdout that matches, as soon as it is there. */
  async line(pattern: RegExp): Promise<string> {
    return this.#until(() => this.stdout.split('\n').find((line) => pattern.test(line)), `line ${pattern}`);
  }

  async #until<T>(find: () => T | undefined, what: string): Promise<T> {
    const deadline = Date.now() + this.#eventTimeoutMs;
    for (;;) {
      const found = find();
      if (found !== undefined) return found;
      if (this.#done || Date.now() > deadline) {
        throw new Error(`no ${what}; got\n${this.stdout.slice(-4000)}\n${this.stderr.slice(-4000)}`);
      }
      await new Promise<void>((resolve) => {
        const wake = () => {
          clearTimeout(timer);
          this.#watching.delete(wake);
          resolve();
        };
        const timer = setTimeout(wake, deadline - Date.now());
        this.#watching.add(wake);
      });
    }
  }

  /** Whole lines only: the last one of a process that is killed may be half of one. */
  #read(text: string): void {
    const lines = (this.#unfinishedLine + text).split('\n');
    this.#unfinishedLine = lines.pop() ?? '';
    for (const line of lines) {
      if (line.startsWith('{')) this.events.push(JSON.parse(line) as JsonEvent);
    }
    this.#wake();
  }

  #wake(): void {
    for (const wake of [...this.#watching]) wake();
  }

  async listeningPort(): Promise<number> {
    const { local } = await this.event('listening');
    return Number(String(local).replace(/^.*:/, ''));
  }

  /** Resident memory, bytes. Linux only. */
  async residentBytes(): Promise<number> {
    const status = await readFile(`/proc/${this.pid}/status`, 'utf8');
    return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) * 1024;
  }

  /** How many file descriptors it has open. Linux only. */
  async openFiles(): Promise<number> {
    return (await readdir(`/proc/${this.pid}/fd`)).length;
  }
}

/** Both wrappers end by becoming the program, so that its pid and its signals are the child's. */
function commandLine(command: string[], { namespace, openFiles, fileBlocks }: MachineOptions): string[] {
  const limits = [
    ...(openFiles === undefined ? [] : [`ulimit -n ${openFiles}`]),
    ...(fileBlocks === undefined ? [] : [`ulimit -f ${fileBlocks}`]),
  ];
  const limited =
    limits.length === 0 ? command : ['sh', '-c', `${limits.join(' && ')} && exec "$0" "$@"`, ...command];
  return namespace === undefined ? limited : ['ip', 'netns', 'exec', namespace, ...limited];
}
