/**
 * The channels this side opened to one peer, over however many sessions. When a session dies they wait;
 * on the next one, or on a better one while the old one lives, they go on. The opener moves channels,
 * the acceptor follows (`accepted-channels.ts`).
 */
import { TunnelError, type TunnelErrorCode } from '../error.js';
import { type Carrier, StreamCarrier } from './carrier.js';
import { Channel, type ChannelHost, EARLY_DATA_BYTES } from './channel.js';
import { DetachedChannels, RESUME_TIMEOUT_MS } from './detached.js';
import { closeError, type PeerSession, sessionMayResume } from './handshake.js';
import { untilPolled } from './hold-back.js';
import { encodePreamble, StreamKind } from './preamble.js';
import { encodeLists, encodeResume } from './resume.js';
import { LINK_WINDOW_BYTES, WindowBudget } from './window-budget.js';

/** Clean ends the peer may not have heard of; enough for one round trip of the busiest session. */
const MAX_TOMBSTONES = 4096;
/** The call by which an opener tells what it still has, on a session that is not the first. */
export const SYNC_METHOD = 'channels.sync';

export interface OpenedChannelsOptions {
  /** Shared by all peers of the process. */
  readonly detached?: DetachedChannels;
  /** Milliseconds a channel waits for a session. */
  readonly resumeTimeoutMs?: number;
}

/** What became of the channels that had lost their session. Those that an application ended are neither. */
export interface Resumption {
  readonly resumed: number;
  /** Ended by the loss of the session, also while there was none: expired, unknown to the peer, beyond a limit. */
  readonly lost: number;
}

/** Ends that come of the loss of a session. All others would have come without it. */
const LOST: ReadonlySet<TunnelErrorCode> = new Set([
  ...(['RESUME_EXPIRED', 'RESUME_UNKNOWN', 'RESUME_GAP', 'RESUME_LIMIT'] as const),
  ...(['PEER_RESTARTED', 'PEER_GONE'] as const),
]);

/** How an attempt to go on came out. */
type Outcome = 'resumed' | 'ended' | 'waiting';

interface Opened {
  readonly channel: Channel;
  /** The body of its OPEN, for a peer that never got it. */
  readonly open: Buffer;
  /** The peer's process that has the other end. */
  readonly instanceId: string;
  session: PeerSession;
  /** Told how the attempt to go on came out. */
  settle: ((how: Outcome) => void) | undefined;
}

export class OpenedChannels {
  readonly #detached: DetachedChannels;
  readonly #resumeTimeoutMs: number;
  readonly #budget = new WindowBudget(LINK_WINDOW_BYTES);
  readonly #open = new Map<number, Opened>();
  readonly #tombstones = new Set<number>();
  readonly #host: ChannelHost;
  #nextId = 1;
  /** Channels lost since this was last told. */
  #lost = 0;
  #current: PeerSession | undefined;

  constructor(options: OpenedChannelsOptions = {}) {
    this.#detached = options.detached ?? new DetachedChannels();
    this.#resumeTimeoutMs = options.resumeTimeoutMs ?? RESUME_TIMEOUT_MS;
    this.#host = {
      detached: (channel) => this.#onDetached(channel),
      resumed: (channel) => {
        this.#detached.remove(channel);
        this.#settle(channel, 'resumed');
      },
      ended: (channel, error) => this.#onEnded(channel, error),
    };
  }

  /** Channels that have no session now. */
  get waiting(): number {
    return this.#detached.count(this);
  }

  /**
   * Opens a channel on a stream of its own. `encodeOpen` makes the body of its OPEN. The channel has to
   * be started. Throws SESSION_LOST where the session is gone: nothing was opened then.
   */
  async open(peer: PeerSession, encodeOpen: (channelId: number) => Buffer): Promise<Channel> {
    const stream = await peer.session.createBidirectionalStream();
    const channelId = this.#takeId();
    const open = encodeOpen(channelId);
    const carrier = new StreamCarrier(stream, channelId);
    // Most clients speak first, and at once: their first bytes go with it.
    carrier.defer(encodePreamble(StreamKind.OPEN, open), untilPolled);
    return this.#add(peer, carrier, channelId, open, EARLY_DATA_BYTES);
  }

  #add(peer: PeerSession, carrier: Carrier, channelId: number, open: Buffer, peerLimit: number): Channel {
    const opened: Opened = {
      channel: new Channel(carrier, {
        channelId,
        role: 'opener',
        peerLimit,
        budget: this.#budget,
        rttMs: () => opened.session.session.path.rttMs,
        host: this.#host,
      }),
      open,
      instanceId: peer.remote.instanceId,
      session: peer,
      settle: undefined,
    };
    this.#open.set(channelId, opened);
    return opened.channel;
  }

  /** The session the channel rides on, or rode on last. */
  sessionOf(channel: Channel): PeerSession | undefined {
    return this.#open.get(channel.channelId)?.session;
  }

  /**
   * Takes `peer` as the session for what waits, and moves what is on other sessions to the same process
   * over to it. Channels of an earlier process of the peer that have lost their session are reset.
   * Resolves, never rejects, when each of them has gone on, ended, or lost this session as well.
   */
  async attach(peer: PeerSession): Promise<Resumption> {
    this.#current = peer;
    void peer.session.closed.then((info) => {
      if (this.#current === peer) this.#current = undefined;
      if (!sessionMayResume(info)) this.#failOn(peer, closeError(info));
    });
    const moving: Opened[] = [];
    for (const opened of [...this.#open.values()]) {
      if (opened.session === peer) continue;
      if (opened.instanceId === peer.remote.instanceId) {
        moving.push(opened);
      } else if (opened.channel.isDetached) {
        opened.channel.abort(restarted());
      }
    }
    const ends = Promise.all(moving.map((opened) => this.#move(opened, peer)));
    await this.#sync(peer);
    const outcomes = await ends;
    const lost = this.#lost;
    this.#lost = 0;
    return { resumed: outcomes.filter((how) => how === 'resumed').length, lost };
  }

  /** Ends every channel. */
  abortAll(error: TunnelError): void {
    for (const { channel } of [...this.#open.values()]) channel.abort(error);
  }

  /** Ends the channels that wait: what they wait for will not come back. */
  abortWaiting(error: TunnelError): void {
    for (const { channel } of [...this.#open.values()]) if (channel.isDetached) channel.abort(error);
  }

  /** Lets the peer end what this side no longer has, and tells it which ends were clean. */
  async #sync(peer: PeerSession): Promise<void> {
    const lists = { live: [...this.#open.keys()], ended: [...this.#tombstones] };
    // Where it fails the session is ending, and the next one says it again.
    await peer.rpc.call(SYNC_METHOD, encodeLists(lists)).catch(() => undefined);
  }

  async #move(opened: Opened, peer: PeerSession): Promise<Outcome> {
    const { channel } = opened;
    opened.settle?.('waiting');
    const outcome = new Promise<Outcome>((resolve) => {
      opened.settle = resolve;
    });
    const epoch = channel.leaveCarrier();
    opened.session = peer;
    this.#detached.add(channel, this, this.#resumeTimeoutMs);
    try {
      const stream = await peer.session.createBidirectionalStream();
      if (channel.isClosed || channel.epoch !== epoch) {
        stream.reset(0);
        stream.stop(0);
      } else {
        const point = channel.resumePoint;
        const request = {
          channelId: channel.channelId,
          epoch,
          ...point,
          open: point.opened ? EMPTY : opened.open,
        };
        stream.write(encodePreamble(StreamKind.RESUME, encodeResume(request)), null);
        channel.resumeOver(new StreamCarrier(stream, channel.channelId));
      }
    } catch {
      // The session is gone again: the next one takes the channel up.
      this.#settle(channel, 'waiting');
    }
    return outcome;
  }

  #onDetached(channel: Channel): void {
    const opened = this.#open.get(channel.channelId);
    if (!opened) return;
    this.#settle(channel, 'waiting');
    const current = this.#current;
    if (current && current.remote.instanceId !== opened.instanceId) {
      channel.abort(restarted());
      return;
    }
    this.#detached.add(channel, this, this.#resumeTimeoutMs);
    // Its session is not the one for new work any more: there is a better one to go on with.
    if (current && current !== opened.session) void this.#move(opened, current);
  }

  #onEnded(channel: Channel, error: TunnelError | undefined): void {
    const opened = this.#open.get(channel.channelId);
    this.#detached.remove(channel);
    if (!opened) return;
    this.#open.delete(channel.channelId);
    opened.settle?.(error ? 'ended' : 'resumed');
    if (error) {
      const inResuming = opened.settle !== undefined && error.code === 'PROTOCOL';
      if (LOST.has(error.code) || inResuming) this.#lost += 1;
      return;
    }
    this.#tombstones.add(channel.channelId);
    if (this.#tombstones.size > MAX_TOMBSTONES) {
      for (const oldest of this.#tombstones) {
        this.#tombstones.delete(oldest);
        break;
      }
    }
  }

  #settle(channel: Channel, how: 'resumed' | 'waiting'): void {
    const opened = this.#open.get(channel.channelId);
    const { settle } = opened ?? {};
    if (!opened || !settle) return;
    opened.settle = undefined;
    settle(how);
  }

  /** The peer ended the session on purpose: nothing on it goes on elsewhere. */
  #failOn(peer: PeerSession, error: TunnelError): void {
    for (const { session, channel } of [...this.#open.values()]) {
      if (session === peer) channel.abort(error);
    }
  }

  #takeId(): number {
    if (this.#nextId > 0xffff_fffd)
      throw new TunnelError('LIMIT', 'every channel id of this process has been used');
    const id = this.#nextId;
    this.#nextId += 2;
    return id;
  }
}

const EMPTY = Buffer.alloc(0);

function restarted(): TunnelError {
  return new TunnelError('PEER_RESTARTED', 'the peer was restarted, and its end of the connection is gone');
}
