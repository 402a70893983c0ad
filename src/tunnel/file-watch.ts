/** Tells of changes of a file that is replaced as a whole, or written in place by an editor. */
import { type FSWatcher, watch } from 'node:fs';
import { dirname } from 'node:path';
import { wait } from './wait.js';

/** A change is seen this late at most, also where the system does not tell of changes. */
const LOOK_MS = 400;
/** Changes that follow each other faster than this are one. */
const SETTLE_MS = 50;

export interface FileWatchOptions {
  readonly path: string;
  /** Differs when the file has changed. May throw: it is asked again then. */
  stamp(): string;
  /** The stamp of what is known already. */
  readonly known: string;
  /** Answers false where the change is to be told again. */
  onChange(): Promise<boolean>;
}

export class FileWatch {
  readonly #options: FileWatchOptions;
  readonly #timer: NodeJS.Timeout;
  #watcher: FSWatcher | undefined;
  #stamp: string;
  #looking: Promise<void> | undefined;
  #closed = false;

  constructor(options: FileWatchOptions) {
    this.#options = options;
    this.#stamp = options.known;
    this.#timer = setInterval(() => void this.look(), LOOK_MS);
    this.#timer.unref();
    this.#watch();
  }

  /** Resolves when what the file says now has been told. */
  look(): Promise<void> {
    this.#looking ??= this.#look().finally(() => {
      this.#looking = undefined;
    });
    return this.#looking;
  }

  close(): void {
    this.#closed = true;
    clearInterval(this.#timer);
    this.#watcher?.close();
  }

  /** The folder, since the file is replaced as a whole. Only to be quicker than the timer. */
  #watch(): void {
    try {
      this.#watcher = watch(dirname(this.#options.path), { persistent: false }, () => void this.look());
      this.#watcher.on('error', () => this.#watcher?.close());
    } catch {
      // No such folder yet, or no watches left.
    }
  }

  async #look(): Promise<void> {
    while (!this.#closed) {
      const stamp = this.#stampNow();
      if (stamp === this.#stamp) break;
      // An editor may empty a file before it fills it.
      await wait(SETTLE_MS, { keepAlive: false });
      if (stamp !== this.#stampNow()) continue;
      if (this.#closed || !(await this.#options.onChange())) break;
      this.#stamp = stamp;
    }
  }

  #stampNow(): string {
    try {
      return this.#options.stamp();
    } catch {
      return this.#stamp;
    }
  }
}
