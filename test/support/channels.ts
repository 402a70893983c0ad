/** Channels between two sessions in memory, and channels whose peer is the test itself. */
import { TunnelError } from '../../src/error.js';
import { StreamCarrier } from '../../src/session/carrier.js';
import {
  Channel,
  type ChannelReceiver,
  EARLY_DATA_BYTES,
  INITIAL_WINDOW_BYTES,
} from '../../src/session/channel.js';
import type { MemoryOptions } from '../../src/session/engines/memory.js';
import { encodeFrame, FrameReader } from '../../src/session/frame.js';
import type { BidirectionalStream } from '../../src/session/session.js';
import { LINK_WINDOW_BYTES, WindowBudget } from '../../src/session/window-budget.js';
import { Recorder } from './recorder.js';
import { streamPair } from './stream-pair.js';

export const CHANNEL_ID = 7;

/** A channel's local side that keeps what it is told. */
export class Side implements ChannelReceiver {
  readonly pieces: Buffer[] = [];
  /** `opened`, `drain`, `end`, `closed`, `closed RESET`; flushes are not kept. */
  readonly events: string[] = [];
  received = 0;
  error: TunnelError | undefined;
  /** Whether bytes are given back as they come. Else the test calls `release`. */
  reading: boolean;
  #held = 0;
  #endHeld = false;
  #waiting: (() => void)[] = [];

  constructor(
    readonly channel: Channel,
    reading: boolean,
  ) {
    this.reading = reading;
  }

  get bytes(): Buffer {
    return Buffer.concat(this.pieces);
  }

  data(piece: Buffer): void {
    this.pieces.push(piece);
    this.received += piece.length;
    if (this.reading) this.channel.consumed(piece.length);
    else this.#held += piece.length;
    this.#changed();
  }

  flush(): void {}

  end(): void {
    this.#event('end');
    if (this.reading) this.channel.endConsumed();
    else this.#endHeld = true;
  }

  drain(): void {
    this.#event('drain');
  }

  opened(): void {
    this.#event('opened');
  }

  closed(error: TunnelError | undefined): void {
    this.error = error;
    this.#event(error ? `closed ${error.code}` : 'closed');
  }

  /** Gives back what was held, `bytes` of it at most; the end too, when nothing is held any more. */
  release(bytes = this.#held): void {
    const given = Math.min(bytes, this.#held);
    this.#held -= given;
    if (given > 0) this.channel.consumed(given);
    if (this.#held === 0 && this.#endHeld) {
      this.#endHeld = false;
      this.channel.endConsumed();
    }
  }

  async until(condition: (side: this) => boolean): Promise<void> {
    while (!condition(this)) {
      if (this.channel.isClosed) throw new TunnelError('INTERNAL', `closed before: ${this.events.join()}`);
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  /** Resolves once the other side has said that it accepts: OPENED waits a moment for something to go with. */
  accepted(): Promise<void> {
    return this.until(({ events }) => events.includes('opened'));
  }

  /** Resolves once the channel is over, with how. */
  async over(): Promise<string> {
    while (!this.channel.isClosed) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    return this.events.at(-1) as string;
  }

  /** Writes all of `bytes`, holding back as told. */
  async write(bytes: Buffer, chunkSize: number): Promise<void> {
    for (let offset = 0; offset < bytes.length; offset += chunkSize) {
      const drains = this.#count('drain');
      if (this.channel.write(bytes.subarray(offset, offset + chunkSize))) continue;
      await this.until(() => this.#count('drain') > drains);
    }
  }

  #count(event: string): number {
    return this.events.filter((one) => one === event).length;
  }

  #event(event: string): void {
    this.events.push(event);
    this.#changed();
  }

  #changed(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}

export interface ChannelPairOptions extends MemoryOptions {
  readonly accept?: boolean;
  readonly openerReads?: boolean;
  readonly acceptorReads?: boolean;
  readonly budget?: number;
}

export async function channelPair(options: ChannelPairOptions = {}) {
  const { near, far, cut, dialler } = await streamPair(options);
  const budgets = [0, 1].map(() => new WindowBudget(options.budget ?? LINK_WINDOW_BYTES)) as [
    WindowBudget,
    WindowBudget,
  ];
  const rttMs = 2 * (options.latencyMs ?? 0);
  const opener = openChannel(near, 'opener', budgets[0], options.openerReads ?? true, rttMs);
  const acceptor = openChannel(far, 'acceptor', budgets[1], options.acceptorReads ?? true, rttMs);
  if (options.accept ?? true) acceptor.channel.accept();
  return { opener, acceptor, budgets, cut, close: () => dialler.close() };
}

export function openChannel(
  stream: BidirectionalStream,
  role: 'opener' | 'acceptor',
  budget: WindowBudget,
  reading: boolean,
  rttMs = 0,
): Side {
  const channel = new Channel(new StreamCarrier(stream, CHANNEL_ID), {
    channelId: CHANNEL_ID,
    role,
    peerLimit: role === 'opener' ? EARLY_DATA_BYTES : INITIAL_WINDOW_BYTES,
    budget,
    rttMs: () => rttMs,
  });
  const side = new Side(channel, reading);
  channel.start(side);
  return side;
}

/** The other end of a channel, spoken by hand, frame by frame. */
export class RawPeer {
  readonly stream: BidirectionalStream;
  readonly frames: { type: number; body: Buffer }[] = [];
  readonly seen = new Recorder();
  readonly close: () => void;

  constructor(stream: BidirectionalStream, close: () => void) {
    this.stream = stream;
    this.close = close;
    let payload: Buffer[] = [];
    const reader = new FrameReader({
      data: (_id, piece, last) => {
        payload.push(piece);
        if (!last) return;
        this.frames.push({ type: 1, body: Buffer.concat(payload) });
        payload = [];
      },
      control: (_id, type, body) => this.frames.push({ type, body }),
    });
    const sink = this.seen.sink(stream);
    stream.receive({
      ...sink,
      data: (chunk) => {
        reader.push(chunk);
        sink.data(chunk);
      },
    });
  }

  send(type: number, body: Uint8Array, channelId = CHANNEL_ID): void {
    this.stream.write(encodeFrame(channelId, type, body), null);
  }
}

/** A channel in the given role whose peer is the test. */
export async function rawPair(role: 'opener' | 'acceptor', reading = true) {
  const { near, far, cut, dialler } = await streamPair();
  const budget = new WindowBudget(LINK_WINDOW_BYTES);
  const side = openChannel(role === 'opener' ? near : far, role, budget, reading);
  const peer = new RawPeer(role === 'opener' ? far : near, () => dialler.close());
  return { side, channel: side.channel, peer, cut, budget };
}

/** Absolute offsets as they travel: big-endian u64s. */
export function offsets(...values: (number | bigint)[]): Buffer {
  const body = Buffer.alloc(8 * values.length);
  for (const [index, value] of values.entries()) body.writeBigUInt64BE(BigInt(value), 8 * index);
  return body;
}
