/** The open channels of a process: reported as they come and go, drained or reset at its end. */
import { TunnelError } from '../error.js';
import type { Channel } from '../session/channel.js';
import type { PeerSession } from '../session/handshake.js';
import type { Report } from './events.js';
import type { ChannelFigures, StatusSource } from './status.js';

/** Where a channel meets a socket on this side. */
export interface ChannelPlace {
  /** Where it came in, and from whom. */
  readonly local?: string;
  readonly client?: () => string | undefined;
  /** What was dialled. */
  readonly target?: string;
  /** What it rides on now; it may have moved. */
  readonly session?: () => PeerSession | undefined;
}

export class ChannelTable {
  readonly #report: Report;
  readonly #open = new Map<number, { readonly channel: Channel; readonly figures: ChannelFigures }>();
  readonly #flows = new Map<number, ChannelFigures>();
  /** Ids are unique in this process; a channel's number on the wire is only unique in its session. */
  #lastId = 0;
  #onEmpty: (() => void) | undefined;

  constructor(report: Report) {
    this.#report = report;
  }

  /** UDP flows: reported as channels, but not waited for. */
  readonly flows = {
    begin: (figures: (id: number) => ChannelFigures): number => {
      const id = this.#takeId();
      this.#flows.set(id, figures(id));
      return id;
    },
    end: (id: number): void => {
      this.#flows.delete(id);
    },
  };

  #takeId(): number {
    this.#lastId += 1;
    return this.#lastId;
  }

  /** Answers the function to call once, when the channel is over. */
  add(
    channel: Channel,
    peer: PeerSession,
    service: string,
    place: ChannelPlace = {},
  ): (error: TunnelError | undefined) => void {
    const id = this.#takeId();
    const described = {
      id,
      peer: peer.peer,
      service,
      protocol: 'tcp' as const,
      path: peer.session.path.kind,
    };
    this.#open.set(id, { channel, figures: new LiveFigures(channel, described, place, peer) });
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
      if (this.#open.size === 0) this.#onEmpty?.();
    };
  }

  /** Waits until every channel has ended by itself, `timeoutMs` at most or until the signal. Answers how many have not. */
  async drain(timeoutMs: number, signal?: AbortSignal): Promise<number> {
    if (this.#open.size > 0 && !signal?.aborted) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, timeoutMs);
        const done = () => {
          clearTimeout(timer);
          resolve();
        };
        this.#onEmpty = done;
        signal?.addEventListener('abort', done, { once: true });
      });
      this.#onEmpty = undefined;
    }
    return this.#open.size;
  }

  /** Whether bytes are under way that the peer has not taken: then its silence means more. */
  awaitsPeer(): boolean {
    for (const { channel } of this.#open.values()) if (channel.unackedBytes > 0) return true;
    return false;
  }

  abortAll(error: TunnelError): void {
    for (const { channel } of this.#open.values()) channel.abort(error);
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
