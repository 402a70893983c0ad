/**
 * A platform stream pair as one of our push streams: what a `MuxSession` over a library's stream rides on.
 * Bounded both ways: reading stops while a budget of bytes is with the receiver, and `write` answers
 * false while that many are not yet with the platform stream.
 */
import { TunnelError } from '../error.js';
import type { StreamSink } from './session.js';
import { StreamBase } from './web-streams.js';

export interface StreamPair {
  readonly readable: ReadableStream<Uint8Array>;
  readonly writable: WritableStream<Uint8Array>;
}

/** Bytes handed to the receiver and not given back, beyond which reading pauses. */
const READ_BUDGET = 1024 * 1024;
/** Bytes not yet taken by the platform stream, beyond which `write` answers false. */
const WRITE_HIGH = 1024 * 1024;
const WRITE_LOW = 256 * 1024;
/** Small writes are gathered in blocks of this size. */
const BLOCK_BYTES = 64 * 1024;
/** Writes that the platform stream may have at once: one in its hands, one behind it. */
const MAX_WRITES = 2;

export class PairStream extends StreamBase {
  readonly id = 0;
  /** Resolves when everything written, and the end, has been taken; or when that cannot come any more. */
  readonly flushed: Promise<void>;
  /** Resolves when nothing more can be read. */
  readonly readEnded: Promise<void>;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  #resolveFlushed!: () => void;
  #resolveReadEnded!: () => void;
  #failed = false;

  #block = Buffer.alloc(0);
  /** Where the bytes of the block that are not yet in the queue begin, and end. */
  #blockStart = 0;
  #blockEnd = 0;
  readonly #queue: Buffer[] = [];
  #pending = 0;
  #writes = 0;
  #scheduled = false;
  #full = false;
  #sendDone = false;
  #closing = false;

  #stopped = false;
  #unconsumed = 0;
  #resumeReading: (() => void) | undefined;

  constructor(pair: StreamPair) {
    super();
    this.#reader = pair.readable.getReader();
    this.#writer = pair.writable.getWriter();
    this.flushed = new Promise((resolve) => {
      this.#resolveFlushed = resolve;
    });
    this.readEnded = new Promise((resolve) => {
      this.#resolveReadEnded = resolve;
    });
    // Rejections come with each read and write as well.
    this.#reader.closed.catch(() => undefined);
    this.#writer.closed.catch(() => undefined);
    this.#writer.ready.catch(() => undefined);
  }

  /** What is below is gone: everything on the stream is lost. Idempotent. */
  fail(): void {
    if (this.#failed) return;
    this.#failed = true;
    this.#sendDone = true;
    this.#queue.length = 0;
    this.#resumeReading?.();
    this.#resolveFlushed();
    this.#resolveReadEnded();
    this.sinks.lost();
  }

  // ---- sending

  write(head: Uint8Array | null, body: Uint8Array | null): boolean {
    if (this.#sendDone) throw new TunnelError('STREAM_CLOSED', 'the stream is closed for writing');
    const headLength = head?.length ?? 0;
    const length = headLength + (body?.length ?? 0);
    if (length > this.#block.length - this.#blockEnd) {
      this.#cutBlock();
      this.#block = Buffer.allocUnsafe(Math.max(BLOCK_BYTES, length));
      this.#blockStart = 0;
      this.#blockEnd = 0;
    }
    if (head) this.#block.set(head, this.#blockEnd);
    if (body) this.#block.set(body, this.#blockEnd + headLength);
    this.#blockEnd += length;
    this.#pending += length;
    if (this.#pending > WRITE_HIGH) this.#full = true;
    this.#schedule();
    return !this.#full;
  }

  finish(last?: Uint8Array): void {
    if (last) this.write(null, last);
    if (this.#sendDone) return;
    this.#sendDone = true;
    this.#schedule();
  }

  reset(code: number): void {
    if (this.#failed || this.#closing) return;
    this.#sendDone = true;
    this.#closing = true;
    this.#queue.length = 0;
    this.#writer
      .abort(new TunnelError('RESET', `the stream was reset with code ${code}`))
      .catch(() => undefined)
      .finally(() => this.#resolveFlushed());
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    // What is written in one turn goes out together.
    queueMicrotask(() => {
      this.#scheduled = false;
      this.#flush();
    });
  }

  #cutBlock(): void {
    if (this.#blockEnd === this.#blockStart) return;
    this.#queue.push(this.#block.subarray(this.#blockStart, this.#blockEnd));
    this.#blockStart = this.#blockEnd;
  }

  #flush(): void {
    while (this.#writes < MAX_WRITES && !this.#closing && !this.#failed) {
      if (this.#queue.length === 0) this.#cutBlock();
      const bytes = this.#queue.shift();
      if (!bytes) break;
      this.#writes += 1;
      this.#writer.write(bytes).then(
        () => this.#onWritten(bytes.length),
        () => this.fail(),
      );
    }
    if (!this.#sendDone || this.#closing || this.#failed || this.#pending > 0) return;
    this.#closing = true;
    this.#writer
      .close()
      .catch(() => undefined)
      .finally(() => this.#resolveFlushed());
  }

  #onWritten(bytes: number): void {
    this.#writes -= 1;
    this.#pending -= bytes;
    this.#flush();
    if (!this.#full || this.#pending > WRITE_LOW || this.#sendDone) return;
    this.#full = false;
    this.sinks.drain();
  }

  // ---- receiving

  receive(sink: StreamSink): void {
    if (this.sinks.setSink(sink)) void this.#read();
  }

  consumed(bytes: number): void {
    this.#unconsumed -= bytes;
    if (this.#unconsumed <= READ_BUDGET) this.#resumeReading?.();
  }

  /** Reads on and throws away: whoever closes must still take what is under way, or the end of it is a reset. */
  stop(_code: number): void {
    this.#stopped = true;
    this.#resumeReading?.();
  }

  async #read(): Promise<void> {
    try {
      for (;;) {
        const { done, value } = await this.#reader.read();
        if (this.#failed) return;
        if (done) break;
        if (this.#stopped) continue;
        this.#unconsumed += value.length;
        this.sinks.data(Buffer.from(value.buffer, value.byteOffset, value.length));
        if (this.#unconsumed > READ_BUDGET) await this.#pause();
      }
      this.#resolveReadEnded();
      if (!this.#stopped) this.sinks.end();
    } catch {
      this.fail();
    }
  }

  #pause(): Promise<void> {
    return new Promise((resolve) => {
      this.#resumeReading = () => {
        if (!this.#failed && !this.#stopped && this.#unconsumed > READ_BUDGET) return;
        this.#resumeReading = undefined;
        resolve();
      };
    });
  }
}
