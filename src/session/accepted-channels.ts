/**
 * The channels one process of one peer opened here, over however many sessions: the other end of
 * `opened-channels.ts`. Kept by identity and `instanceId`, so that nobody else can take a channel up and
 * a restarted peer is not taken for the one before.
 */
import { TunnelError } from '../error.js';
import type { Carrier } from './carrier.js';
import { Channel, type ChannelHost } from './channel.js';
import type { DetachedChannels } from './detached.js';
import { encodeError, encodeFrame, FrameType } from './frame.js';
import { peerIsGone, whereToAsk } from './gone-peer.js';
import { closeError, type PeerSession, sessionMayResume } from './handshake.js';
import type { ChannelLists, ResumeRequest } from './resume.js';
import type { Session } from './session.js';
import { LINK_WINDOW_BYTES, WindowBudget } from './window-budget.js';

/** Ends that the opener may ask after; enough for one round trip of the busiest session. */
const MAX_TOMBSTONES = 4096;

interface Accepted {
  readonly channel: Channel;
  session: PeerSession;
}

export interface AcceptedChannelsOptions {
  readonly detached: DetachedChannels;
  /** Milliseconds a channel waits for a session. */
  readonly resumeTimeoutMs: number;
  /** Milliseconds after which the peer has given up whatever it had here. */
  readonly forgetAfterMs: number;
  /** Whether this is all that was ever heard of the peer's process. If not, nothing may begin anew. */
  readonly complete: boolean;
  /** Nothing is left that the peer could ask for. */
  readonly onIdle: () => void;
  /** There is no session, and the last channel that waited for one is over, with the error if it was lost. */
  readonly onNothingWaits?: (error: TunnelError | undefined) => void;
}

export class AcceptedChannels {
  readonly #options: AcceptedChannelsOptions;
  readonly #budget = new WindowBudget(LINK_WINDOW_BYTES);
  readonly #open = new Map<number, Accepted>();
  /** How channels ended: cleanly, or why not. */
  readonly #tombstones = new Map<number, TunnelError | undefined>();
  /** Ids up to this one may have been used and forgotten. */
  #forgotten: number;
  readonly #sessions = new Set<PeerSession>();
  readonly #host: ChannelHost;
  #idleTimer: NodeJS.Timeout | undefined;
  #forgottenForGood = false;
  #looking: AbortController | undefined;

  constructor(options: AcceptedChannelsOptions) {
    this.#options = options;
    this.#forgotten = options.complete ? 0 : Number.POSITIVE_INFINITY;
    const { detached } = options;
    this.#host = {
      detached: (channel) => detached.add(channel, this, options.resumeTimeoutMs),
      resumed: (channel) => detached.remove(channel),
      ended: (channel, error) => {
        const waited = this.waiting;
        detached.remove(channel);
        this.#open.delete(channel.channelId);
        this.#bury(channel.channelId, error);
        if (this.waiting === 0) this.#endLook();
        if (waited > 0 && this.waiting === 0 && !this.isConnected) options.onNothingWaits?.(error);
        this.#maybeIdle();
      },
    };
  }

  /** Channels that have no session now. */
  get waiting(): number {
    return this.#options.detached.count(this);
  }

  /** Whether the process at the other end has a session now. */
  get isConnected(): boolean {
    return this.#sessions.size > 0;
  }

  get isIdle(): boolean {
    return this.#sessions.size === 0 && this.#open.size === 0;
  }

  /** Counts the session as one the channels may ride on, until it ends. */
  attach(peer: PeerSession): void {
    clearTimeout(this.#idleTimer);
    this.#endLook();
    this.#sessions.add(peer);
    void peer.session.closed.then((info) => {
      this.#sessions.delete(peer);
      if (!sessionMayResume(info)) {
        for (const { session, channel } of [...this.#open.values()]) {
          if (session === peer) channel.abort(closeError(info));
        }
      } else if (!this.isConnected && this.waiting > 0) {
        void this.#lookForPeer(peer);
      }
      this.#maybeIdle();
    });
  }

  /** A channel that the peer opens on `carrier`, to be started. Throws PROTOCOL for an id that was used. */
  open(peer: PeerSession, carrier: Carrier, channelId: number, limit: number): Channel {
    return this.#add(peer, carrier, channelId, limit);
  }

  /** The session the channel rides on, or rode on last. */
  sessionOf(channel: Channel): PeerSession | undefined {
    return this.#open.get(channel.channelId)?.session;
  }

  /** Those that are open, also without a session. */
  all(): readonly Channel[] {
    return [...this.#open.values()].map(({ channel }) => channel);
  }

  get(channelId: number): Channel | undefined {
    return this.#open.get(channelId)?.channel;
  }

  /**
   * The peer goes on with a channel on `carrier`. Answers false where the channel is not known, so
   * that it can be begun anew if it never was opened, or refused.
   */
  resume(peer: PeerSession, carrier: Carrier, request: ResumeRequest, rest: Buffer): boolean {
    const accepted = this.#open.get(request.channelId);
    if (accepted) {
      if (accepted.channel.resumeFrom(carrier, request.epoch, request, rest)) accepted.session = peer;
      else carrier.reset(new TunnelError('MOVED', 'the channel has moved on').wireCode);
      return true;
    }
    if (!this.#tombstones.has(request.channelId)) return false;
    const error = this.#tombstones.get(request.channelId);
    carrier.write(
      error
        ? encodeFrame(carrier.frameId, FrameType.ERROR, encodeError(error.wireCode, error.message))
        : encodeFrame(carrier.frameId, FrameType.ENDED, EMPTY),
      null,
    );
    carrier.endAfterError(0);
    return true;
  }

  /**
   * Begins a channel whose OPEN never came through, from its RESUME; `start` it, then `resumeFrom`.
   * Throws RESUME_UNKNOWN where it may have come through: its first bytes must not reach a target twice.
   */
  reopen(peer: PeerSession, request: ResumeRequest, limit: number): Channel {
    if (request.opened || request.open.length === 0 || request.channelId <= this.#forgotten)
      throw new TunnelError('RESUME_UNKNOWN', 'the peer wanted to go on with a channel that is not known');
    return this.#add(peer, undefined, request.channelId, limit);
  }

  /** The peer tells, on a new session, which channels it still has and which it knows to have ended cleanly. */
  sync(current: Session, { live, ended }: ChannelLists): void {
    const alive = new Set(live);
    const clean = new Set(ended);
    for (const [id, { channel, session }] of [...this.#open]) {
      if (session.session === current || alive.has(id)) continue;
      if (clean.has(id)) channel.endedAtPeer();
      else channel.abort(new TunnelError('RESET', 'the other end gave the connection up'));
    }
  }

  /** Nobody comes back to ask for ends: keeps nothing alive for that. */
  forget(): void {
    this.#forgottenForGood = true;
    clearTimeout(this.#idleTimer);
  }

  /** Ends every channel. */
  abortAll(error: TunnelError): void {
    for (const { channel } of [...this.#open.values()]) channel.abort(error);
  }

  /** What waits for a process that has ended need not wait any longer. */
  async #lookForPeer({ session, remote }: PeerSession): Promise<void> {
    const address = whereToAsk(session.path, remote);
    if (address === undefined) return;
    this.#endLook();
    const looking = new AbortController();
    this.#looking = looking;
    if (!(await peerIsGone(address, looking.signal))) return;
    const error = new TunnelError('PEER_GONE', 'the peer is not running any more');
    for (const { channel } of [...this.#open.values()]) if (channel.isDetached) channel.abort(error);
  }

  #endLook(): void {
    this.#looking?.abort();
    this.#looking = undefined;
  }

  #add(peer: PeerSession, carrier: Carrier | undefined, channelId: number, peerLimit: number): Channel {
    if (this.#open.has(channelId) || this.#tombstones.has(channelId))
      throw new TunnelError('PROTOCOL', `the peer used the channel id ${channelId} twice`);
    const accepted: Accepted = {
      channel: new Channel(carrier, {
        channelId,
        role: 'acceptor',
        peerLimit,
        budget: this.#budget,
        rttMs: () => accepted.session.session.path.rttMs,
        host: this.#host,
      }),
      session: peer,
    };
    this.#open.set(channelId, accepted);
    return accepted.channel;
  }

  #bury(id: number, error: TunnelError | undefined): void {
    this.#tombstones.set(id, error);
    if (this.#tombstones.size <= MAX_TOMBSTONES) return;
    for (const oldest of this.#tombstones.keys()) {
      this.#tombstones.delete(oldest);
      this.#forgotten = Math.max(this.#forgotten, oldest);
      break;
    }
  }

  /** The ends are kept for as long as the peer may come back and ask. */
  #maybeIdle(): void {
    if (!this.isIdle || this.#forgottenForGood) return;
    clearTimeout(this.#idleTimer);
    this.#idleTimer = setTimeout(() => this.#options.onIdle(), this.#options.forgetAfterMs);
    this.#idleTimer.unref();
  }
}

const EMPTY = Buffer.alloc(0);
