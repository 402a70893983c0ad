/**
 * Heartbeat: whether the peer's program still answers. QUIC's own keep-alive is answered by the addon's
 * threads, also for a program that hangs; so this asks the program itself, by a call on the control
 * stream, and counts whatever the program sends as an answer.
 */
import type { PeerSession } from './handshake.js';

/** How often it looks. */
const TICK_MS = 250;
/** Silence after which it asks. */
const ASK_AFTER_MS = 1500;
/** As above, while this side waits for the peer. */
const ASK_AFTER_BUSY_MS = 500;
/** A question unanswered for this long, or for four round trips, makes the path suspect. */
const SUSPECT_AFTER_MS = 1000;
/** Silence that means the path or the peer is gone. */
const DEAD_AFTER_MS = 4500;
/** A tick that comes this late means that this process, or the machine, was asleep. */
const SLEPT_MS = 2000;

export interface HeartbeatOptions {
  /** Whether this side waits for something from the peer: then silence means more. */
  readonly busy?: () => boolean;
  /** Only listens, and asks when the peer that should ask is silent. */
  readonly passive?: boolean;
  /** The peer has not answered for a while, or answers again. */
  readonly onSuspect?: (suspect: boolean) => void;
  readonly onDead: () => void;
  /** This process was not running for a while. */
  readonly onWake?: () => void;
}

export class Heartbeat {
  readonly #peer: PeerSession;
  readonly #options: HeartbeatOptions;
  readonly #timer: NodeJS.Timeout;
  #heard: number;
  #heardAt = performance.now();
  #askedAt: number | undefined;
  #tickAt = performance.now();
  /** A clock that goes on while the machine sleeps; only its jumps are looked at. */
  #clockAt = Date.now();
  #suspect = false;

  constructor(peer: PeerSession, options: HeartbeatOptions) {
    this.#peer = peer;
    this.#options = options;
    this.#heard = peer.session.heard;
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
    this.#timer.unref();
  }

  /** Milliseconds since the peer was last heard. */
  get silentMs(): number {
    return performance.now() - this.#heardAt;
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  /** Asks now: something may have changed. */
  probe(): void {
    this.#ask(performance.now());
  }

  #tick(): void {
    const now = performance.now();
    const clock = Date.now();
    const slept = Math.max(now - this.#tickAt, clock - this.#clockAt) - TICK_MS > SLEPT_MS;
    this.#tickAt = now;
    this.#clockAt = clock;
    const { heard } = this.#peer.session;
    if (heard !== this.#heard) {
      this.#heard = heard;
      this.#heardAt = now;
      this.#askedAt = undefined;
      this.#setSuspect(false);
      if (!slept) return;
    }
    if (slept) {
      // Silence that nobody listened to proves nothing: ask, and count from here.
      this.#heardAt = now;
      this.#ask(now);
      this.#options.onWake?.();
      return;
    }
    const silent = now - this.#heardAt;
    if (silent >= DEAD_AFTER_MS) {
      this.stop();
      this.#options.onDead();
      return;
    }
    if (this.#askedAt === undefined) {
      if (silent >= this.#askAfterMs()) this.#ask(now);
    } else if (now - this.#askedAt >= Math.max(SUSPECT_AFTER_MS, 4 * this.#peer.session.path.rttMs)) {
      this.#setSuspect(true);
    }
  }

  #askAfterMs(): number {
    if (this.#options.passive) return 2 * ASK_AFTER_MS;
    return this.#options.busy?.() ? ASK_AFTER_BUSY_MS : ASK_AFTER_MS;
  }

  #ask(now: number): void {
    this.#askedAt = now;
    // An answer is heard as any other sign of life; a failure shows as silence, or ends the session.
    void this.#peer.rpc.call('ping', undefined, { deadlineMs: DEAD_AFTER_MS }).catch(() => undefined);
  }

  #setSuspect(suspect: boolean): void {
    if (this.#suspect === suspect) return;
    this.#suspect = suspect;
    this.#options.onSuspect?.(suspect);
  }
}
