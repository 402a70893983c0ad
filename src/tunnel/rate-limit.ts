/** Lets a few through each second and counts the rest. Monotonic time. */
export class RateLimit {
  readonly #perSecond: number;
  #windowStart = Number.NEGATIVE_INFINITY;
  #taken = 0;
  #skipped = 0;

  constructor(perSecond: number) {
    this.#perSecond = perSecond;
  }

  /** How many were held back before this one, or undefined when this one is held back too. */
  take(now = performance.now()): number | undefined {
    if (now - this.#windowStart >= 1000) {
      this.#windowStart = now;
      this.#taken = 0;
    }
    if (this.#taken >= this.#perSecond) {
      this.#skipped += 1;
      return undefined;
    }
    this.#taken += 1;
    const skipped = this.#skipped;
    this.#skipped = 0;
    return skipped;
  }
}
