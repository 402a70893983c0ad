/** Reads the status sockets of this user's processes: once, or for as long as they live. */
import { connect, type Socket } from 'node:net';
import { TunnelError } from '../error.js';
import type { ChannelQuery, Decision, StatusActions, StatusFeed, StatusSnapshot } from '../tunnel/status.js';
import { EVERY_CHANNEL } from '../tunnel/status-model.js';
import { listSockets, removeStale, socketPath } from './status-folder.js';
import { LineReader, STATUS_VERSION, type StatusMessage, wireQuery } from './status-wire.js';

const ANSWER_MS = 3000;
const LOOK_MS = 1000;
/** Views are told this often at most. */
const TOLD_EVERY_MS = 250;
/** A process sends a snapshot every two seconds at least while it is watched. */
const SILENT_MS = 6000;
/** 10,000 channels make three million characters. */
const MAX_LINE = 256 * 1024 * 1024;

interface ConnectionOptions {
  onSnapshot(snapshot: StatusSnapshot): void;
  onClosed(): void;
}

/** One process's socket. */
class StatusConnection {
  readonly #socket: Socket;
  readonly #waiting = new Map<number, (message: StatusMessage | undefined) => void>();
  readonly #options: ConnectionOptions;
  #lastId = 0;

  constructor(path: string, options: ConnectionOptions) {
    this.#options = options;
    this.#socket = connect({ path });
    const lines = new LineReader(MAX_LINE);
    this.#socket.setEncoding('utf8');
    this.#socket.on('error', () => undefined);
    this.#socket.on('data', (text: string) => {
      try {
        for (const line of lines.push(text)) this.#onMessage(JSON.parse(line) as StatusMessage);
      } catch {
        this.#socket.destroy();
      }
    });
    this.#socket.once('close', () => {
      for (const settle of this.#waiting.values()) settle(undefined);
      this.#waiting.clear();
      options.onClosed();
    });
  }

  get open(): boolean {
    return !this.#socket.destroyed;
  }

  watch(query: ChannelQuery): void {
    this.#send({ method: 'watch', query: wireQuery(query) });
  }

  snapshot(query: ChannelQuery): Promise<StatusSnapshot | undefined> {
    return this.#ask({ method: 'snapshot', query: wireQuery(query) }).then((message) =>
      message?.type === 'snapshot' ? message.snapshot : undefined,
    );
  }

  async command(request: object): Promise<boolean> {
    const message = await this.#ask(request);
    if (message?.type === 'done') return message.ok;
    throw new TunnelError(
      'UNAVAILABLE',
      message?.type === 'error' ? message.message : 'the process does not answer',
    );
  }

  close(): void {
    this.#socket.destroy();
  }

  #onMessage(message: StatusMessage): void {
    if (message.type === 'hello' && message.version !== STATUS_VERSION) {
      throw new TunnelError('VERSION', `status version ${message.version}`);
    }
    const settle = 'id' in message && message.id !== undefined ? this.#waiting.get(message.id) : undefined;
    if (settle) settle(message);
    else if (message.type === 'snapshot') this.#options.onSnapshot(message.snapshot);
  }

  #send(request: object): number {
    this.#lastId += 1;
    this.#socket.write(`${JSON.stringify({ id: this.#lastId, ...request })}\n`);
    return this.#lastId;
  }

  #ask(request: object): Promise<StatusMessage | undefined> {
    if (this.#socket.destroyed) return Promise.resolve(undefined);
    return new Promise((resolve) => {
      const id = this.#send(request);
      const timer = setTimeout(() => settle(undefined), ANSWER_MS);
      const settle = (message: StatusMessage | undefined) => {
        clearTimeout(timer);
        this.#waiting.delete(id);
        resolve(message);
      };
      this.#waiting.set(id, settle);
    });
  }
}

/** A snapshot of every process that answers, in order of their pids; `onSilent` is told of the others. */
export async function readStatus(
  folder: string,
  query: ChannelQuery = EVERY_CHANNEL,
  onSilent?: (pid: number) => void,
): Promise<readonly StatusSnapshot[]> {
  await removeStale(folder);
  return askProcesses(folder, await listSockets(folder), query, onSilent);
}

/** As `readStatus`, of these processes. */
export async function askProcesses(
  folder: string,
  pids: readonly number[],
  query: ChannelQuery,
  onSilent?: (pid: number) => void,
): Promise<readonly StatusSnapshot[]> {
  const answers = await Promise.all(
    pids.map(async (pid) => {
      const connection = new StatusConnection(socketPath(folder, pid), {
        onSnapshot: () => undefined,
        onClosed: () => undefined,
      });
      const snapshot = await connection.snapshot(query);
      // One that has ended meanwhile has closed it.
      if (!snapshot && connection.open) onSilent?.(pid);
      connection.close();
      return snapshot;
    }),
  );
  return answers.filter((snapshot) => snapshot !== undefined);
}

/** Answers a question of the process `pid`. False when it does not wait any more. Throws UNAVAILABLE. */
export async function decide(folder: string, pid: number, decision: Decision): Promise<boolean> {
  const connection = new StatusConnection(socketPath(folder, pid), {
    onSnapshot: () => undefined,
    onClosed: () => undefined,
  });
  try {
    return await connection.command({ method: 'decide', decision });
  } finally {
    connection.close();
  }
}

/** The feed of `tunnel dashboard`: processes appear and leave by themselves. */
export class RemoteFeed implements StatusFeed, StatusActions {
  readonly #folder: string;
  readonly #silentMs: number;
  readonly #connections = new Map<number, StatusConnection>();
  readonly #snapshots = new Map<number, { readonly snapshot: StatusSnapshot; readonly at: number }>();
  readonly #listeners = new Set<() => void>();
  #query: ChannelQuery = EVERY_CHANNEL;
  #current: readonly StatusSnapshot[] = [];
  #timer: NodeJS.Timeout | undefined;
  #pending: NodeJS.Timeout | undefined;
  #toldAt = Number.NEGATIVE_INFINITY;
  #closed = false;

  /** `silentMs` is how long a process may send nothing before that is told. */
  constructor(folder: string, { silentMs = SILENT_MS }: { readonly silentMs?: number } = {}) {
    this.#folder = folder;
    this.#silentMs = silentMs;
  }

  /** Resolves after the first look round. */
  async start(): Promise<void> {
    await removeStale(this.#folder);
    await this.#look();
  }

  current(): readonly StatusSnapshot[] {
    return this.#current;
  }

  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  ask(query: ChannelQuery): void {
    this.#query = query;
    for (const connection of this.#connections.values()) connection.watch(query);
  }

  resetChannel(pid: number, id: number): Promise<boolean> {
    return this.#command(pid, { method: 'reset', channel: id });
  }

  decide(pid: number, decision: Decision): Promise<boolean> {
    return this.#command(pid, { method: 'decide', decision });
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#pending);
    for (const connection of this.#connections.values()) connection.close();
  }

  async #command(pid: number, request: object): Promise<boolean> {
    const connection = this.#connections.get(pid);
    if (!connection) throw new TunnelError('UNAVAILABLE', `the process ${pid} has ended`);
    return connection.command(request);
  }

  async #look(): Promise<void> {
    const pids = await listSockets(this.#folder);
    if (this.#closed) return;
    for (const pid of pids) if (!this.#connections.has(pid)) this.#connect(pid);
    if ([...this.#snapshots.values()].some(({ at }) => this.#isSilent(at))) this.#changed();
    this.#timer = setTimeout(() => void this.#look(), LOOK_MS);
  }

  #connect(pid: number): void {
    const connection = new StatusConnection(socketPath(this.#folder, pid), {
      onSnapshot: (snapshot) => {
        this.#snapshots.set(pid, { snapshot, at: performance.now() });
        this.#changed();
      },
      onClosed: () => {
        this.#connections.delete(pid);
        if (this.#snapshots.delete(pid)) this.#changed();
      },
    });
    this.#connections.set(pid, connection);
    connection.watch(this.#query);
  }

  #isSilent(heardAt: number): boolean {
    return performance.now() - heardAt >= this.#silentMs;
  }

  /** Several processes' snapshots come at their own times: views are told of them together. */
  #changed(): void {
    const restMs = Math.max(0, this.#toldAt + TOLD_EVERY_MS - performance.now());
    this.#pending ??= setTimeout(() => {
      this.#pending = undefined;
      this.#toldAt = performance.now();
      this.#current = [...this.#snapshots.values()]
        .map(({ snapshot, at }) =>
          this.#isSilent(at) ? { ...snapshot, silentMs: performance.now() - at } : snapshot,
        )
        .sort((a, b) => a.pid - b.pid);
      for (const listener of [...this.#listeners]) listener();
    }, restMs);
  }
}
