/** The platform's view of a stream, derived from the push interface, for code that is not hot. */
import { TunnelError, WIRE_CODES, wireCodeName } from '../error.js';
import type { BidirectionalStream, ReceiveStream, SendStream, StreamSink } from './session.js';
import { SinkSlot } from './sink-slot.js';

type SendNotice = Pick<StreamSink, 'drain' | 'stopped' | 'lost'>;

/** What every engine's stream shares: where its events go, and its platform view. */
export abstract class StreamBase implements BidirectionalStream, SendNotices {
  readonly sinks = new SinkSlot();
  #readable: ReadableStream<Uint8Array> | undefined;
  #writable: WritableStream<Uint8Array> | undefined;

  abstract readonly id: number;
  abstract receive(sink: StreamSink): void;
  abstract consumed(bytes: number): void;
  abstract write(head: Uint8Array | null, body: Uint8Array | null): boolean;
  abstract finish(last?: Uint8Array, when?: 'now' | 'late'): void;
  abstract reset(code: number): void;
  abstract stop(code: number): void;

  get readable(): ReadableStream<Uint8Array> {
    this.#readable ??= readableView(this);
    return this.#readable;
  }

  get writable(): WritableStream<Uint8Array> {
    this.#writable ??= writableView(this);
    return this.#writable;
  }

  onSendNotice(notice: SendNotice): void {
    this.sinks.setSender(notice);
  }
}

/** What a stream offers its platform view besides its own methods: the notices a sender waits for. */
interface SendNotices {
  /** Installs the receiver of `drain`, `stopped` and `lost` for the writing side. */
  onSendNotice(notice: SendNotice): void;
}

function writableView(stream: SendStream & SendNotices): WritableStream<Uint8Array> {
  let resume: (() => void) | undefined;
  let failed: TunnelError | undefined;
  return new WritableStream<Uint8Array>({
    start(controller) {
      const fail = (error: TunnelError) => {
        failed = error;
        controller.error(error);
        resume?.();
      };
      stream.onSendNotice({
        drain: () => resume?.(),
        stopped: (code) =>
          fail(new TunnelError(wireCodeName(code), `the peer stopped the stream (code ${code})`)),
        lost: () => fail(new TunnelError('SESSION_LOST', 'the session ended')),
      });
    },
    async write(chunk) {
      if (stream.write(null, chunk) || failed) return;
      await new Promise<void>((resolve) => {
        resume = resolve;
      });
      resume = undefined;
    },
    close: () => stream.finish(),
    abort: () => stream.reset(WIRE_CODES.RESET),
  });
}

/** Reads no further ahead than one chunk: `consumed` follows the reader's own pace. */
function readableView(stream: ReceiveStream): ReadableStream<Uint8Array> {
  // A session that ends behind a complete stream takes nothing back.
  let ended = false;
  const waiting: number[] = [];
  return new ReadableStream<Uint8Array>(
    {
      start(controller) {
        stream.receive({
          drain: () => undefined,
          stopped: () => undefined,
          data: (chunk) => {
            waiting.push(chunk.length);
            controller.enqueue(chunk);
          },
          end: () => {
            ended = true;
            controller.close();
          },
          reset: (code) =>
            controller.error(new TunnelError(wireCodeName(code), `the peer reset the stream (code ${code})`)),
          lost: () => {
            if (!ended) controller.error(new TunnelError('SESSION_LOST', 'the session ended'));
          },
        });
      },
      pull() {
        // With a high-water mark of one, a pull means that everything queued has been read.
        for (const taken of waiting.splice(0)) stream.consumed(taken);
      },
      cancel: () => stream.stop(WIRE_CODES.RESET),
    },
    { highWaterMark: 1 },
  );
}
