/** A spinner on stderr while there is something to wait for; nothing at all where stderr is no terminal. */
import type { Ora } from 'ora';

export class Spinner {
  #spinner: Ora | undefined;
  #text: string | undefined;
  #muted = false;

  start(text: string): void {
    this.#text = text;
    if (!process.stderr.isTTY || this.#muted) return;
    if (this.#spinner) {
      this.#spinner.start(text);
      return;
    }
    // Loaded only where it is shown.
    void import('ora').then(({ default: ora }) => {
      this.#spinner ??= ora({ stream: process.stderr, discardStdin: false });
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
