/**
 * Channel: an ordered, flow-controlled, bidirectional byte conduit with an id. It rides on one carrier
 * at a time, a stream of its own or a tunnel of the mux (`carrier.ts`), and may outlive it: with a
 * host it waits when its carrier is lost, and goes on over another one from the offsets both sides have.
 *
 * Its ends are proven, never guessed: an end is clean only when EOS named the offset that was
 * received. A reset, a gap, a stream that stops without EOS, or a session that does not come back all
 * arrive as a failure, which the socket beside it turns into a TCP reset (docs/protocol.md, "Channels").
 */
import { TunnelError, WIRE_CODES, wireCodeName } from '../error.js';
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
import { untilAnswered } from './hold-back.js';
import { decodeResumed, encodeResumed, type ResumePoint } from './resume.js';
import { SendBuffer } from './send-buffer.js';
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

/** Who finds a channel another carrier. Without one a channel ends with its carrier. */
export interface ChannelHost {
  /** The carrier is gone; the channel waits. */
  detached(channel: Channel): void;
  /** It goes on. */
  resumed(channel: Channel): void;
  /** It is over. */
  ended(channel: Channel, error: TunnelError | undefined): void;
}

export interface ChannelOptions {
  readonly channelId: number;
  readonly role: 'opener' | 'acceptor';
  /** First offset up to which this side may send. */
  readonly peerLimit: number;
  readonly budget: WindowBudget;
  /** Round trip of the session now, milliseconds: what the window's growth is judged by. */
  readonly rttMs?: (() => number) | undefined;
  readonly host?: ChannelHost;
}

/** Written anew for each DATA frame: a carrier takes its bytes before `write` returns. */
const header = Buffer.alloc(HEADER_BYTES);
const RESET_MESSAGE = 'the other end reset the connection';

export class Channel {
  readonly channelId: number;
  readonly #role: 'opener' | 'acceptor';
  readonly #budget: WindowBudget;
  readonly #rttMs: () => number;
  readonly #host: ChannelHost | undefined;
  readonly #openedAt = performance.now();
  #receiver: ChannelReceiver | undefined;

  /** Undefined while the channel waits for another one. */
  #carrier: Carrier | undefined;
  /** The carrier being left, until the peer has left it too. */
  #previous: Carrier | undefined;
  #epoch = 0;
  /** The carrier is new, and the peer has not said yet where it stands. */
  #resuming = false;

  // Sending: absolute offsets, so that they stay true on another carrier.
  readonly #out = new SendBuffer();
  /** How far it had come on carriers before this one. */
  #sentBefore = 0;
  #acked = 0;
  #peerLimit: number;
  #eosQueued = false;
  #eosSent = false;
  /** The carrier is full, or there is none. */
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

  /** Without a carrier the channel begins waiting for one. */
  constructor(carrier: Carrier | undefined, options: ChannelOptions) {
    this.channelId = options.channelId;
    this.#role = options.role;
    this.#carrier = carrier;
    this.#carrierBlocked = carrier === undefined;
    this.#peerLimit = options.peerLimit;
    this.#budget = options.budget;
    this.#rttMs = options.rttMs ?? (() => 0);
    this.#host = options.host;
  }

  /** Payload bytes received from the peer. */
  get bytesIn(): number {
    return this.#received;
  }

  /** Payload bytes sent to the peer. */
  get bytesOut(): number {
    return Math.max(this.#out.sent, this.#sentBefore);
  }

  /** Payload bytes sent that the peer's application has not taken yet. */
  get unackedBytes(): number {
    return this.#out.sent - Math.min(this.#acked, this.#out.sent);
  }

  /** Bytes this side holds in memory for the channel, both directions. */
  get heldBytes(): number {
    return this.#out.heldBytes + Math.max(0, this.#received - this.#consumed);
  }

  /** Bytes. */
  get window(): number {
    return this.#window;
  }

  /** How many carriers it has had after the first. */
  get epoch(): number {
    return this.#epoch;
  }

  /** It has no carrier, or one over which the peer has not answered yet. */
  get isDetached(): boolean {
    return !this.#closed && (this.#carrier === undefined || this.#resuming);
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
    | 'detached'
    | 'closed' {
    if (this.#closed) return 'closed';
    if (this.isDetached) return 'detached';
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
    if (this.#carrier) this.#listen(this.#carrier, rest);
  }

  /** Accepts the channel. Acceptor only; what the opener sent early was delivered already. */
  accept(): void {
    if (this.#closed || this.#opened) return;
    this.#opened = true;
    const body = Buffer.allocUnsafe(8);
    body.writeBigUInt64BE(BigInt(this.#granted), 0);
    // What it gives is credit, which the opener needs only once it has sent a good deal.
    if (this.#received < EARLY_DATA_BYTES / 2) this.#defer(FrameType.OPENED, body);
    else this.#control(FrameType.OPENED, body);
    this.#pump();
  }

  /** Ends the channel before it was accepted, with the reason in words. Acceptor only. */
  reject(error: TunnelError): void {
    if (this.#closed) return;
    this.#control(FrameType.ERROR, encodeError(error.wireCode, error.message));
    this.#carrier?.endAfterError(error.wireCode);
    this.#close(error);
  }

  /**
   * Sends bytes, which must not be changed afterwards. False asks to hold back until `drain`; what
   * was given has been taken all the same.
   */
  write(chunk: Buffer): boolean {
    if (this.#closed || this.#eosQueued || chunk.length === 0) return true;
    this.#out.push(chunk);
    this.#pump();
    const ready = this.#out.unsentBytes === 0 && !this.#carrierBlocked;
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
    this.#carrier?.reset(error.wireCode);
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
    this.#stopAckTimer();
    // This side's end, or the stream's, mostly follows at once.
    this.#defer(FrameType.ACK, this.#ackBody());
    this.#maybeFinish();
  }

  // ---- going on over another carrier

  /** Where this side stands. */
  get resumePoint(): ResumePoint {
    return {
      received: this.#received + (this.#eosReceived ? 1 : 0),
      consumed: this.#consumed,
      limit: this.#granted,
      opened: this.#opened,
    };
  }

  /**
   * Leaves the present carrier, if any: what still comes on it is ignored. Answers the epoch of the
   * next one. Opener only, so that the two sides never both try.
   */
  leaveCarrier(): number {
    if (this.#carrier && !this.#resuming) this.#previous = this.#carrier;
    else if (this.#resuming) this.#carrier?.reset(WIRE_CODES.MOVED);
    this.#detach();
    this.#epoch += 1;
    return this.#epoch;
  }

  /** RESUME has been sent on `carrier` with `resumePoint`; goes on when the peer answers. Opener only. */
  resumeOver(carrier: Carrier): void {
    if (this.#closed) {
      carrier.reset(WIRE_CODES.MOVED);
      return;
    }
    this.#carrier = carrier;
    this.#resuming = true;
    this.#listen(carrier);
  }

  /** The opener's RESUME arrived on `carrier`. Answers false for an epoch that has been overtaken. Acceptor only. */
  resumeFrom(carrier: Carrier, epoch: number, peer: ResumePoint, rest?: Buffer): boolean {
    if (this.#closed || epoch <= this.#epoch) return false;
    this.#carrier?.reset(WIRE_CODES.MOVED);
    this.#detach();
    this.#epoch = epoch;
    this.#carrier = carrier;
    this.#control(FrameType.RESUMED, encodeResumed(this.resumePoint));
    try {
      this.#goOn(peer);
    } catch (error) {
      this.abort(error as TunnelError);
      return true;
    }
    if (this.#carrier === carrier) this.#listen(carrier, rest);
    return true;
  }

  /** The opener knows that the channel ended cleanly; whether it did here too decides how it ends. */
  endedAtPeer(): void {
    if (this.#closed) return;
    // What it proved to the peer: everything sent here was passed on there, and the other way round.
    if (this.#endConsumed && this.#eosSent) {
      this.#carrier?.reset(WIRE_CODES.MOVED);
      this.#close(undefined);
    } else {
      this.abort(protocol('it says that a channel had ended which had not'));
    }
  }

  #detach(): void {
    this.#stopAckTimer();
    this.#carrier = undefined;
    this.#resuming = false;
    this.#carrierBlocked = true;
    this.#finished = false;
  }

  /** Takes up sending where the peer stands. Throws RESUME_GAP or PROTOCOL. */
  #goOn(peer: ResumePoint): void {
    const { sent } = this.#out;
    this.#sentBefore = this.bytesOut;
    if (peer.received > sent + (this.#eosSent ? 1 : 0)) throw protocol('it has received bytes never sent');
    if (!this.#out.rewind(Math.min(peer.received, sent))) {
      throw new TunnelError('RESUME_GAP', 'the peer lacks bytes that are not held any more');
    }
    this.#eosSent = peer.received > sent;
    this.#resuming = false;
    this.#carrierBlocked = false;
    if (peer.opened && this.#role === 'opener') this.#markOpened();
    this.#onPeerProgress(peer.consumed, peer.limit);
    // What was consumed while there was no carrier has given no credit yet, and nothing else would.
    if (!this.#closed && !this.#eosReceived && this.#consumed > this.#ackedConsumed) this.#sendAck();
    if (!this.#closed) this.#host?.resumed(this);
  }

  #onResumed(body: Buffer): void {
    if (!this.#resuming) throw protocol('a RESUMED out of place');
    this.#previous?.reset(WIRE_CODES.MOVED);
    this.#previous = undefined;
    this.#goOn(decodeResumed(body));
  }

  #onEnded(): void {
    if (!this.#resuming) throw protocol('an ENDED out of place');
    this.endedAtPeer();
  }

  // ---- sending

  #sendData(chunk: Buffer): void {
    writeHeader(header, (this.#carrier as Carrier).frameId, FrameType.DATA, chunk.length);
    this.#write(header, chunk);
  }

  #pump(): void {
    while (this.#out.unsentBytes > 0) {
      if (this.#carrierBlocked || this.#closed) return;
      const credit = Math.min(MAX_DATA_BYTES, this.#peerLimit - this.#out.sent);
      if (credit <= 0) return;
      this.#sendData(this.#out.take(credit));
    }
    if (this.#closed || this.#carrierBlocked) return;
    if (this.#eosQueued) {
      if (this.#eosSent) return;
      this.#eosSent = true;
      const body = Buffer.allocUnsafe(8);
      body.writeBigUInt64BE(BigInt(this.#out.sent), 0);
      this.#control(FrameType.EOS, body);
      return;
    }
    if (this.#wantDrain) {
      this.#wantDrain = false;
      this.#receiver?.drain();
    }
  }

  /** Nothing while the channel waits: where it stands is told when it goes on. */
  #control(type: number, body: Buffer): void {
    const carrier = this.#carrier;
    if (carrier && !this.#resuming) this.#write(encodeFrame(carrier.frameId, type, body), null);
  }

  #defer(type: number, body: Buffer): void {
    const carrier = this.#carrier;
    if (carrier && !this.#resuming) carrier.defer(encodeFrame(carrier.frameId, type, body), untilAnswered);
  }

  #write(head: Buffer, body: Buffer | null): void {
    const carrier = this.#carrier as Carrier;
    try {
      if (!carrier.write(head, body)) this.#carrierBlocked = true;
    } catch {
      // The stream's own event (stopped, lost) brings the reason, but may come later than this.
      this.#carrierBlocked = true;
      queueMicrotask(() => {
        if (this.#carrier === carrier) this.#onLost();
      });
    }
  }

  #sendAck(): void {
    this.#stopAckTimer();
    if (this.#closed || !this.#carrier || this.#resuming) return;
    this.#maybeGrow();
    this.#control(FrameType.ACK, this.#ackBody());
  }

  #stopAckTimer(): void {
    clearTimeout(this.#ackTimer);
    this.#ackTimer = undefined;
  }

  #ackBody(): Buffer {
    this.#ackedConsumed = this.#consumed;
    this.#granted = Math.max(this.#granted, this.#consumed + this.#window);
    const body = Buffer.allocUnsafe(16);
    body.writeBigUInt64BE(BigInt(this.#consumed), 0);
    body.writeBigUInt64BE(BigInt(this.#granted), 8);
    return body;
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

  #listen(carrier: Carrier, rest?: Buffer): void {
    // What an abandoned carrier still says is nobody's.
    const current = () => this.#carrier === carrier && !this.#closed;
    carrier.receive(
      {
        data: (id, piece) => {
          if (current()) this.#onData(carrier, id, piece);
        },
        control: (id, type, payload) => {
          if (current()) this.#onControl(carrier, id, type, payload);
        },
        flush: () => {
          if (current()) this.#receiver?.flush();
        },
        end: () => {
          if (current()) this.#onCarrierEnd();
        },
        reset: (code) => {
          if (current()) this.#onPeerAbort(code);
        },
        violation: (error) => {
          if (current()) this.abort(error);
        },
        drain: () => {
          if (!current() || this.#resuming) return;
          this.#carrierBlocked = false;
          this.#pump();
        },
        lost: () => {
          if (current()) this.#onLost();
        },
      },
      rest,
    );
  }

  #onData(carrier: Carrier, id: number, piece: Buffer): void {
    if (id !== carrier.frameId) throw protocol(`DATA of channel ${id} on the stream of ${carrier.frameId}`);
    if (this.#resuming) throw protocol('DATA before RESUMED');
    if (this.#eosReceived) throw protocol('DATA after EOS');
    this.#received += piece.length;
    if (this.#received > this.#granted) {
      throw protocol(`${this.#received - this.#granted} bytes more than granted`);
    }
    this.#receiver?.data(piece);
  }

  #onControl(carrier: Carrier, id: number, type: number, body: Buffer): void {
    if (id !== carrier.frameId)
      throw protocol(`a frame of channel ${id} on the stream of ${carrier.frameId}`);
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
      case FrameType.RESUMED:
        this.#onResumed(body);
        break;
      case FrameType.ENDED:
        this.#onEnded();
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
    if (this.#role !== 'opener' || this.#opened || this.#resuming || body.length !== 8)
      throw protocol('an OPENED out of place');
    this.#peerLimit = Math.max(this.#peerLimit, readOffset(body, 0));
    this.#markOpened();
    this.#pump();
  }

  #markOpened(): void {
    if (this.#opened) return;
    this.#opened = true;
    this.#receiver?.opened();
  }

  #onAck(body: Buffer): void {
    if (body.length !== 16 || this.#resuming) throw protocol('an ACK out of place');
    const consumed = readOffset(body, 0);
    if (consumed > this.#out.sent + (this.#eosSent ? 1 : 0)) throw protocol('an ACK of bytes never sent');
    this.#onPeerProgress(consumed, readOffset(body, 8));
  }

  #onPeerProgress(consumed: number, limit: number): void {
    this.#acked = Math.max(this.#acked, consumed);
    this.#out.release(this.#acked);
    this.#peerLimit = Math.max(this.#peerLimit, limit);
    this.#pump();
    this.#maybeFinish();
  }

  #onEos(body: Buffer): void {
    if (body.length !== 8 || this.#eosReceived || this.#resuming) throw protocol('an EOS out of place');
    const final = readOffset(body, 0);
    if (final !== this.#received) throw protocol(`EOS at offset ${final} after ${this.#received} bytes`);
    this.#eosReceived = true;
    this.#releaseWindow();
    this.#receiver?.end();
  }

  // ---- ends

  #maybeFinish(): void {
    if (this.#finished || this.#closed || !this.#carrier || !this.#complete) return;
    this.#finished = true;
    this.#carrier.finish();
  }

  /** Both directions ended, and both ends are proven. */
  get #complete(): boolean {
    return this.#endConsumed && this.#eosSent && this.#acked > this.#out.sent;
  }

  #onCarrierEnd(): void {
    if (this.#complete) {
      this.#maybeFinish();
      this.#close(undefined);
    } else {
      this.abort(protocol('the stream ended before the channel did'));
    }
  }

  #onPeerAbort(code: number): void {
    if (this.#complete) this.#close(undefined);
    // The peer has left this carrier, not the channel.
    else if (code === WIRE_CODES.MOVED) this.#onLost();
    else this.abort(new TunnelError(wireCodeName(code), RESET_MESSAGE));
  }

  #onLost(): void {
    if (this.#complete) {
      this.#close(undefined);
    } else if (this.#host) {
      this.#detach();
      this.#host.detached(this);
    } else {
      this.#close(new TunnelError('SESSION_LOST', 'the session to the peer was lost'));
    }
  }

  #close(error: TunnelError | undefined): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#ackTimer);
    this.#previous?.reset(WIRE_CODES.MOVED);
    this.#out.clear();
    this.#releaseWindow();
    this.#host?.ended(this, error);
    this.#receiver?.closed(error);
  }

  #releaseWindow(): void {
    this.#budget.give(this.#window - INITIAL_WINDOW_BYTES);
    this.#window = INITIAL_WINDOW_BYTES;
  }
}

function protocol(what: string): TunnelError {
  return new TunnelError('PROTOCOL', `the peer broke the protocol: ${what}`);
}
