/** Has rights enforced when they change, and when the first of those in use expires. */
import type { Grant, Policy } from './policy.js';

/** Clocks are set, and machines sleep: an expiry is looked at again this often. */
const MAX_WAIT_MS = 30_000;

export interface RightsWatchOptions {
  /** All that are in use. */
  grants(): Iterable<Grant>;
  enforce(): void;
}

export class RightsWatch {
  readonly #policy: Policy;
  readonly #options: RightsWatchOptions;
  readonly #endWatch: () => void;
  #firstExpiryMs = Number.POSITIVE_INFINITY;
  #timer: NodeJS.Timeout | undefined;
  #due: NodeJS.Immediate | undefined;
  #closed = false;

  constructor(policy: Policy, options: RightsWatchOptions) {
    this.#policy = policy;
    this.#options = options;
    // Many changes at once are one.
    this.#endWatch = policy.onChange(() => {
      this.#due ??= setImmediate(() => this.#enforce());
    });
  }

  /** One more is in use. */
  added(grant: Grant): void {
    const first = this.#policy.firstExpiryMs([grant]);
    if (first < this.#firstExpiryMs) this.#schedule(first);
  }

  close(): void {
    this.#closed = true;
    this.#endWatch();
    clearTimeout(this.#timer);
    clearImmediate(this.#due);
  }

  #enforce(): void {
    this.#due = undefined;
    if (this.#closed) return;
    this.#options.enforce();
    this.#schedule(this.#policy.firstExpiryMs(new Set(this.#options.grants())));
  }

  #schedule(firstExpiryMs: number): void {
    clearTimeout(this.#timer);
    this.#firstExpiryMs = firstExpiryMs;
    if (firstExpiryMs === Number.POSITIVE_INFINITY) return;
    const waitMs = Math.min(MAX_WAIT_MS, Math.max(0, firstExpiryMs - Date.now()));
    this.#timer = setTimeout(() => this.#enforce(), waitMs);
    this.#timer.unref();
  }
}
