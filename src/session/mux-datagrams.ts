/** Datagrams that arrived and wait to be read: bounded by bytes and by number, the oldest are dropped. */

const MAX_WAITING_BYTES = 4 * 1024 * 1024;
const MAX_WAITING = 16 * 1024;

export class DatagramInbox implements AsyncIterable<readonly Buffer[]> {
  #waiting: Buffer[] = [];
  #bytes = 0;
  #ended = false;
  readonly #readers: ((result: IteratorResult<readonly Buffer[]>) => void)[] = [];
  #scheduled = false;

  /** Keeps a copy: what it is given is a slice of a much larger read. */
  push(datagram: Uint8Array): void {
    if (this.#ended) return;
    this.#waiting.push(Buffer.from(datagram));
    this.#bytes += datagram.length;
    if (this.#bytes > MAX_WAITING_BYTES || this.#waiting.length > MAX_WAITING) this.#dropOldest();
    if (this.#readers.length === 0 || this.#scheduled) return;
    // What comes in the same delivery becomes one batch.
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      if (this.#waiting.length > 0) this.#readers.shift()?.({ done: false, value: this.#take() });
    });
  }

  /** Ends the iteration after what is waiting. */
  end(): void {
    this.#ended = true;
    for (const reader of this.#readers.splice(0)) {
      if (this.#waiting.length > 0) reader({ done: false, value: this.#take() });
      else reader({ done: true, value: undefined });
    }
  }

  [Symbol.asyncIterator](): AsyncIterator<readonly Buffer[]> {
    return {
      next: () => {
        if (this.#waiting.length > 0) return Promise.resolve({ done: false, value: this.#take() });
        if (this.#ended) return Promise.resolve({ done: true, value: undefined });
        return new Promise((resolve) => this.#readers.push(resolve));
      },
    };
  }

  #take(): Buffer[] {
    const batch = this.#waiting;
    this.#waiting = [];
    this.#bytes = 0;
    return batch;
  }

  /** Half of them at once, so that a flood costs no shift for each datagram. */
  #dropOldest(): void {
    const dropped = this.#waiting.splice(0, Math.ceil(this.#waiting.length / 2));
    for (const { length } of dropped) this.#bytes -= length;
  }
}
