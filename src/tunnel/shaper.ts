/**
 * Shares a number of bytes a second between channels and flows: a token bucket, served by start-time
 * fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queueing", 1996). Each share has a virtual time that grows by the
 * bytes it sends while there is competition; the lowest goes first, so that everybody gets the same,
 * and who sent little lately never stands behind who sent much. Somebody that is hardly ahead of the
 * others may even borrow from the bucket: a keystroke does not wait for a bulk transfer's last piece.
 */
import { TurnQueue } from './turn-queue.js';

/** How much of the rate one turn takes, seconds, and its bounds in bytes. */
const TURN_SECONDS = 0.005;
const MIN_TURN_BYTES = 4 * 1024;
const MAX_TURN_BYTES = 256 * 1024;
/** What may go at once after a quiet time: seconds of the rate, and bytes at least. */
const BURST_SECONDS = 0.02;
const MIN_BURST_BYTES = 64 * 1024;
/** A busy event loop comes late; what it missed is made up for, up to this. */
const CATCH_UP_SECONDS = 0.25;
/** What those who sent little may borrow: so many turns, and seconds of the rate. */
const BORROWED_TURNS = 4;
const BORROWED_SECONDS = 0.05;

export interface ShaperClock {
  /** Monotonic milliseconds. */
  now(): number;
  /** Calls back once; nothing has to keep the process alive for it. */
  after(ms: number, callback: () => void): void;
}

const CLOCK: ShaperClock = {
  now: () => performance.now(),
  after: (ms, callback) => setTimeout(callback, ms).unref(),
};

/** One direction of one channel or flow, as one shaper sees it. */
export interface Share {
  /** Bytes it has sent in competition, since it last was behind the others. */
  virtualTime: number;
  /** What it waits to send; 0 when it does not wait. */
  wanted: number;
  /** Called when its turn has come, with what it wanted paid for. */
  granted: () => void;
}

export class Shaper {
  /** Bytes. Larger pieces are to be cut. */
  readonly turnBytes: number;
  readonly #bytesPerMs: number;
  readonly #burst: number;
  readonly #borrow: number;
  readonly #clock: ShaperClock;
  readonly #waiting = new TurnQueue<Share>();
  #tokens: number;
  #filledAt: number;
  #virtualTime = 0;
  #scheduled = false;

  constructor(bytesPerSecond: number, clock: ShaperClock = CLOCK) {
    this.#bytesPerMs = bytesPerSecond / 1000;
    this.turnBytes = Math.round(
      Math.min(MAX_TURN_BYTES, Math.max(MIN_TURN_BYTES, bytesPerSecond * TURN_SECONDS)),
    );
    this.#burst = Math.max(MIN_BURST_BYTES, bytesPerSecond * BURST_SECONDS);
    this.#borrow = BORROWED_TURNS * this.turnBytes + bytesPerSecond * BORROWED_SECONDS;
    this.#clock = clock;
    this.#tokens = this.#burst;
    this.#filledAt = clock.now();
  }

  /** Whether a piece of that share may go now. */
  allows(share: Share): boolean {
    this.#fill();
    if (this.#waiting.size === 0 && this.#tokens >= 0) return true;
    const ahead = share.virtualTime - this.#virtualTime;
    return ahead < this.turnBytes && this.#tokens > -this.#borrow;
  }

  /** They go: to be called right after `allows` said so. */
  spend(share: Share, bytes: number): void {
    const contended = this.#waiting.size > 0 || this.#tokens < 0;
    share.virtualTime = Math.max(share.virtualTime, this.#virtualTime) + (contended ? bytes : 0);
    this.#tokens -= bytes;
  }

  /** Calls the share back when `bytes` may go; one request at a time. */
  wait(share: Share, bytes: number): void {
    share.virtualTime = Math.max(share.virtualTime, this.#virtualTime);
    share.wanted = bytes;
    this.#waiting.push(share.virtualTime, share);
    this.#schedule();
  }

  #fill(): void {
    const now = this.#clock.now();
    const most = this.#waiting.size > 0 ? this.#bytesPerMs * 1000 * CATCH_UP_SECONDS : this.#burst;
    const filled = this.#tokens + (now - this.#filledAt) * this.#bytesPerMs;
    this.#tokens = Math.min(Math.max(most, this.#tokens), filled);
    this.#filledAt = now;
  }

  #schedule(): void {
    if (this.#scheduled || this.#waiting.size === 0) return;
    this.#scheduled = true;
    this.#clock.after(Math.max(1, Math.ceil(-this.#tokens / this.#bytesPerMs)), () => {
      this.#scheduled = false;
      this.#fill();
      this.#serve();
      this.#schedule();
    });
  }

  #serve(): void {
    while (this.#tokens >= 0) {
      const share = this.#waiting.pop();
      if (!share) return;
      // It has been given up since.
      if (share.wanted === 0) continue;
      const bytes = share.wanted;
      share.wanted = 0;
      this.#virtualTime = Math.max(this.#virtualTime, share.virtualTime);
      share.virtualTime += bytes;
      this.#tokens -= bytes;
      share.granted();
    }
  }
}

/** One direction of one channel or flow, under every limit it comes under. */
export class Lane {
  /** Bytes that may be asked for at once. */
  readonly turnBytes: number;
  readonly #shares: readonly { readonly shaper: Shaper; readonly share: Share }[];
  /** Limits that have not granted what is waited for. */
  #missing = 0;
  #onTurn: (() => void) | undefined;

  constructor(shapers: readonly Shaper[]) {
    this.turnBytes = Math.min(...shapers.map(({ turnBytes }) => turnBytes));
    this.#shares = shapers.map((shaper) => ({
      shaper,
      share: { virtualTime: 0, wanted: 0, granted: () => this.#granted() },
    }));
  }

  /** False: not now, and nothing was counted. */
  take(bytes: number): boolean {
    for (const { shaper, share } of this.#shares) if (!shaper.allows(share)) return false;
    for (const { shaper, share } of this.#shares) shaper.spend(share, bytes);
    return true;
  }

  /** Calls back when `bytes` have been taken. After a `take` that answered false; one at a time. */
  wait(bytes: number, onTurn: () => void): void {
    this.#onTurn = onTurn;
    const refusing = this.#shares.filter(({ shaper, share }) => !shaper.allows(share));
    this.#missing = refusing.length;
    if (refusing.length === 0) queueMicrotask(() => this.#granted());
    for (const one of this.#shares) {
      if (refusing.includes(one)) one.shaper.wait(one.share, bytes);
      else one.shaper.spend(one.share, bytes);
    }
  }

  /** Gives up what is waited for. */
  close(): void {
    this.#onTurn = undefined;
    for (const { share } of this.#shares) share.wanted = 0;
  }

  #granted(): void {
    this.#missing -= 1;
    if (this.#missing > 0) return;
    const onTurn = this.#onTurn;
    this.#onTurn = undefined;
    onTurn?.();
  }
}
