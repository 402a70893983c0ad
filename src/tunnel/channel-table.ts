/** The open channels of a process: reported as they come and go, drained or reset at its end. */
import { TunnelError } from '../error.js';
import type { Channel } from '../session/channel.js';
import type { PeerSession } from '../session/handshake.js';
import type { Report } from './events.js';
import type { ChannelFigures, StatusSource } from './status.js';

/** Ids are unique in this process; a channel's number on the wire is only unique in its session. */
let lastId = 0;

/** Where a channel meets a socket on this side. */
export interface ChannelPlace {
  /** What took it; see `drain`. */
  readonly owner?: object;
  /** Where it came in, and from whom. */
  readonly local?: string;
  readonly client?: () => string | undefined;
  /** What was dialled. */
  readonly target?: string;
  /** What it rides on now; it may have moved. */
  readonly session?: () => PeerSession | undefined;
}

interface Open {
  readonly channel: Channel;
  readonly figures: ChannelFigures;
  readonly owner: object | undefined;
}

export class ChannelTable {
  readonly #report: Report;
  readonly #open = new Map<number, Open>();
  readonly #flows = new Map<number, ChannelFigures>();
  /** How many are open. */
  readonly #owned = new Map<object, number>();
  /** Called at each end of a channel. */
  readonly #draining = new Set<() => void>();

  constructor(report: Report) {
    this.#report = report;
  }

  /** UDP flows: reported as channels, but not waited for. */
  readonly flows = {
    begin: (figures: (id: number) => ChannelFigures): number => {
      const id = takeId();
      this.#flows.set(id, figures(id));
      return id;
    },
    end: (id: number): void => {
      this.#flows.delete(id);
    },
  };

  /** Answers the function to call once, when the channel is over. */
  add(
    channel: Channel,
    peer: PeerSession,
    service: string,
    place: ChannelPlace = {},
  ): (error: TunnelError | undefined) => void {
    const id = takeId();
    const described = {
      id,
      peer: peer.peer,
      service,
      protocol: 'tcp' as const,
      path: peer.session.path.kind,
    };
    const figures = new LiveFigures(channel, described, place, peer);
    const { owner } = place;
    this.#open.set(id, { channel, figures, owner });
    this.#own(owner, 1);
    this.#report({ event: 'channel.open', ...described });
    return (error) => {
      if (!this.#open.delete(id)) return;
      this.#report({
        event: 'channel.close',
        ...described,
        reason: closeReason(error),
        bytesIn: channel.bytesIn,
        bytesOut: channel.bytesOut,
        durationMs: Math.round(channel.ageMs),
      });
      this.#own(owner, -1);
      for (const look of this.#draining) look();
    };
  }

  /**
   * Waits until every channel has ended by itself, or those of these owners, `timeoutMs` at most or until
   * the signal.
   */
  async drain(timeoutMs: number, signal?: AbortSignal, owners?: ReadonlySet<object>): Promise<void> {
    if (this.#count(owners) === 0 || signal?.aborted) return;
    await new Promise<void>((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#draining.delete(look);
        signal?.removeEventListener('abort', done);
        resolve();
      };
      const look = () => {
        if (this.#count(owners) === 0) done();
      };
      const timer = setTimeout(done, timeoutMs);
      this.#draining.add(look);
      signal?.addEventListener('abort', done, { once: true });
    });
  }

  /** Whether bytes are under way that the peer has not taken: then its silence means more. */
  awaitsPeer(): boolean {
    for (const { channel } of this.#open.values()) if (channel.unackedBytes > 0) return true;
    return false;
  }

  /** Resets every channel, or those of these owners. */
  abortAll(error: TunnelError, owners?: ReadonlySet<object>): void {
    for (const { channel, owner } of this.#open.values()) {
      if (!owners || (owner && owners.has(owner))) channel.abort(error);
    }
  }

  #count(owners: ReadonlySet<object> | undefined): number {
    if (!owners) return this.#open.size;
    let count = 0;
    for (const owner of owners) count += this.#owned.get(owner) ?? 0;
    return count;
  }

  #own(owner: object | undefined, change: number): void {
    if (!owner) return;
    const count = (this.#owned.get(owner) ?? 0) + change;
    if (count > 0) this.#owned.set(owner, count);
    else this.#owned.delete(owner);
  }

  figures(id: number): ChannelFigures | undefined {
    return this.#open.get(id)?.figures ?? this.#flows.get(id);
  }

  /** False when there is none of that id. */
  reset(id: number, error: TunnelError): boolean {
    const open = this.#open.get(id);
    open?.channel.abort(error);
    return open !== undefined;
  }
}

function takeId(): number {
  lastId += 1;
  return lastId;
}

/** What a status model reads of a service whose channels these are. */
export function statusSource(channels: ChannelTable, sessions: () => Iterable<PeerSession>): StatusSource {
  return {
    channel: (id) => channels.figures(id),
    sessions,
    resetChannel: (id) =>
      channels.reset(id, new TunnelError('RESET', 'the connection was reset by the operator')),
  };
}

/** Counters that are read from the channel whenever they are asked for. */
class LiveFigures implements ChannelFigures {
  readonly id: number;
  readonly peer: string;
  readonly service: string;
  readonly protocol: string;
  readonly local: string | undefined;
  readonly target: string | undefined;
  readonly #channel: Channel;
  readonly #session: () => PeerSession;
  readonly #client: (() => string | undefined) | undefined;
  #knownClient: string | undefined;

  constructor(channel: Channel, facts: Facts, place: ChannelPlace, peer: PeerSession) {
    this.id = facts.id;
    this.peer = facts.peer;
    this.service = facts.service;
    this.protocol = facts.protocol;
    this.local = place.local;
    this.target = place.target;
    this.#channel = channel;
    this.#session = () => place.session?.() ?? peer;
    this.#client = place.client;
  }

  /** Asking the system costs: only once somebody looks. */
  get client() {
    this.#knownClient ??= this.#client?.();
    return this.#knownClient;
  }

  get path() {
    return this.#session().session.path.kind;
  }

  get state() {
    return this.#channel.state;
  }

  get bytesIn() {
    return this.#channel.bytesIn;
  }

  get bytesOut() {
    return this.#channel.bytesOut;
  }

  get unackedBytes() {
    return this.#channel.unackedBytes;
  }

  get window() {
    return this.#channel.window;
  }

  get ageMs() {
    return this.#channel.ageMs;
  }

  get epoch() {
    return this.#channel.epoch;
  }

  get resumes() {
    return this.#channel.epoch;
  }
}

type Facts = Pick<ChannelFigures, 'id' | 'peer' | 'service' | 'protocol'>;

/** `eos` for a clean end, else the error's code in lower case: `reset`, `refused`, `session-lost`. */
function closeReason(error: TunnelError | undefined): string {
  return error === undefined ? 'eos' : error.code.toLowerCase().replaceAll('_', '-');
}
