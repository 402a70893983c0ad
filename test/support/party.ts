/** One application's side of a connection: it says what it did, and checks every byte and every end it sees. */
import { createHash } from 'node:crypto';
import type { Socket } from 'node:net';
import { confirmEnd, holdOpen } from '../../src/tunnel/true-end.js';
import { Pattern, PatternCheck } from './pattern.js';

const CHUNK_BYTES = 64 * 1024;

/** What a side has seen of the other one's direction: `open` while there is no end yet. */
export type Seen = 'open' | 'end' | 'reset';

export interface SendOptions {
  /** As fast as it is taken unless told otherwise. */
  readonly bytesPerSecond?: number;
}

export class Party {
  readonly socket: Socket;
  readonly #out: Pattern;
  readonly #check: PatternCheck;
  readonly #outHash = createHash('sha256');
  readonly #inHash = createHash('sha256');
  readonly #watching = new Set<() => void>();
  #sent = 0;
  #received = 0;
  #seen: Seen = 'open';
  #finished = false;
  #flushed = false;
  #didReset = false;
  #lastReceivedAt = performance.now();

  /** `sends` and `expects` are the seeds of the two directions' bytes. */
  constructor(socket: Socket, sends: string, expects: string) {
    this.socket = socket;
    this.#out = new Pattern(sends);
    this.#check = new PatternCheck(expects);
    holdOpen(socket);
    socket.on('data', (chunk: Buffer) => {
      this.#received += chunk.length;
      this.#lastReceivedAt = performance.now();
      this.#check.accept(chunk);
      this.#inHash.update(chunk);
      this.#wake();
    });
    socket.on('end', () =>
      confirmEnd(socket, () => {
        if (this.#seen === 'open') this.#seen = 'end';
        this.#wake();
        this.#closeWhenOver();
      }),
    );
    // Whatever the code, a failure is not an end: EPIPE is how a write learns of a reset.
    socket.on('error', () => {
      if (!this.#didReset) this.#seen = 'reset';
      // A write that fails at once does not destroy a socket that is held open.
      socket.destroy();
      this.#wake();
    });
    socket.on('close', () => this.#wake());
  }

  /** Bytes given to the socket. */
  get sent(): number {
    return this.#sent;
  }

  get received(): number {
    return this.#received;
  }

  get seen(): Seen {
    return this.#seen;
  }

  /** It ended its own side with a FIN. */
  get finished(): boolean {
    return this.#finished;
  }

  /** It reset the connection itself. */
  get didReset(): boolean {
    return this.#didReset;
  }

  /** Nothing more happens here. */
  get isOver(): boolean {
    return this.socket.destroyed;
  }

  /** Both directions have ended, as far as this side can know. */
  get isComplete(): boolean {
    return this.#seen === 'end' && this.#flushed;
  }

  get wrongAt(): number | undefined {
    return this.#check.wrongAt;
  }

  /** Monotonic, milliseconds. */
  get lastReceivedAt(): number {
    return this.#lastReceivedAt;
  }

  get sentSha256(): string {
    return this.#outHash.copy().digest('hex');
  }

  get receivedSha256(): string {
    return this.#inHash.copy().digest('hex');
  }

  /** Sends the next `bytes`, waiting where it is held back. Answers whether all of them were taken. */
  async send(bytes: number, { bytesPerSecond }: SendOptions = {}): Promise<boolean> {
    const startedAt = performance.now();
    let done = 0;
    while (done < bytes) {
      if (this.socket.destroyed || this.#finished) return false;
      const chunk = this.#out.next(Math.min(CHUNK_BYTES, bytes - done));
      done += chunk.length;
      this.#sent += chunk.length;
      this.#outHash.update(chunk);
      if (!this.socket.write(chunk)) await this.#drain();
      if (bytesPerSecond === undefined) continue;
      const ahead = (done / bytesPerSecond) * 1000 - (performance.now() - startedAt);
      if (ahead > 0) await new Promise((resolve) => setTimeout(resolve, ahead));
    }
    return !this.socket.destroyed;
  }

  /** A half-close: FIN after everything sent. */
  finish(): void {
    if (this.#finished || this.socket.destroyed) return;
    this.#finished = true;
    this.socket.end(() => {
      this.#flushed = true;
      this.#wake();
      this.#closeWhenOver();
    });
  }

  /** RST. */
  reset(): void {
    if (this.socket.destroyed) return;
    this.#didReset = true;
    this.socket.resetAndDestroy();
  }

  /** Stops reading. What has arrived in this process already is still counted. */
  pause(): void {
    this.socket.pause();
  }

  resume(): void {
    this.socket.resume();
  }

  /** Resolves at the next thing that happens here; at once when nothing can any more. */
  changed(): Promise<void> {
    if (this.socket.destroyed) return Promise.resolve();
    return new Promise((resolve) => {
      const wake = () => {
        this.#watching.delete(wake);
        resolve();
      };
      this.#watching.add(wake);
    });
  }

  whenReceived(bytes: number, timeoutMs: number): Promise<void> {
    return this.until(`${bytes} bytes received`, timeoutMs, () => this.#received >= bytes);
  }

  /** Resolves with what it was when the other direction has ended. */
  async whenSeen(timeoutMs: number): Promise<Exclude<Seen, 'open'>> {
    await this.until('an end or a reset', timeoutMs, () => this.#seen !== 'open');
    return this.#seen as Exclude<Seen, 'open'>;
  }

  /** Fails after the time, saying how far it came. */
  async until(what: string, timeoutMs: number, condition: () => boolean): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    while (!condition()) {
      const left = deadline - performance.now();
      if (left <= 0 || (this.socket.destroyed && this.#seen !== 'open')) {
        throw new Error(`no ${what} within ${timeoutMs} ms: ${this}`);
      }
      await new Promise<void>((resolve) => {
        const wake = () => {
          clearTimeout(timer);
          this.#watching.delete(wake);
          resolve();
        };
        const timer = setTimeout(wake, left);
        this.#watching.add(wake);
      });
    }
  }

  toString(): string {
    const did = this.#didReset ? 'reset' : this.#finished ? 'finished' : 'open';
    return `sent ${this.#sent} (${did}), received ${this.#received} (${this.#seen})`;
  }

  #closeWhenOver(): void {
    if (this.isComplete) this.socket.destroy();
  }

  #drain(): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        this.socket.off('drain', done);
        this.socket.off('close', done);
        resolve();
      };
      this.socket.on('drain', done);
      this.socket.on('close', done);
    });
  }

  #wake(): void {
    for (const wake of [...this.#watching]) wake();
  }
}
