/** Rates out of counters, computed only when they are sampled. */
import type { History, Traffic } from './status.js';

const SMOOTHING_MS = 2000;
/** Without a byte for this long a rate is 0, not a small number that dies away. */
const SILENCE_MS = 4000;
const HISTORY_SECONDS = 60;

/** The weight of a new sample that covers `elapsedMs`. */
export function sampleWeight(elapsedMs: number): number {
  return 1 - Math.exp(-elapsedMs / SMOOTHING_MS);
}

/** An exponentially weighted mean of bytes per second. */
export class Rate {
  #perSecond = 0;
  #silentMs = SILENCE_MS;

  get perSecond(): number {
    return Math.round(this.#perSecond);
  }

  sample(bytes: number, elapsedMs: number, weight: number): void {
    if (bytes > 0) this.#silentMs = 0;
    else this.#silentMs += elapsedMs;
    if (this.#silentMs >= SILENCE_MS) this.#perSecond = 0;
    else if (elapsedMs > 0) this.#perSecond += ((bytes * 1000) / elapsedMs - this.#perSecond) * weight;
  }
}

/** Bytes of each of the last 60 whole seconds. */
export class SecondsHistory {
  readonly #in: number[] = [];
  readonly #out: number[] = [];
  #bytesIn = 0;
  #bytesOut = 0;
  #elapsedMs = 0;

  add(bytesIn: number, bytesOut: number, elapsedMs: number): void {
    this.#bytesIn += bytesIn;
    this.#bytesOut += bytesOut;
    this.#elapsedMs += elapsedMs;
    // After a stop of the process (suspend, debugger) the gap is filled with its mean.
    const seconds = Math.floor(this.#elapsedMs / 1000);
    if (seconds === 0) return;
    const rateIn = Math.round((this.#bytesIn * 1000) / this.#elapsedMs);
    const rateOut = Math.round((this.#bytesOut * 1000) / this.#elapsedMs);
    for (let second = 0; second < Math.min(seconds, HISTORY_SECONDS); second += 1) {
      this.#in.push(rateIn);
      this.#out.push(rateOut);
    }
    this.#in.splice(0, this.#in.length - HISTORY_SECONDS);
    this.#out.splice(0, this.#out.length - HISTORY_SECONDS);
    const rest = this.#elapsedMs - seconds * 1000;
    this.#bytesIn *= rest / this.#elapsedMs;
    this.#bytesOut *= rest / this.#elapsedMs;
    this.#elapsedMs = rest;
  }

  snapshot(): History {
    return { in: [...this.#in], out: [...this.#out] };
  }
}

/** Bytes both ways with their rates and history. */
export class Meter {
  #bytesIn = 0;
  #bytesOut = 0;
  #pendingIn = 0;
  #pendingOut = 0;
  readonly #rateIn = new Rate();
  readonly #rateOut = new Rate();
  readonly #history = new SecondsHistory();

  add(bytesIn: number, bytesOut: number): void {
    this.#pendingIn += bytesIn;
    this.#pendingOut += bytesOut;
  }

  /** Ends a sample of what was added since the last one. */
  sample(elapsedMs: number, weight: number): void {
    this.#bytesIn += this.#pendingIn;
    this.#bytesOut += this.#pendingOut;
    this.#rateIn.sample(this.#pendingIn, elapsedMs, weight);
    this.#rateOut.sample(this.#pendingOut, elapsedMs, weight);
    this.#history.add(this.#pendingIn, this.#pendingOut, elapsedMs);
    this.#pendingIn = 0;
    this.#pendingOut = 0;
  }

  traffic(): Traffic {
    return {
      bytesIn: this.#bytesIn,
      bytesOut: this.#bytesOut,
      rateIn: this.#rateIn.perSecond,
      rateOut: this.#rateOut.perSecond,
    };
  }

  history(): History {
    return this.#history.snapshot();
  }
}
