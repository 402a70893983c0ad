/** A stream's receiver that keeps what it is told, in order. */
import type { ReceiveStream, StreamSink } from '../../src/session/session.js';

export interface RecorderOptions {
  /** Gives every byte back at once; true unless told otherwise. */
  readonly consume?: boolean;
}

export class Recorder {
  readonly chunks: Buffer[] = [];
  /** Everything but data: `end`, `reset 5`, `stopped 5`, `drain`, `lost`. */
  readonly events: string[] = [];
  received = 0;
  #waiting: (() => void)[] = [];

  get bytes(): Buffer {
    return Buffer.concat(this.chunks);
  }

  sink(stream?: Pick<ReceiveStream, 'consumed'>, options: RecorderOptions = {}): StreamSink {
    return {
      data: (chunk) => {
        this.chunks.push(chunk);
        this.received += chunk.length;
        if (options.consume !== false) stream?.consumed(chunk.length);
        this.#changed();
      },
      end: () => this.#event('end'),
      reset: (code) => this.#event(`reset ${code}`),
      stopped: (code) => this.#event(`stopped ${code}`),
      drain: () => this.#event('drain'),
      lost: () => this.#event('lost'),
    };
  }

  /** Resolves when `condition` holds, looking again at each thing that happens. */
  async until(condition: (recorder: this) => boolean): Promise<void> {
    while (!condition(this)) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  /** Resolves when an event of this beginning has been seen: `stopped`, `reset 5`. */
  async seen(event: string): Promise<void> {
    await this.until(({ events }) => events.some((one) => one === event || one.startsWith(`${event} `)));
  }

  #event(event: string): void {
    this.events.push(event);
    this.#changed();
  }

  #changed(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}
