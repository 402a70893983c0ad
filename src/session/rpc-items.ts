/**
 * The items of a streaming call, over a channel: `kind u8 | length u32 | bytes`. A failure in
 * mid-stream is an item too, so that it comes behind what was yielded before it.
 */
import { TunnelError, wireCodeName } from '../error.js';
import type { Channel, ChannelReceiver } from './channel.js';
import { decodeError, encodeError, MAX_DATA_BYTES } from './frame.js';

const HEADER_BYTES = 5;
const KIND_ITEM = 0;
const KIND_ERROR = 1;

interface Item {
  readonly payload: Buffer;
  /** Credit to give back when it has been taken. */
  readonly bytes: number;
}

/** The caller's side: an async iterable of the items. */
export class ItemReader implements AsyncIterable<Uint8Array> {
  readonly receiver: ChannelReceiver;
  readonly #channel: Channel;
  readonly #items: Item[] = [];
  #partial: Buffer = Buffer.alloc(0);
  #ended: { error: TunnelError | undefined } | undefined;
  #wake: (() => void) | undefined;

  constructor(channel: Channel) {
    this.#channel = channel;
    this.receiver = {
      data: (piece) => {
        this.#partial = this.#partial.length === 0 ? piece : Buffer.concat([this.#partial, piece]);
        this.#parse();
      },
      flush: () => this.#wake?.(),
      end: () => {
        this.#channel.endConsumed();
        const cut = this.#partial.length > 0;
        this.#finish(cut ? new TunnelError('PROTOCOL', 'the stream ended within an item') : undefined);
      },
      drain: () => undefined,
      opened: () => undefined,
      closed: (error) => this.#finish(error),
    };
  }

  /** Ends the iteration now; what is queued is dropped. */
  fail(error: TunnelError): void {
    this.#items.length = 0;
    this.#finish(error);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void> {
    for (;;) {
      const item = this.#items.shift();
      if (item) {
        this.#channel.consumed(item.bytes);
        yield item.payload;
      } else if (this.#ended) {
        if (this.#ended.error) throw this.#ended.error;
        return;
      } else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }

  #parse(): void {
    while (this.#partial.length >= HEADER_BYTES) {
      const length = this.#partial.readUInt32BE(1);
      if (length > MAX_DATA_BYTES) throw new TunnelError('PROTOCOL', `an item of ${length} bytes`);
      const size = HEADER_BYTES + length;
      if (this.#partial.length < size) return;
      const kind = this.#partial[0];
      const payload = this.#partial.subarray(HEADER_BYTES, size);
      this.#partial = this.#partial.subarray(size);
      if (kind === KIND_ERROR) {
        const { code, message } = decodeError(payload);
        this.#finish(new TunnelError(wireCodeName(code), message));
      } else {
        this.#items.push({ payload, bytes: size });
      }
    }
  }

  #finish(error: TunnelError | undefined): void {
    this.#ended ??= { error };
    this.#wake?.();
  }
}

export interface ItemWriter {
  readonly receiver: ChannelReceiver;
  /** Resolves when the channel is over, in whichever way. */
  readonly closed: Promise<void>;
  /** Resolves when more may be written; false when the reader has gone. */
  write(item: Uint8Array): Promise<boolean>;
  end(): void;
  fail(error: TunnelError): Promise<void>;
}

/** The serving side. */
export function itemWriter(channel: Channel): ItemWriter {
  let wake: (() => void) | undefined;
  let resolveClosed!: () => void;
  const closed = new Promise<void>((resolve) => {
    resolveClosed = resolve;
  });
  const send = async (kind: number, payload: Uint8Array): Promise<boolean> => {
    const item = Buffer.allocUnsafe(HEADER_BYTES + payload.length);
    item[0] = kind;
    item.writeUInt32BE(payload.length, 1);
    item.set(payload, HEADER_BYTES);
    if (!channel.write(item) && !channel.isClosed) {
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
    return !channel.isClosed;
  };
  return {
    closed,
    receiver: {
      data: (piece) => channel.consumed(piece.length),
      flush: () => undefined,
      end: () => channel.endConsumed(),
      drain: () => wake?.(),
      opened: () => undefined,
      closed: () => {
        wake?.();
        resolveClosed();
      },
    },
    write: (item) => {
      if (item.length > MAX_DATA_BYTES - HEADER_BYTES) {
        throw new TunnelError('RESOURCE_EXHAUSTED', `an item of ${item.length} bytes is too large`);
      }
      return send(KIND_ITEM, item);
    },
    end: () => channel.end(),
    async fail(error) {
      await send(KIND_ERROR, encodeError(error.wireCode, error.message));
      channel.end();
    },
  };
}
