import type { BidirectionalStream, StreamSink } from './session.js';

/** Passes everything on, and knows what it has carried and whether it is full. */
export class MeteredStream implements BidirectionalStream {
  readonly id: number;
  readonly #inner: BidirectionalStream;
  sent = 0;
  received = 0;
  full = false;
  /** Until the session that reads has been constructed: what arrived before, and what arrives meanwhile. */
  #held: (() => void)[] | undefined = [];
  readonly #rest: Buffer | undefined;

  constructor(inner: BidirectionalStream, rest: Buffer | undefined) {
    this.#inner = inner;
    this.id = inner.id;
    this.#rest = rest;
  }

  get readable(): ReadableStream<Uint8Array> {
    return this.#inner.readable;
  }

  get writable(): WritableStream<Uint8Array> {
    return this.#inner.writable;
  }

  receive(sink: StreamSink): void {
    const data = (chunk: Buffer) => {
      this.received += chunk.length;
      sink.data(chunk);
    };
    const rest = this.#rest;
    if (rest && rest.length > 0) this.#held?.push(() => data(rest));
    this.#inner.receive({
      data: (chunk) => this.#deliver(() => data(chunk)),
      end: () => this.#deliver(() => sink.end()),
      reset: (code) => this.#deliver(() => sink.reset(code)),
      stopped: (code) => this.#deliver(() => sink.stopped(code)),
      drain: () => {
        this.full = false;
        this.#deliver(() => sink.drain());
      },
      lost: () => this.#deliver(() => sink.lost()),
    });
    queueMicrotask(() => {
      const held = this.#held ?? [];
      this.#held = undefined;
      for (const deliver of held) deliver();
    });
  }

  #deliver(what: () => void): void {
    if (this.#held) this.#held.push(what);
    else what();
  }

  consumed(bytes: number): void {
    this.#inner.consumed(bytes);
  }

  write(head: Uint8Array | null, body: Uint8Array | null): boolean {
    this.sent += (head?.length ?? 0) + (body?.length ?? 0);
    const free = this.#inner.write(head, body);
    if (!free) this.full = true;
    return free;
  }

  finish(last?: Uint8Array): void {
    this.sent += last?.length ?? 0;
    this.#inner.finish(last);
  }

  reset(code: number): void {
    this.#inner.reset(code);
  }

  stop(code: number): void {
    this.#inner.stop(code);
  }
}
