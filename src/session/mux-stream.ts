/**
 * One stream of a `MuxSession`: a tunnel of its RPC session, made to behave as a QUIC stream.
 *
 * A channel can only be given up in both directions at once, and what it carries waits for credit. A
 * QUIC stream resets one side, at once. So resets and stops travel beside the tunnel, as frames of the
 * session; the direction they end is then brought to a clean end below, where nobody looks any more.
 */
import { TunnelError, WIRE_CODES, type WireCode } from '../error.js';
import type { Channel } from './channel.js';
import type { StreamSink } from './session.js';
import { StreamBase } from './web-streams.js';

/** What a stream needs of its session. */
export interface MuxStreamHost {
  readonly ended: boolean;
  /** Tells the peer that this side's sending has been given up. */
  sendReset(id: number, code: number): void;
  /** Asks the peer to send no more. */
  sendStop(id: number, code: number): void;
  /** Both directions are over. */
  forget(stream: MuxStream): void;
}

export interface Directions {
  readonly sends: boolean;
  readonly receives: boolean;
}

export class MuxStream extends StreamBase {
  readonly id: number;
  readonly #channel: Channel;
  readonly #host: MuxStreamHost;

  // Sending. What the channel has no credit for waits here, where a reset can drop it.
  readonly #queue: Buffer[] = [];
  #channelFull = false;
  #heldBack = false;
  #sendDone: boolean;
  #reset = false;

  // Receiving.
  /** Arrived before there was a sink. */
  readonly #inbox: Buffer[] = [];
  #delivering = false;
  #unconsumed = 0;
  #receiveDone: boolean;
  #endWaits = false;
  #resetWaits: number | undefined;

  constructor(channel: Channel, host: MuxStreamHost, directions: Directions) {
    super();
    this.id = channel.channelId;
    this.#channel = channel;
    this.#host = host;
    this.#sendDone = !directions.sends;
    this.#receiveDone = !directions.receives;
    channel.start({
      data: (piece) => this.#onData(piece),
      flush: () => undefined,
      end: () => this.#onEnd(),
      drain: () => this.#onDrain(),
      opened: () => undefined,
      closed: (error) => this.#onClosed(error),
    });
    if (this.#sendDone) channel.end();
  }

  // ---- sending

  write(head: Uint8Array | null, body: Uint8Array | null): boolean {
    if (this.#sendDone || this.#host.ended) {
      throw new TunnelError('STREAM_CLOSED', `stream ${this.id} is closed for writing`);
    }
    const bytes = joined(head, body);
    if (bytes.length > 0) {
      this.#queue.push(bytes);
      this.#feed();
      this.#heldBack ||= this.#channelFull;
    }
    return !this.#heldBack;
  }

  finish(last?: Uint8Array): void {
    if (last) this.write(null, last);
    if (this.#sendDone) return;
    this.#sendDone = true;
    this.#feed();
    this.#maybeForget();
  }

  /** Also after `finish`: what was finished but not delivered is abandoned then. */
  reset(code: number): void {
    if (this.#reset || this.#channel.isClosed || this.#host.ended) return;
    this.#reset = true;
    this.#host.sendReset(this.id, code);
    this.#endSending();
  }

  /** The peer's stop. */
  onStop(code: number): void {
    if (this.#sendDone) {
      this.#queue.length = 0;
      this.#channel.end();
      return;
    }
    this.#endSending();
    this.sinks.stopped(code);
  }

  #endSending(): void {
    this.#sendDone = true;
    this.#queue.length = 0;
    this.#channel.end();
    this.#maybeForget();
  }

  #feed(): void {
    while (!this.#channelFull) {
      const bytes = this.#queue.shift();
      if (!bytes) break;
      this.#channelFull = !this.#channel.write(bytes);
    }
    if (this.#sendDone && this.#queue.length === 0) this.#channel.end();
  }

  #onDrain(): void {
    this.#channelFull = false;
    this.#feed();
    if (this.#channelFull || !this.#heldBack || this.#sendDone) return;
    this.#heldBack = false;
    this.sinks.drain();
  }

  // ---- receiving

  receive(sink: StreamSink): void {
    if (!this.sinks.setSink(sink)) return;
    queueMicrotask(() => {
      // What arrives before this joins the inbox, so that nothing overtakes.
      this.#delivering = true;
      for (const piece of this.#inbox.splice(0)) {
        if (!this.#receiveDone && !this.#host.ended) this.sinks.data(piece);
      }
      if (this.#host.ended) return;
      if (this.#resetWaits !== undefined) this.sinks.reset(this.#resetWaits);
      else if (this.#endWaits && !this.#receiveDone) this.#passEnd();
    });
  }

  consumed(bytes: number): void {
    const given = Math.min(bytes, this.#unconsumed);
    this.#unconsumed -= given;
    this.#channel.consumed(given);
  }

  stop(code: number): void {
    if (this.#receiveDone) return;
    if (!this.#host.ended) this.#host.sendStop(this.id, code);
    this.#endReceiving();
  }

  /** The peer's reset of what it sends. Nothing after a proven end. */
  onReset(code: number): void {
    if (this.#receiveDone || this.#endWaits) return;
    this.#endReceiving();
    if (this.#delivering) this.sinks.reset(code);
    else this.#resetWaits = code;
  }

  #onData(piece: Buffer): void {
    if (this.#receiveDone) {
      // Nobody wants it; its credit still has to come back, so that the peer's end gets through.
      this.#channel.consumed(piece.length);
      return;
    }
    this.#unconsumed += piece.length;
    if (this.#delivering) this.sinks.data(piece);
    else this.#inbox.push(piece);
  }

  #onEnd(): void {
    if (this.#receiveDone) this.#channel.endConsumed();
    else if (this.#delivering) this.#passEnd();
    else this.#endWaits = true;
  }

  #passEnd(): void {
    this.#receiveDone = true;
    this.sinks.end();
    this.#channel.endConsumed();
    this.#maybeForget();
  }

  #endReceiving(): void {
    this.#receiveDone = true;
    this.#inbox.length = 0;
    this.consumed(this.#unconsumed);
    // An end that waited for a sink is passed on to nobody.
    if (this.#endWaits) this.#channel.endConsumed();
    this.#maybeForget();
  }

  // ---- ends

  /** The channel is over. Without an error both directions were, and had been proven. */
  #onClosed(error: TunnelError | undefined): void {
    if (!error) return;
    if (error.code === 'SESSION_LOST' || this.#host.ended) {
      if (!this.#sendDone || !this.#receiveDone) this.sinks.lost();
      return;
    }
    // The peer, or a fault, gave the tunnel up as a whole.
    const code = WIRE_CODES[error.code as WireCode] ?? WIRE_CODES.INTERNAL;
    this.onStop(code);
    this.onReset(code);
  }

  #maybeForget(): void {
    if (this.#sendDone && this.#receiveDone) this.#host.forget(this);
  }
}

/** A copy: the caller may use its memory again, and the channel may keep the bytes until there is credit. */
function joined(head: Uint8Array | null, body: Uint8Array | null): Buffer {
  const headLength = head?.length ?? 0;
  const bytes = Buffer.allocUnsafe(headLength + (body?.length ?? 0));
  if (head) bytes.set(head, 0);
  if (body) bytes.set(body, headLength);
  return bytes;
}
