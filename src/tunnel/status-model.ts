/**
 * StatusModel: the one source of what the dashboard, `status`, the status socket and `stats.watch`
 * show. Events say what comes and goes; counters are read when a sample is taken, at most four times a
 * second while someone looks and once a second otherwise, so the data path pays nothing for it.
 */
import type { PeerSession } from '../session/handshake.js';
import type { TunnelEvent } from './events.js';
import type {
  ChannelQuery,
  PeerFigures,
  SessionStatus,
  StatusSnapshot,
  StatusSource,
  Totals,
  TunnelStatus,
} from './status.js';
import { ChannelRecords, tunnelKey } from './status-channels.js';
import { EventRing } from './status-events.js';
import { Meter, sampleWeight } from './status-rates.js';
import { SessionRecords } from './status-sessions.js';

const WATCHED_MS = 250;
const UNWATCHED_MS = 1000;
/** Someone looks, but nothing moves: only clocks would tick. What does happen is told at once all the same. */
const QUIET_MS = 2000;
/** Of one core, for sampling and whoever is told of it: with much to show the pace slows down instead. */
const MAX_SHARE = 0.02;
/** Bytes that moved this lately keep the fast pace. */
const BUSY_MS = 1000;

export const EVERY_CHANNEL: ChannelQuery = {
  sort: 'id',
  reverse: false,
  filter: '',
  limit: Number.POSITIVE_INFINITY,
};

export interface OfferedService {
  readonly name: string;
  readonly protocol: string;
  readonly target: string;
}

export interface StatusModelOptions {
  readonly pid: number;
  readonly command: string;
  readonly nodeId: string;
  /** The identity's name. */
  readonly identity: string;
  /** What the peers book calls a peer. */
  readonly nameOf?: ((nodeId: string) => string | undefined) | undefined;
  /** What an expose offers; a forward's tunnels come with its `listening` events. */
  readonly services?: readonly OfferedService[];
  /** Monotonic milliseconds. */
  readonly now?: () => number;
}

interface Tunnel {
  facts: Pick<TunnelStatus, 'key' | 'protocol' | 'local' | 'target' | 'service' | 'peer'>;
  readonly meter: Meter;
  open: number;
  total: number;
}

export class StatusModel {
  readonly #options: StatusModelOptions;
  readonly #now: () => number;
  readonly #startedAt = new Date().toISOString();
  readonly #tunnels = new Map<string, Tunnel>();
  /** By the id of an open channel: its tunnel may have made room for another one with the same key. */
  readonly #tunnelOf = new Map<number, Tunnel>();
  readonly #channels: ChannelRecords;
  readonly #sessions: SessionRecords;
  readonly #events = new EventRing();
  readonly #totals = new Meter();
  readonly #listeners = new Set<() => void>();
  #channelsTotal = 0;
  #source: StatusSource | undefined;
  #stoppingUntil: string | undefined;
  #sampledAt: number;
  #movedAt = Number.NEGATIVE_INFINITY;
  #changed = false;
  /** What the last sample cost asks for until the next one, whatever happens. */
  #leastRestMs = 0;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;
  #dueAt = Number.POSITIVE_INFINITY;

  constructor(options: StatusModelOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    this.#sampledAt = this.#now();
    this.#sessions = new SessionRecords(this.#now);
    this.#channels = new ChannelRecords(({ figures }, bytesIn, bytesOut) => {
      this.#movedAt = this.#now();
      this.#totals.add(bytesIn, bytesOut);
      this.#tunnelOf.get(figures.id)?.meter.add(bytesIn, bytesOut);
    });
    this.offer(options.services ?? []);
  }

  /** An expose offers these, maybe beside others. */
  offer(services: readonly OfferedService[]): void {
    for (const { name, protocol, target } of services) {
      this.#addTunnel({ key: tunnelKey(protocol, name), protocol, service: name, target });
    }
  }

  /** An expose does not offer these any more. */
  withdraw(services: readonly OfferedService[]): void {
    for (const { name, protocol } of services) this.#removeTunnel(tunnelKey(protocol, name), {});
  }

  /** A forward of this peer's service does not listen there any more. */
  unlisten(protocol: string, local: string, of: { readonly service: string; readonly peer: string }): void {
    this.#removeTunnel(tunnelKey(protocol, local), of);
  }

  /** From now on counters are read, until `close`. */
  attach(source: StatusSource): void {
    this.#source = source;
    this.#schedule(UNWATCHED_MS);
  }

  /** `link`: of which of several parts of the process that may have to do with one peer. */
  observe(event: TunnelEvent, link = ''): void {
    this.#changed = true;
    this.#events.observe(event, new Date());
    switch (event.event) {
      case 'listening': {
        const { protocol, local, service, peer } = event;
        this.#addTunnel({ key: tunnelKey(protocol, local), protocol, local, service, peer });
        break;
      }
      case 'session':
        this.#sessions.observe(event, link);
        break;
      case 'notice':
        this.#sessions.notice(event);
        break;
      case 'channel.open':
        this.#open(event.id);
        break;
      case 'channel.close':
        this.#close(event);
        break;
    }
    this.hasten();
  }

  /** A line for the event log that is no event of the tunnel's. */
  note(text: string, level: 'info' | 'warn' | 'error' = 'info'): void {
    this.#changed = true;
    this.#events.add({ level, text }, new Date());
    this.hasten();
  }

  /** The process has been told to end, and waits for its channels this long. */
  stopping(drainMs: number): void {
    this.#stoppingUntil = new Date(Date.now() + drainMs).toISOString();
    this.note('stopping: no new connections; open ones may end by themselves');
  }

  /** Tells who looks as soon as the pace allows. */
  hasten(): void {
    if (!this.#source || !this.watched) return;
    const least = Math.max(WATCHED_MS, Math.min(this.#leastRestMs, UNWATCHED_MS));
    const delayMs = Math.max(0, least - (this.#now() - this.#sampledAt));
    if (this.#now() + delayMs < this.#dueAt) this.#schedule(delayMs);
  }

  /** Calls back after each sample, at most four times a second. Answers what ends it. */
  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    this.hasten();
    return () => this.#listeners.delete(listener);
  }

  get watched(): boolean {
    return this.#listeners.size > 0;
  }

  /** Those now connected. */
  liveSessions(): readonly PeerSession[] {
    return [...(this.#source?.sessions() ?? [])];
  }

  /** What the peer says of a session, or that it says nothing any more. */
  peerSays(session: PeerSession, figures: PeerFigures | undefined): void {
    this.#sessions.peerSays(session, figures);
  }

  /** The peer of a session has not answered for so long; undefined: it answers again. */
  peerSilent(session: PeerSession, silentMs: number | undefined): void {
    this.#changed = true;
    this.#sessions.peerSilent(session, silentMs);
    this.hasten();
  }

  resetChannel(id: number): boolean {
    return this.#source?.resetChannel(id) ?? false;
  }

  /** The figures of everything with this peer, for telling it. */
  peerFigures(peer: string): PeerFigures | undefined {
    return this.#sessions.ofPeer(peer);
  }

  /** Reads every counter. Called by itself while attached. */
  sample(): void {
    const now = this.#now();
    const elapsedMs = now - this.#sampledAt;
    this.#sampledAt = now;
    const weight = sampleWeight(elapsedMs);
    this.#channels.sample(elapsedMs, weight);
    for (const { meter } of this.#tunnels.values()) meter.sample(elapsedMs, weight);
    this.#totals.sample(elapsedMs, weight);
    this.#sessions.sample(this.#source?.sessions() ?? [], this.#channels.values(), elapsedMs, weight);
  }

  snapshot(query: ChannelQuery = EVERY_CHANNEL): StatusSnapshot {
    const { pid, command, nodeId, identity } = this.#options;
    const { rows, matching } = this.#channels.select(query);
    const sessions = this.#sessions.snapshot();
    return {
      version: 1,
      at: new Date().toISOString(),
      pid,
      command,
      nodeId,
      identity,
      startedAt: this.#startedAt,
      tunnels: [...this.#tunnels.values()].map(tunnelStatus),
      sessions,
      channels: rows,
      matching,
      closed: this.#channels.closed,
      totals: this.#totalsNow(),
      history: this.#totals.history(),
      events: this.#events.snapshot(),
      approvals: this.#source?.approvals?.() ?? [],
      names: this.#names(sessions),
      ...(this.#source?.reach ? { reach: this.#source.reach() } : {}),
      ...(this.#stoppingUntil === undefined ? {} : { stoppingUntil: this.#stoppingUntil }),
    };
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#listeners.clear();
  }

  // ---- what events bring

  #addTunnel(facts: Tunnel['facts']): void {
    const known = this.#tunnels.get(facts.key);
    if (known && known.facts.service === facts.service && known.facts.peer === facts.peer) {
      known.facts = facts;
      return;
    }
    this.#tunnels.set(facts.key, { facts, meter: new Meter(), open: 0, total: 0 });
  }

  /** Unless there is another one under that key by now. */
  #removeTunnel(key: string, of: { readonly service?: string; readonly peer?: string }): void {
    const { facts } = this.#tunnels.get(key) ?? {};
    if (of.service !== undefined && (facts?.service !== of.service || facts.peer !== of.peer)) return;
    this.#tunnels.delete(key);
    this.#changed = true;
    this.hasten();
  }

  #open(id: number): void {
    this.#channelsTotal += 1;
    const figures = this.#source?.channel(id);
    if (!figures) return;
    const record = this.#channels.open(figures);
    const tunnel = this.#tunnels.get(record.tunnel);
    if (!tunnel) return;
    this.#tunnelOf.set(id, tunnel);
    tunnel.open += 1;
    tunnel.total += 1;
  }

  #close(event: Extract<TunnelEvent, { event: 'channel.close' }>): void {
    this.#channels.close(event.id, event);
    const tunnel = this.#tunnelOf.get(event.id);
    if (!tunnel) return;
    this.#tunnelOf.delete(event.id);
    tunnel.open -= 1;
  }

  /** Of the peers that occur in a snapshot. */
  #names(sessions: readonly SessionStatus[]): Readonly<Record<string, string>> {
    const { nameOf } = this.#options;
    if (!nameOf) return {};
    const peers = new Set<string>([
      ...sessions.map(({ peer }) => peer),
      ...[...this.#tunnels.values()].flatMap(({ facts }) => facts.peer ?? []),
      ...this.#events.snapshot().flatMap(({ peer }) => peer ?? []),
    ]);
    const names: Record<string, string> = {};
    for (const peer of peers) {
      const name = nameOf(peer);
      if (name !== undefined) names[peer] = name;
    }
    return names;
  }

  #totalsNow(): Totals {
    return {
      ...this.#totals.traffic(),
      channelsOpen: this.#channels.size,
      channelsTotal: this.#channelsTotal,
    };
  }

  // ---- the clock

  #schedule(delayMs: number): void {
    if (this.#closed) return;
    this.#dueAt = this.#now() + delayMs;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#tick(), delayMs);
    // Looking on keeps no process alive.
    this.#timer.unref();
  }

  #tick(): void {
    const begun = this.#now();
    this.#changed = false;
    this.sample();
    for (const listener of [...this.#listeners]) listener();
    // A view renders in a microtask that it queues when it is told: this one comes after it.
    queueMicrotask(() => {
      const spentMs = this.#now() - begun;
      const busy = this.#changed || begun - this.#movedAt < BUSY_MS;
      const pace = !this.watched || this.#sessions.waiting ? UNWATCHED_MS : QUIET_MS;
      this.#leastRestMs = spentMs / MAX_SHARE - spentMs;
      this.#schedule(Math.max((this.watched && busy ? WATCHED_MS : pace) - spentMs, this.#leastRestMs));
    });
  }
}

function tunnelStatus({ facts, meter, open, total }: Tunnel): TunnelStatus {
  return { ...facts, open, total, ...meter.traffic(), history: meter.history() };
}
