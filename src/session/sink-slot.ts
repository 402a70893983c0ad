/**
 * Where a stream keeps what it tells: one receiver for each half. Shared by the engines, so that
 * every engine hands a stream over, and ends it, in the same way.
 */
import type { StreamSink } from './session.js';

export class SinkSlot {
  #sink: StreamSink | undefined;
  #sender: Pick<StreamSink, 'drain' | 'stopped' | 'lost'> | undefined;
  #lost = false;

  /** Answers true when this is the stream's first sink, so its reading has to be started. */
  setSink(sink: StreamSink): boolean {
    const first = this.#sink === undefined;
    this.#sink = sink;
    if (this.#lost) queueMicrotask(() => sink.lost());
    return first;
  }

  setSender(sender: Pick<StreamSink, 'drain' | 'stopped' | 'lost'>): void {
    this.#sender = sender;
    if (this.#lost) queueMicrotask(() => sender.lost());
  }

  data(chunk: Buffer): void {
    this.#sink?.data(chunk);
  }

  end(): void {
    this.#sink?.end();
  }

  reset(code: number): void {
    this.#sink?.reset(code);
  }

  stopped(code: number): void {
    (this.#sender ?? this.#sink)?.stopped(code);
  }

  drain(): void {
    (this.#sender ?? this.#sink)?.drain();
  }

  /** Told once. */
  lost(): void {
    if (this.#lost) return;
    this.#lost = true;
    this.#sender?.lost();
    this.#sink?.lost();
  }
}
