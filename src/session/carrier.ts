/**
 * Carrier: what a channel's frames ride on. Either a stream of its own (`StreamCarrier`), or one
 * tunnel of the mux that shares a stream with others (`rpc-session.ts`). Same frames on both.
 */
import { TunnelError } from '../error.js';
import { type FrameHandler, FrameReader } from './frame.js';
import type { HoldBack } from './hold-back.js';
import type { BidirectionalStream } from './session.js';

/** What a channel hears of its carrier. */
export interface CarrierHandler extends FrameHandler {
  /** Everything that arrived at once has been handed over. */
  flush(): void;
  /** The peer sends no more frames, in good order. */
  end(): void;
  /** The peer gave the channel up with this code. */
  reset(code: number): void;
  /** The peer broke the format; the carrier is of no more use. */
  violation(error: TunnelError): void;
  drain(): void;
  lost(): void;
}

export interface Carrier {
  /** The id in its frames' headers: the channel's own on a stream, the tunnel's on the mux. */
  readonly frameId: number;
  /** Starts delivering. `rest` is what had arrived already. */
  receive(handler: CarrierHandler, rest?: Buffer): void;
  /** One frame: header, or a whole small frame, and payload. False asks to hold back until `drain`. Throws STREAM_CLOSED. */
  write(head: Uint8Array, body: Uint8Array | null): boolean;
  /** A small frame that nobody waits for: it goes out with the next one, at the latest when `until` says so. */
  defer(frame: Uint8Array, until: HoldBack): void;
  /** No more frames from this side, in good order. Nobody waits for that: both ends are proven. */
  finish(): void;
  /** Gives the channel up in both directions, at once. */
  reset(code: number): void;
  /** After an ERROR frame: no more frames either way. */
  endAfterError(code: number): void;
}

/** How long a peer may go on sending into a channel that it was told has failed. */
const STOP_AFTER_ERROR_MS = 5000;

export class StreamCarrier implements Carrier {
  readonly frameId: number;
  readonly #stream: BidirectionalStream;
  #deferred: Uint8Array | undefined;
  /** Takes back that what is deferred goes out alone. */
  #keepBack: () => void = () => undefined;

  constructor(stream: BidirectionalStream, channelId: number) {
    this.#stream = stream;
    this.frameId = channelId;
  }

  receive(handler: CarrierHandler, rest: Buffer = Buffer.alloc(0)): void {
    const reader = new FrameReader(handler);
    const data = (chunk: Buffer) => {
      // Given back at once: what is held in memory is bounded by the channel's own window.
      this.#stream.consumed(chunk.length);
      try {
        reader.push(chunk);
      } catch (error) {
        handler.violation(asViolation(error));
        return;
      }
      handler.flush();
    };
    this.#stream.receive({
      data,
      end: () => handler.end(),
      reset: (code) => handler.reset(code),
      stopped: (code) => handler.reset(code),
      drain: () => handler.drain(),
      lost: () => handler.lost(),
    });
    if (rest.length > 0) data(rest);
  }

  write(head: Uint8Array, body: Uint8Array | null): boolean {
    const deferred = this.#takeDeferred();
    return this.#stream.write(deferred ? Buffer.concat([deferred, head]) : head, body);
  }

  defer(frame: Uint8Array, until: HoldBack): void {
    const before = this.#takeDeferred();
    this.#deferred = before ? Buffer.concat([before, frame]) : frame;
    this.#keepBack = until(() => this.#release());
  }

  #release(): void {
    const deferred = this.#takeDeferred();
    if (!deferred) return;
    try {
      this.#stream.write(deferred, null);
    } catch {
      // Stopped or lost: the stream's own event says so.
    }
  }

  finish(): void {
    this.#finish('late');
  }

  #finish(when: 'now' | 'late'): void {
    try {
      this.#stream.finish(this.#takeDeferred(), when);
    } catch {
      // As in `#release`.
    }
  }

  reset(code: number): void {
    this.#takeDeferred();
    this.#stream.reset(code);
    this.#stream.stop(code);
  }

  endAfterError(code: number): void {
    this.#finish('now');
    // A stop could overtake the words of the ERROR. A peer that has read them resets its side itself.
    setTimeout(() => this.#stream.stop(code), STOP_AFTER_ERROR_MS).unref();
  }

  #takeDeferred(): Uint8Array | undefined {
    const deferred = this.#deferred;
    if (!deferred) return undefined;
    this.#deferred = undefined;
    this.#keepBack();
    return deferred;
  }
}

/** A handler that fails in another way than by a violation is a fault of ours; it must not end the process. */
export function asViolation(error: unknown): TunnelError {
  if (error instanceof TunnelError) return error;
  return new TunnelError('INTERNAL', `handling a frame failed: ${String(error)}`, { cause: error });
}
