/** Memory that the growing windows of one link's channels share. */
export class WindowBudget {
  #free: number;

  /** `bytes`: how much all windows together may exceed their initial size. */
  constructor(bytes: number) {
    this.#free = bytes;
  }

  /** Takes all of `bytes` or nothing. */
  take(bytes: number): boolean {
    if (bytes > this.#free) return false;
    this.#free -= bytes;
    return true;
  }

  give(bytes: number): void {
    this.#free += bytes;
  }
}

/** For one link, both directions of all its channels. */
export const LINK_WINDOW_BYTES = 64 * 1024 * 1024;
