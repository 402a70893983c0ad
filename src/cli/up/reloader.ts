/** Has a config file run as it is now: when it has changed, and when somebody asks for it. */
import { TunnelError, toTunnelError } from '../../error.js';
import { errorEvent, type Report } from '../../tunnel/events.js';
import { FileWatch } from '../../tunnel/file-watch.js';
import { fileStamp } from '../../tunnel/safe-file.js';
import type { ConfigText } from './config-file.js';

export interface ReloaderOptions {
  readonly path: string;
  /** The stamp, and the text, of what runs. */
  readonly known: string;
  readonly text: string;
  /** Throws BAD_CONFIG. */
  read(): Promise<ConfigText>;
  /** Runs what the file says now. Throws BAD_CONFIG with nothing changed. */
  apply(file: ConfigText): Promise<void>;
  readonly report: Report;
}

export class Reloader {
  readonly #options: ReloaderOptions;
  readonly #watch: FileWatch;
  /** What was read last, good or bad. */
  #text: string;
  #last: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(options: ReloaderOptions) {
    const { path, known, text } = options;
    this.#text = text;
    this.#options = options;
    this.#watch = new FileWatch({
      path,
      stamp: () => fileStamp(path),
      known,
      onChange: async () => {
        await this.#enqueue({ always: false });
        return true;
      },
    });
  }

  /** Reads it again, whether or not it has changed: what it names may have. One after another. */
  reload(): Promise<void> {
    return this.#enqueue({ always: true });
  }

  /** Resolves when a reload that has begun is over. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#watch.close();
    await this.#last;
  }

  #enqueue(how: { readonly always: boolean }): Promise<void> {
    this.#last = this.#last.then(() => this.#reload(how));
    return this.#last;
  }

  async #reload({ always }: { readonly always: boolean }): Promise<void> {
    if (this.#closed) return;
    const { read, apply, report } = this.#options;
    try {
      const file = await read();
      // Touched, or read by somebody's word a moment ago.
      if (!always && file.text === this.#text) return;
      this.#text = file.text;
      await apply(file);
    } catch (cause) {
      const { code, message, hint } = toTunnelError(cause);
      report(errorEvent(new TunnelError(code, `${message}; what runs goes on as it was`, { hint })));
    }
  }
}
