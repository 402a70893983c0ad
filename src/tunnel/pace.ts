/**
 * Holds the two directions of a connection to the limits they come under. No byte is dropped: what may
 * not go yet waits, the socket beside it is not read meanwhile, and the peer gets no new credit.
 */
import type { Socket } from 'node:net';
import type { Channel, ChannelReceiver } from '../session/channel.js';
import type { Lane } from './shaper.js';

/** `in` is from the peer, `out` is to the peer. */
export interface Lanes {
  readonly in: Lane;
  readonly out: Lane;
}

export class Pace {
  readonly #in: PacedQueue;
  readonly #out: PacedQueue;
  #channelReady = true;

  constructor(lanes: Lanes) {
    this.#in = new PacedQueue(lanes.in);
    this.#out = new PacedQueue(lanes.out);
  }

  /** What arrives for `socket`, held back as needed on its way to `inner`. */
  receiver(inner: ChannelReceiver, socket: Socket): ChannelReceiver {
    const queue = this.#in;
    queue.deliver = (piece) => inner.data(piece);
    queue.delivered = () => inner.flush();
    return {
      data: (piece) => queue.push(piece),
      flush: () => inner.flush(),
      end: () => queue.whenEmpty(() => inner.end()),
      drain: () => {
        this.#channelReady = true;
        if (this.#out.isEmpty) socket.resume();
      },
      opened: () => inner.opened(),
      closed: (error) => {
        queue.close();
        this.#out.close();
        inner.closed(error);
      },
    };
  }

  /** What `socket` says, held back as needed on its way to `channel`. */
  read(socket: Socket, channel: Channel): void {
    const queue = this.#out;
    queue.deliver = (piece) => {
      this.#channelReady = channel.write(piece);
    };
    queue.delivered = () => {
      if (queue.isEmpty && this.#channelReady) socket.resume();
    };
    socket.on('data', (chunk: Buffer) => {
      queue.push(chunk);
      if (!queue.isEmpty || !this.#channelReady) socket.pause();
    });
  }

  /** Calls back when everything that was read has been passed on. */
  whenRead(callback: () => void): void {
    this.#out.whenEmpty(callback);
  }
}

/** Bytes on their way through a lane, in order. */
class PacedQueue {
  deliver: (piece: Buffer) => void = () => undefined;
  /** Something that had waited has been delivered. */
  delivered: () => void = () => undefined;
  readonly #lane: Lane;
  readonly #held: Buffer[] = [];
  #onEmpty: (() => void) | undefined;
  #closed = false;

  constructor(lane: Lane) {
    this.#lane = lane;
  }

  get isEmpty(): boolean {
    return this.#held.length === 0;
  }

  push(chunk: Buffer): void {
    if (this.#held.length > 0) {
      this.#held.push(chunk);
      return;
    }
    const rest = this.#pass(chunk);
    if (!rest) return;
    this.#held.push(rest);
    this.#wait();
  }

  whenEmpty(callback: () => void): void {
    if (this.isEmpty) callback();
    else this.#onEmpty = callback;
  }

  close(): void {
    this.#closed = true;
    this.#lane.close();
    this.#held.length = 0;
    this.#onEmpty = undefined;
  }

  /** Answers what may not go yet. */
  #pass(chunk: Buffer): Buffer | undefined {
    const { turnBytes } = this.#lane;
    for (let rest = chunk; rest.length > 0; rest = rest.subarray(turnBytes)) {
      if (!this.#lane.take(Math.min(turnBytes, rest.length))) return rest;
      this.deliver(rest.subarray(0, turnBytes));
      if (this.#closed) return undefined;
    }
    return undefined;
  }

  #wait(): void {
    const bytes = Math.min(this.#lane.turnBytes, (this.#held[0] as Buffer).length);
    this.#lane.wait(bytes, () => this.#onTurn(bytes));
  }

  /** `bytes` of what is held have been paid for. */
  #onTurn(bytes: number): void {
    const head = this.#held[0] as Buffer;
    if (bytes < head.length) this.#held[0] = head.subarray(bytes);
    else this.#held.shift();
    this.deliver(head.subarray(0, bytes));
    if (this.#closed) return;
    while (this.#held.length > 0) {
      const rest = this.#pass(this.#held[0] as Buffer);
      if (this.#closed) return;
      if (rest) {
        this.#held[0] = rest;
        this.#wait();
        break;
      }
      this.#held.shift();
    }
    this.delivered();
    if (!this.isEmpty || this.#closed) return;
    const onEmpty = this.#onEmpty;
    this.#onEmpty = undefined;
    onEmpty?.();
  }
}
