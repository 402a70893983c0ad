/**
 * Channel: an ordered, flow-controlled, bidirectional byte conduit with an id. It rides on a stream of
 * its own, or on a tunnel of the mux (`carrier.ts`).
 *
 * Its ends are proven, never guessed: an end is clean only when EOS named the offset that was
 * received. A reset, a gap, a stream that stops without EOS or a lost session all arrive as a
 * failure, which the socket beside it turns into a TCP reset (docs/protocol.md, "Channels").
 */
import { TunnelError, wireCodeName } from '../error.js';
import type { Carrier } from './carrier.js';
import {
  decodeError,
  encodeError,
  encodeFrame,
  FrameType,
  HEADER_BYTES,
  MAX_DATA_BYTES,
  readOffset,
  writeHeader,
} from './frame.js';
import type { WindowBudget } from './window-budget.js';

/** What the opener may send before the answer, so that connect and first bytes cost one round trip. */
export const EARLY_DATA_BYTES = 64 * 1024;
export const INITIAL_WINDOW_BYTES = 256 * 1024;
export const MAX_WINDOW_BYTES = 16 * 1024 * 1024;
/** An ACK that no quarter window forced is sent after this long. */
const ACK_DELAY_MS = 1000;

/** The local side of a channel: what a socket, or a test, does with what arrives. */
export interface ChannelReceiver {
  /** Bytes in order; answer with `consumed` once they are truly gone. */
  data(piece: Buffer): void;
  /** Several `data` calls may be one delivery; this ends it. */
  flush(): void;
  /** The peer's end, proven complete. Answer with `endConsumed` once passed on. */
  end(): void;
  /** `write` answered false before; now it may go on. */
  drain(): void;
  /** The acceptor took the channel. Opener only. */
  opened(): void;
  /** The channel is over. With an error it was not a clean end, in either direction. */
  closed(error: TunnelError | undefined): void;
}

export interface ChannelOptions {
  readonly channelId: number;
  readonly role: 'opener' | 'acceptor';
  /** First offset up to which this side may send. */
  readonly peerLimit: number;
  readonly budget: WindowBudget;
  /** Round trip of the session now, milliseconds: what the window's growth is judged by. */
  readonly rttMs?: (() => number) | undefined;
}

/** Written anew for each DATA frame: a carrier takes its bytes before `write` returns. */
const header = Buffer.alloc(HEADER_BYTES);
const RESET_MESSAGE = 'the other end reset the connection';

export class Channel {
  readonly channelId: number;
  readonly #role: 'opener' | 'acceptor';
  readonly #carrier: Carrier;
  readonly #budget: WindowBudget;
  readonly #rttMs: () => number;
  readonly #openedAt = performance.now();
  #receiver: ChannelReceiver | undefined;

  // Sending: absolute offsets, so that they stay true on another stream.
  #sent = 0;
  #acked = 0;
  #peerLimit: number;
  readonly #queue: Buffer[] = [];
  #eosQueued = false;
  #eosSent = false;
  #carrierBlocked = false;
  #wantDrain = false;
  /** The acceptor's OPENED has been sent, or the opener's received. */
  #opened = false;

  // Receiving.
  #received = 0;
  #consumed = 0;
  #window = INITIAL_WINDOW_BYTES;
  #granted = INITIAL_WINDOW_BYTES;
  #ackedConsumed = 0;
  /** Since when, and from which offset, the present window is being drained. */
  #drainStart = performance.now();
  #drainOffset = 0;
  #ackTimer: NodeJS.Timeout | undefined;
  #eosReceived = false;
  #endConsumed = false;

  #finished = false;
  #closed = false;
  #error: TunnelError | undefined;

  constructor(carrier: Carrier, options: ChannelOptions) {
    this.channelId = options.channelId;
    this.#role = options.role;
    this.#carrier = carrier;
    this.#peerLimit = options.peerLimit;
    this.#budget = options.budget;
    this.#rttMs = options.rttMs ?? (() => 0);
  }

  /** Payload bytes received from the peer. */
  get bytesIn(): number {
    return this.#received;
  }

  /** Payload bytes sent to the peer. */
  get bytesOut(): number {
    return this.#sent;
  }

  /** Payload bytes sent that the peer's application has not taken yet. */
  get unackedBytes(): number {
    return this.#sent - Math.min(this.#acked, this.#sent);
  }

  /** Bytes. */
  get window(): number {
    return this.#window;
  }

  /** Milliseconds since the channel began; monotonic. */
  get ageMs(): number {
    return performance.now() - this.#openedAt;
  }

  /** How far its life has come, in words for people. */
  get state():
    | 'opening'
    | 'open'
    | 'half-closed (sent EOS)'
    | 'half-closed (got EOS)'
    | 'closing'
    | 'closed' {
    if (this.#closed) return 'closed';
    if (this.#eosSent && this.#eosReceived) return 'closing';
    if (this.#eosSent) return 'half-closed (sent EOS)';
    if (this.#eosReceived) return 'half-closed (got EOS)';
    return this.#opened ? 'open' : 'opening';
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /** Starts the channel. `rest` is what had arrived on the stream before it became this channel's. */
  start(receiver: ChannelReceiver, rest: Buffer = Buffer.alloc(0)): void {
    this.#receiver = receiver;
    this.#carrier.receive(
      {
        data: (channelId, piece) => this.#onData(channelId, piece),
        control: (channelId, type, payload) => this.#onControl(channelId, type, payload),
        flush: () => {
          if (!this.#closed) this.#receiver?.flush();
        },
        end: () => this.#onCarrierEnd(),
        reset: (code) => this.#onPeerAbort(code),
        violation: (error) => this.abort(error),
        drain: () => {
          this.#carrierBlocked = false;
          this.#pump();
        },
        lost: () => this.#onLost(),
      },
      rest,
    );
  }

  /** Accepts the channel. Acceptor only; what the opener sent early was delivered already. */
  accept(): void {
    if (this.#closed || this.#opened) return;
    this.#opened = true;
    const body = Buffer.allocUnsafe(8);
    body.writeBigUInt64BE(BigInt(this.#granted), 0);
    this.#control(FrameType.OPENED, body);
    this.#pump();
  }

  /** Ends the channel before it was accepted, with the reason in words. Acceptor only. */
  reject(error: TunnelError): void {
    if (this.#closed) return;
    this.#control(FrameType.ERROR, encodeError(error.wireCode, error.message));
    this.#carrier.endAfterError(error.wireCode);
    this.#close(error);
  }

  /**
   * Sends bytes, which must not be changed afterwards. False asks to hold back until `drain`; what
   * was given has been taken all the same.
   */
  write(chunk: Buffer): boolean {
    if (this.#closed || this.#eosQueued || chunk.length === 0) return true;
    if (this.#queue.length === 0 && this.#canSend(chunk.length)) {
      this.#sendData(chunk);
    } else {
      this.#queue.push(chunk);
      this.#pump();
    }
    const ready = this.#queue.length === 0 && !this.#carrierBlocked;
    if (!ready) this.#wantDrain = true;
    return ready;
  }

  /** Half-close: EOS follows everything written. Idempotent. */
  end(): void {
    if (this.#closed || this.#eosQueued) return;
    this.#eosQueued = true;
    this.#pump();
  }

  /** Ends both directions at once; the peer's application sees a reset. Idempotent. */
  abort(error: TunnelError): void {
    if (this.#closed) return;
    this.#carrier.reset(error.wireCode);
    this.#close(error);
  }

  /** The local side is done with `bytes` that were delivered. Gives the peer new credit. */
  consumed(bytes: number): void {
    if (this.#closed) return;
    this.#consumed += bytes;
    const unacked = this.#consumed - this.#ackedConsumed;
    if (this.#eosReceived) return;
    if (unacked >= this.#window / 4) this.#sendAck();
    else if (unacked > 0 && this.#ackTimer === undefined) {
      this.#ackTimer = setTimeout(() => this.#sendAck(), ACK_DELAY_MS);
      this.#ackTimer.unref();
    }
  }

  /** The local side has passed on the peer's end. */
  endConsumed(): void {
    if (this.#closed || this.#endConsumed || !this.#eosReceived) return;
    this.#endConsumed = true;
    // EOS takes an offset of its own, so that its receipt is proven by an ack of it.
    this.#consumed = this.#received + 1;
    this.#sendAck();
    this.#maybeFinish();
  }

  // ---- sending

  #canSend(bytes: number): boolean {
    return !this.#carrierBlocked && bytes <= MAX_DATA_BYTES && this.#sent + bytes <= this.#peerLimit;
  }

  #sendData(chunk: Buffer): void {
    writeHeader(header, this.channelId, FrameType.DATA, chunk.length);
    this.#sent += chunk.length;
    this.#write(header, chunk);
  }

  #pump(): void {
    while (this.#queue.length > 0 && !this.#carrierBlocked && !this.#closed) {
      const chunk = this.#queue[0] as Buffer;
      const size = Math.min(chunk.length, MAX_DATA_BYTES, this.#peerLimit - this.#sent);
      if (size <= 0) return;
      if (size === chunk.length) this.#queue.shift();
      else this.#queue[0] = chunk.subarray(size);
      this.#sendData(size === chunk.length ? chunk : chunk.subarray(0, size));
    }
    if (this.#closed || this.#queue.length > 0) return;
    if (this.#eosQueued && !this.#eosSent) {
      this.#eosSent = true;
      const body = Buffer.allocUnsafe(8);
      body.writeBigUInt64BE(BigInt(this.#sent), 0);
      this.#control(FrameType.EOS, body);
      return;
    }
    if (this.#wantDrain && !this.#carrierBlocked) {
      this.#wantDrain = false;
      this.#receiver?.drain();
    }
  }

  #control(type: number, body: Buffer): void {
    this.#write(encodeFrame(this.channelId, type, body), null);
  }

  #write(head: Buffer, body: Buffer | null): void {
    try {
      if (!this.#carrier.write(head, body)) this.#carrierBlocked = true;
    } catch (error) {
      // The stream's own event (stopped, lost) brings the reason, but may come later than this.
      const lost = new TunnelError('SESSION_LOST', 'the stream under the channel is gone', { cause: error });
      queueMicrotask(() => this.abort(lost));
    }
  }

  #sendAck(): void {
    clearTimeout(this.#ackTimer);
    this.#ackTimer = undefined;
    if (this.#closed) return;
    this.#maybeGrow();
    this.#ackedConsumed = this.#consumed;
    this.#granted = Math.max(this.#granted, this.#consumed + this.#window);
    const body = Buffer.allocUnsafe(16);
    body.writeBigUInt64BE(BigInt(this.#consumed), 0);
    body.writeBigUInt64BE(BigInt(this.#granted), 8);
    this.#control(FrameType.ACK, body);
  }

  /**
   * Doubles the window when it is what holds the peer back: either it was drained whole within two
   * round trips, or the peer has used up most of it while the local side kept pace (which on a short
   * path no clock shows, since turns of two event loops take longer than the round trip). A slow
   * local side has a full buffer, and drains slowly: it never grows its window.
   */
  #maybeGrow(): void {
    if (this.#window >= MAX_WINDOW_BYTES || this.#eosReceived) return;
    const creditLeft = this.#granted - this.#received;
    const buffered = this.#received - this.#consumed;
    const usedUp = creditLeft <= this.#window / 2 && buffered <= this.#window / 2;
    if (!usedUp && !this.#drainedFast()) return;
    if (this.#budget.take(this.#window)) this.#window *= 2;
  }

  /** Judged once for every window consumed. */
  #drainedFast(): boolean {
    if (this.#consumed - this.#drainOffset < this.#window) return false;
    const now = performance.now();
    const fast = now - this.#drainStart <= 2 * this.#rttMs();
    this.#drainStart = now;
    this.#drainOffset = this.#consumed;
    return fast;
  }

  // ---- receiving

  #onData(channelId: number, piece: Buffer): void {
    if (this.#closed) return;
    if (channelId !== this.channelId)
      throw protocol(`DATA of channel ${channelId} on the stream of ${this.channelId}`);
    if (this.#eosReceived) throw protocol('DATA after EOS');
    this.#received += piece.length;
    if (this.#received > this.#granted) {
      throw protocol(`${this.#received - this.#granted} bytes more than granted`);
    }
    this.#receiver?.data(piece);
  }

  #onControl(channelId: number, type: number, body: Buffer): void {
    if (this.#closed) return;
    if (channelId !== this.channelId)
      throw protocol(`a frame of channel ${channelId} on the stream of ${this.channelId}`);
    switch (type) {
      case FrameType.ACK:
        this.#onAck(body);
        break;
      case FrameType.EOS:
        this.#onEos(body);
        break;
      case FrameType.OPENED:
        this.#onOpened(body);
        break;
      case FrameType.ERROR: {
        const { code, message } = decodeError(body);
        this.abort(new TunnelError(wireCodeName(code), message || RESET_MESSAGE));
        break;
      }
      default:
        throw protocol(`a frame of unknown type ${type}`);
    }
  }

  #onOpened(body: Buffer): void {
    if (this.#role !== 'opener' || this.#opened || body.length !== 8)
      throw protocol('an OPENED out of place');
    this.#opened = true;
    this.#peerLimit = Math.max(this.#peerLimit, readOffset(body, 0));
    this.#receiver?.opened();
    this.#pump();
  }

  #onAck(body: Buffer): void {
    if (body.length !== 16) throw protocol('an ACK of the wrong length');
    const consumed = readOffset(body, 0);
    if (consumed > this.#sent + (this.#eosSent ? 1 : 0)) throw protocol('an ACK of bytes never sent');
    this.#acked = Math.max(this.#acked, consumed);
    this.#peerLimit = Math.max(this.#peerLimit, readOffset(body, 8));
    this.#pump();
    this.#maybeFinish();
  }

  #onEos(body: Buffer): void {
    if (body.length !== 8 || this.#eosReceived) throw protocol('an EOS out of place');
    const final = readOffset(body, 0);
    if (final !== this.#received) throw protocol(`EOS at offset ${final} after ${this.#received} bytes`);
    this.#eosReceived = true;
    this.#releaseWindow();
    this.#receiver?.end();
  }

  // ---- ends

  #maybeFinish(): void {
    if (this.#finished || this.#closed || !this.#complete) return;
    this.#finished = true;
    this.#carrier.finish();
  }

  /** Both directions ended, and both ends are proven. */
  get #complete(): boolean {
    return this.#endConsumed && this.#eosSent && this.#acked > this.#sent;
  }

  #onCarrierEnd(): void {
    if (this.#complete) {
      this.#maybeFinish();
      this.#close(undefined);
    } else if (!this.#closed) {
      this.abort(protocol('the stream ended before the channel did'));
    }
  }

  #onPeerAbort(code: number): void {
    if (this.#complete) this.#close(undefined);
    else this.abort(new TunnelError(wireCodeName(code), RESET_MESSAGE));
  }

  #onLost(): void {
    if (this.#complete) this.#close(undefined);
    else this.abort(new TunnelError('SESSION_LOST', 'the session to the peer was lost'));
  }

  #close(error: TunnelError | undefined): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#error = error;
    clearTimeout(this.#ackTimer);
    this.#queue.length = 0;
    this.#releaseWindow();
    this.#receiver?.closed(this.#error);
  }

  #releaseWindow(): void {
    this.#budget.give(this.#window - INITIAL_WINDOW_BYTES);
    this.#window = INITIAL_WINDOW_BYTES;
  }
}

function protocol(what: string): TunnelError {
  return new TunnelError('PROTOCOL', `the peer broke the protocol: ${what}`);
}
