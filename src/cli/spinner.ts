/** A spinner on stderr while there is something to wait for; nothing at all where it could not be taken away again. */
import type { Ora } from 'ora';
import { canRedraw } from './terminal.js';

const DEFAULT_COLUMNS = 80;

export class Spinner {
  #spinner: Ora | undefined;
  #text: string | undefined;
  #muted = false;

  start(text: string): void {
    this.#text = text;
    if (!canRedraw(process.stderr) || this.#muted) return;
    if (this.#spinner) {
      this.#spinner.start(text);
      return;
    }
    giveWidth();
    // Loaded only where it is shown.
    void import('ora').then(({ default: ora }) => {
      this.#spinner ??= ora({ stream: process.stderr, discardStdin: false, isEnabled: true });
      if (this.#text !== undefined && !this.#muted) this.#spinner.start(this.#text);
    });
  }

  stop(): void {
    this.#text = undefined;
    // Stopping writes, also when nothing spins.
    if (!this.#muted) this.#spinner?.stop();
  }

  /** Something else has the terminal. */
  mute(muted: boolean): void {
    this.#muted = muted;
    if (muted) this.#spinner?.stop();
    else if (this.#text !== undefined) this.start(this.#text);
  }

  /** Takes the spinner's line away while something else is written. */
  interrupted(write: () => void): void {
    const text = this.#text;
    if (text === undefined || !this.#spinner || this.#muted) {
      write();
      return;
    }
    this.#spinner.stop();
    write();
    this.#spinner.start(text);
  }
}

/** A terminal that was never told its size says 0, and ora would erase an infinite number of lines. */
function giveWidth(): void {
  const { stderr } = process;
  if (stderr.columns === 0) stderr.columns = DEFAULT_COLUMNS;
}
