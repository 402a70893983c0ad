/**
 * Frames that nobody waits for, held back a moment so that they travel with the next one: each packet of
 * its own costs both machines a system call, a turn of two threads and the waking of an event loop.
 */
export interface Held {
  release(): void;
}

/** What is held until the same moment. */
export class HoldBack {
  readonly #held = new Set<Held>();
  readonly #begin: (release: () => void) => void;
  readonly #cancel: () => void;

  /** `begin` sees to it that `release` is called; `cancel` is told when there is nothing left to release. */
  constructor(begin: (release: () => void) => void, cancel: () => void = () => undefined) {
    this.#begin = begin;
    this.#cancel = cancel;
  }

  add(held: Held): void {
    if (this.#held.size === 0) this.#begin(() => this.#release());
    this.#held.add(held);
  }

  /** It has gone out. */
  delete(held: Held): void {
    if (this.#held.delete(held) && this.#held.size === 0) this.#cancel();
  }

  #release(): void {
    const all = [...this.#held];
    this.#held.clear();
    for (const held of all) held.release();
  }
}

/**
 * Until the event loop has asked the system for news once: what a client sends with its connect has been
 * read by then. Costs a connection whose server speaks first nothing that could be measured.
 */
export const untilPolled = new HoldBack((release) => {
  // The first one may still come in this turn of the loop; between the two it polls.
  setImmediate(() => setImmediate(release));
});

/** How long an answer may take to have the frames before it ride along, milliseconds. */
const ANSWER_MS = 1;

let timer: NodeJS.Timeout | undefined;
/** For as long as a local service usually takes to answer. */
export const untilAnswered = new HoldBack(
  (release) => {
    timer = setTimeout(release, ANSWER_MS);
  },
  () => clearTimeout(timer),
);
