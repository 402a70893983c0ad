/**
 * The terminal as a place for whole frames: the alternate screen, painted row by row where a row has
 * changed, and given back as it was on every kind of exit that a process can see.
 */
import { writeSync } from 'node:fs';
import { Writable } from 'node:stream';
import { stripVTControlCharacters } from 'node:util';

const ENTER = '\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J';
const LEAVE = '\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l';
/** A terminal that knows them shows a frame at once; others ignore them. */
const BEGIN = '\x1b[?2026h';
const END = '\x1b[?2026l';

interface BlockingHandle {
  setBlocking?(blocking: boolean): void;
}

export interface ScreenOptions {
  readonly stdin: NodeJS.ReadStream;
  readonly stdout: NodeJS.WriteStream;
  readonly stderr: NodeJS.WriteStream;
  /** Those that nobody handles, whose default is to end the process with the screen left as it is. */
  readonly fatalSignals: readonly NodeJS.Signals[];
  /** A line that something wrote to the terminal beside the screen. */
  onStray(line: string): void;
}

/** Takes frames by `write`, each the whole screen. */
export class TerminalScreen extends Writable {
  readonly isTTY = true;
  readonly #options: ScreenOptions;
  readonly #paint: (text: string) => boolean;
  #painted: readonly string[] = [];
  #waiting: string | undefined;
  #active = false;
  #restoreStreams: () => void = () => undefined;

  constructor(options: ScreenOptions) {
    super({ decodeStrings: false });
    this.#options = options;
    this.#paint = options.stdout.write.bind(options.stdout);
  }

  // A terminal that was never told its size says 0.
  get columns(): number {
    return this.#options.stdout.columns || 80;
  }

  get rows(): number {
    return this.#options.stdout.rows || 24;
  }

  enter(): void {
    if (this.#active) return;
    this.#active = true;
    const { stdout } = this.#options;
    // A terminal that stalls (a hung ssh) must not stall the tunnel: frames it does not take are skipped.
    handleOf(stdout)?.setBlocking?.(false);
    this.#painted = [];
    this.#paint(ENTER);
    this.#catchStrays();
    stdout.on('resize', this.#onResize);
    stdout.on('drain', this.#onDrain);
    process.on('exit', this.leave);
    process.on('SIGTSTP', this.#onSuspend);
    process.on('SIGCONT', this.#onContinue);
    for (const signal of this.#options.fatalSignals) process.on(signal, this.#onFatalSignal);
  }

  /** Gives the terminal back. Idempotent, and synchronous: there may be no later. */
  readonly leave = (): void => {
    if (!this.#active) return;
    this.#active = false;
    this.#restoreStreams();
    const { stdin, stdout } = this.#options;
    stdout.off('resize', this.#onResize);
    stdout.off('drain', this.#onDrain);
    process.off('exit', this.leave);
    process.off('SIGTSTP', this.#onSuspend);
    process.off('SIGCONT', this.#onContinue);
    for (const signal of this.#options.fatalSignals) process.off(signal, this.#onFatalSignal);
    try {
      stdin.setRawMode(false);
      // One that has stalled gets it when it goes on: a process must not hang at its end for it.
      if (stdout.writableNeedDrain) {
        this.#paint(LEAVE);
        return;
      }
      handleOf(stdout)?.setBlocking?.(true);
      writeSync(1, LEAVE);
    } catch {
      // The terminal is gone; so is its screen.
    }
  };

  override _write(frame: unknown, _encoding: BufferEncoding, done: () => void): void {
    if (this.#active && String(frame) !== '') this.#show(String(frame));
    done();
  }

  #show(frame: string): void {
    if (this.#options.stdout.writableNeedDrain) {
      this.#waiting = frame;
      return;
    }
    this.#waiting = undefined;
    const rows = frame.split('\n').slice(0, this.rows);
    let changes = '';
    for (let row = 0; row < Math.max(rows.length, this.#painted.length); row += 1) {
      const text = rows[row] ?? '';
      // Erased first: behind a full row the cursor still stands on its last character.
      if (text !== this.#painted[row]) changes += `\x1b[${row + 1};1H\x1b[K${text}\x1b[0m`;
    }
    this.#painted = rows;
    if (changes !== '') this.#paint(BEGIN + changes + END);
  }

  /** What other code prints would tear the screen: its lines go to the view instead. */
  #catchStrays(): void {
    const { stdout, stderr, onStray } = this.#options;
    const streams = stderr.isTTY ? [stdout, stderr] : [stdout];
    const originals = streams.map((stream) => stream.write);
    const stray = (chunk: unknown, ...rest: unknown[]): boolean => {
      for (const line of stripVTControlCharacters(String(chunk)).split('\n')) {
        if (line.trim() !== '') onStray(line);
      }
      const done = rest.at(-1);
      if (typeof done === 'function') queueMicrotask(() => done());
      return true;
    };
    for (const stream of streams) stream.write = stray as typeof stream.write;
    this.#restoreStreams = () => {
      for (const [index, stream] of streams.entries()) stream.write = originals[index] as typeof stream.write;
    };
  }

  readonly #onResize = (): void => {
    this.#painted = [];
    this.#paint('\x1b[2J');
    this.emit('resize');
  };

  readonly #onDrain = (): void => {
    if (this.#waiting !== undefined) this.#show(this.#waiting);
  };

  readonly #onFatalSignal = (signal: NodeJS.Signals): void => {
    this.leave();
    process.kill(process.pid, signal);
  };

  readonly #onSuspend = (): void => {
    this.leave();
    process.once('SIGCONT', this.#onContinue);
    process.kill(process.pid, 'SIGSTOP');
  };

  readonly #onContinue = (): void => {
    this.enter();
    this.#options.stdin.setRawMode(true);
    this.#onResize();
  };
}

function handleOf(stream: NodeJS.WriteStream): BlockingHandle | undefined {
  // The only way to what `tty.WriteStream` itself calls; without it writes block, as they do anyway.
  return (stream as unknown as { readonly _handle?: BlockingHandle })._handle;
}
