/** Figures to sample, and snapshots to show, made by tests. */
import type { PeerSession } from '../../src/session/handshake.js';
import type {
  ChannelFigures,
  ChannelQuery,
  Decision,
  StatusActions,
  StatusFeed,
  StatusSnapshot,
  StatusSource,
} from '../../src/tunnel/status.js';
import { EVERY_CHANNEL, StatusModel, type StatusModelOptions } from '../../src/tunnel/status-model.js';

export const PEER = 'ab12'.repeat(16);

export type Figures = { -readonly [Key in keyof ChannelFigures]: ChannelFigures[Key] };

/** A model whose clock and counters the test moves. */
export class ModelBench {
  readonly model: StatusModel;
  readonly channels = new Map<number, Figures>();
  readonly sessions: PeerSession[] = [];
  readonly resets: number[] = [];
  now = 0;

  constructor(options: Partial<StatusModelOptions> = {}) {
    this.model = new StatusModel({
      pid: 4242,
      command: 'forward',
      nodeId: 'cd34'.repeat(16),
      identity: 'work',
      now: () => this.now,
      ...options,
    });
    const source: StatusSource = {
      channel: (id) => this.channels.get(id),
      sessions: () => this.sessions,
      resetChannel: (id) => {
        this.resets.push(id);
        return this.channels.has(id);
      },
    };
    this.model.attach(source);
  }

  listening(local: string, service = 'db'): void {
    this.model.observe({ event: 'listening', protocol: 'tcp', local, peer: PEER as never, service });
  }

  open(id: number, facts: Partial<Figures> = {}): Figures {
    const figures: Figures = {
      id,
      peer: PEER,
      service: 'db',
      protocol: 'tcp',
      path: 'iroh-direct',
      state: 'open',
      local: '127.0.0.1:1',
      client: `127.0.0.1:${40_000 + (id % 20_000)}`,
      bytesIn: 0,
      bytesOut: 0,
      unackedBytes: 0,
      window: 262_144,
      ageMs: 0,
      ...facts,
    };
    this.channels.set(id, figures);
    this.model.observe({ ...describe(figures), event: 'channel.open' });
    return figures;
  }

  close(id: number, reason = 'eos'): void {
    const figures = this.channels.get(id) as Figures;
    this.channels.delete(id);
    const { bytesIn, bytesOut } = figures;
    this.model.observe({
      ...describe(figures),
      event: 'channel.close',
      reason,
      bytesIn,
      bytesOut,
      durationMs: 1,
    });
  }

  /** Lets time pass and takes a sample at its end. */
  after(milliseconds: number): void {
    this.now += milliseconds;
    this.model.sample();
  }

  snapshot(query: Partial<ChannelQuery> = {}): StatusSnapshot {
    return this.model.snapshot({ ...EVERY_CHANNEL, ...query });
  }
}

function describe({ id, peer, service, path }: Figures) {
  return { id, peer: peer as never, service, protocol: 'tcp' as const, path };
}

/** A feed that shows what it is told to. */
export class ManualFeed implements StatusFeed {
  #current: readonly StatusSnapshot[];
  #listeners = new Set<() => void>();
  readonly asked: ChannelQuery[] = [];

  constructor(...snapshots: StatusSnapshot[]) {
    this.#current = snapshots;
  }

  get listeners(): number {
    return this.#listeners.size;
  }

  current(): readonly StatusSnapshot[] {
    return this.#current;
  }

  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  ask(query: ChannelQuery): void {
    this.asked.push(query);
  }

  show(...snapshots: StatusSnapshot[]): void {
    this.#current = snapshots;
    for (const listener of [...this.#listeners]) listener();
  }
}

export class RecordedActions implements StatusActions {
  readonly done: string[] = [];

  async resetChannel(pid: number, id: number): Promise<boolean> {
    this.done.push(`reset ${pid} ${id}`);
    return true;
  }

  async decide(pid: number, { id, allowed, always }: Decision): Promise<boolean> {
    this.done.push(`${allowed ? 'allow' : 'deny'} ${pid} ${id} ${always ? 'always' : 'once'}`);
    return true;
  }
}
