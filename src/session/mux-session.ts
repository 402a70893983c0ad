/**
 * MuxSession: a whole `Session` on one bidirectional byte stream, for engines whose own streams are not
 * good enough to be given one a stream. Streams are tunnels of an `RpcSession`, with its credits.
 *
 * What concerns the session, or must not wait for a stream's credit, are frames of channel 0:
 * CLOSE `code u32 | reason`, DATAGRAM `bytes`, RESET and STOP `channelId u32 | code u32`, PING and PONG
 * `8 bytes`. A peer that is silent for ten seconds, pings unanswered, is taken for dead.
 */

import { TunnelError } from '../error.js';
import { INITIAL_WINDOW_BYTES } from './channel.js';
import { MAX_CONTROL_BYTES, printable } from './frame.js';
import { DatagramInbox } from './mux-datagrams.js';
import { MeteredStream } from './mux-metered-stream.js';
import { MuxStream, type MuxStreamHost } from './mux-stream.js';
import type { NodeId } from './node-id.js';
import { onlyPath } from './only-path.js';
import { AsyncQueue } from './queue.js';
import { type IncomingTunnel, RpcSession } from './rpc-session.js';
import type {
  BidirectionalStream,
  CloseInfo,
  Datagrams,
  OpenPath,
  ReceiveStream,
  SendStream,
  Session,
  SessionPath,
  SessionStats,
} from './session.js';

const MuxFrame = {
  CLOSE: 0x20,
  DATAGRAM: 0x21,
  RESET: 0x22,
  STOP: 0x23,
  PING: 0x24,
  PONG: 0x25,
} as const;

const KIND_BIDIRECTIONAL = 0;
const KIND_UNIDIRECTIONAL = 1;
const PING_INTERVAL_MS = 3_000;
const IDLE_TIMEOUT_MS = 10_000;
/** Longest reason of a close, UTF-8 bytes; the rest is cut off. As in W3C WebTransport. */
const MAX_REASON_BYTES = 1024;
/** Resets and stops that came before their tunnel was taken up: it follows within the same turn. */
const MAX_EARLY_SIGNALS = 16_384;

export interface MuxSessionOptions {
  readonly remoteId: NodeId;
  readonly role: 'dialler' | 'acceptor';
  readonly path: Pick<SessionPath, 'kind' | 'remote'>;
  /** As `Session.exportKeyingMaterial`. */
  readonly exportKeyingMaterial: (label: string, length: number) => Buffer;
  /** What arrived on the stream before it became this session's. */
  readonly rest?: Buffer;
  /** Milliseconds; for tests. */
  readonly pingIntervalMs?: number;
  readonly idleTimeoutMs?: number;
}

/** A session whose datagrams are frames of its stream: in order, and lost only where a buffer is full. */
export class MuxSession implements Session {
  readonly remoteId: NodeId;
  readonly role: 'dialler' | 'acceptor';
  readonly ready = Promise.resolve();
  readonly closed: Promise<CloseInfo>;
  readonly incomingBidirectionalStreams = new AsyncQueue<BidirectionalStream>();
  readonly incomingUnidirectionalStreams = new AsyncQueue<ReceiveStream>();
  readonly datagrams: Datagrams;
  /** Datagrams that were sent are delivered, as long as the receiver keeps up. */
  readonly reliableDatagrams = true;
  readonly #options: MuxSessionOptions;
  readonly #stream: MeteredStream;
  readonly #rpc: RpcSession;
  readonly #host: MuxStreamHost;
  readonly #streams = new Map<number, MuxStream>();
  readonly #earlySignals = new Map<number, ((stream: MuxStream) => void)[]>();
  readonly #inbox = new DatagramInbox();
  readonly #resolveClosed: (info: CloseInfo) => void;
  readonly #pings: NodeJS.Timeout;
  #lastPeerId = 0;
  #ended = false;
  #rttMs = 0;
  #unanswered = 0;
  #heardAt = performance.now();
  #heardBytes = 0;

  /** Starts reading at once. */
  constructor(stream: BidirectionalStream, options: MuxSessionOptions) {
    this.remoteId = options.remoteId;
    this.role = options.role;
    this.#options = options;
    let resolve!: (info: CloseInfo) => void;
    this.closed = new Promise((r) => {
      resolve = r;
    });
    this.#resolveClosed = resolve;
    const session = this;
    this.#host = {
      get ended() {
        return session.#ended;
      },
      sendReset: (id, code) => this.#sendSignal(MuxFrame.RESET, id, code),
      sendStop: (id, code) => this.#sendSignal(MuxFrame.STOP, id, code),
      forget: ({ id }) => this.#streams.delete(id),
    };
    this.datagrams = {
      maxDatagramSize: MAX_CONTROL_BYTES,
      incoming: this.#inbox,
      send: (datagrams) => this.#sendDatagrams(datagrams),
    };
    this.#stream = new MeteredStream(stream, options.rest);
    this.#rpc = new RpcSession(this.#stream, {
      role: options.role,
      rttMs: () => this.#rttMs,
      onSessionFrame: (type, payload) => this.#onSessionFrame(type, payload),
    });
    void this.#acceptStreams();
    void this.#rpc.closed.then((error) => {
      const reason = error?.message ?? 'the stream under the session ended';
      this.#end({ closeCode: 0, reason, by: 'lost' });
    });
    this.#pings = setInterval(() => this.#checkPeer(), options.pingIntervalMs ?? PING_INTERVAL_MS);
    this.#pings.unref();
    this.#sendPing();
  }

  get maxDatagramSize(): number {
    return this.datagrams.maxDatagramSize;
  }

  get path(): SessionPath {
    return { ...this.#options.path, rttMs: this.#rttMs };
  }

  get heard(): number {
    return this.#stream.received;
  }

  paths(): readonly OpenPath[] {
    return this.#ended ? [] : [onlyPath({ path: this.path, stats: this.stats() })];
  }

  onPathChange(): () => void {
    return () => undefined;
  }

  stats(): SessionStats {
    return {
      rttMs: this.#rttMs,
      bytesSent: this.#stream.sent,
      bytesReceived: this.#stream.received,
      packetsSent: 0,
      packetsLost: 0,
      congestionWindow: 0,
      mtu: 0,
    };
  }

  exportKeyingMaterial(label: string, length: number): Buffer {
    return this.#options.exportKeyingMaterial(label, length);
  }

  async createBidirectionalStream(): Promise<BidirectionalStream> {
    return this.#open(KIND_BIDIRECTIONAL);
  }

  async createUnidirectionalStream(): Promise<SendStream> {
    return this.#open(KIND_UNIDIRECTIONAL);
  }

  close(closeCode = 0, reason = ''): void {
    if (this.#ended) return;
    this.#rpc.sendSessionFrame(MuxFrame.CLOSE, encodeClose(closeCode, reason));
    this.#end({ closeCode, reason, by: 'local' });
    this.#rpc.close();
  }

  #end(info: CloseInfo): void {
    if (this.#ended) return;
    this.#ended = true;
    clearInterval(this.#pings);
    for (const stream of [...this.#streams.values()]) stream.sinks.lost();
    this.#streams.clear();
    this.#earlySignals.clear();
    this.incomingBidirectionalStreams.end();
    this.incomingUnidirectionalStreams.end();
    this.#inbox.end();
    this.#resolveClosed(info);
  }

  // ---- streams

  #open(kind: number): MuxStream {
    if (this.#ended) throw new TunnelError('SESSION_LOST', 'the session has ended');
    // The acceptor takes every tunnel, so all of its first window may be used at once.
    const channel = this.#rpc.openTunnel(Buffer.of(kind), { peerLimit: INITIAL_WINDOW_BYTES });
    const directions = { sends: true, receives: kind === KIND_BIDIRECTIONAL };
    const stream = new MuxStream(channel, this.#host, directions);
    this.#streams.set(stream.id, stream);
    return stream;
  }

  async #acceptStreams(): Promise<void> {
    for await (const tunnel of this.#rpc.incomingTunnels) {
      if (this.#ended) return;
      this.#accept(tunnel);
    }
  }

  #accept({ channel, body }: IncomingTunnel): void {
    const kind = body.length === 1 ? body[0] : undefined;
    if (kind !== KIND_BIDIRECTIONAL && kind !== KIND_UNIDIRECTIONAL) {
      this.#rpc.close(new TunnelError('PROTOCOL', 'the peer opened a stream of an unknown kind'));
      return;
    }
    this.#lastPeerId = channel.channelId;
    const directions = { sends: kind === KIND_BIDIRECTIONAL, receives: true };
    const stream = new MuxStream(channel, this.#host, directions);
    channel.accept();
    this.#streams.set(stream.id, stream);
    const signals = this.#earlySignals.get(stream.id) ?? [];
    this.#earlySignals.delete(stream.id);
    for (const signal of signals) signal(stream);
    if (kind === KIND_BIDIRECTIONAL) this.incomingBidirectionalStreams.push(stream);
    else this.incomingUnidirectionalStreams.push(stream);
  }

  #sendSignal(type: number, id: number, code: number): void {
    const payload = Buffer.allocUnsafe(8);
    payload.writeUInt32BE(id, 0);
    payload.writeUInt32BE(code, 4);
    this.#rpc.sendSessionFrame(type, payload);
  }

  #onSignal(payload: Buffer, apply: (stream: MuxStream, code: number) => void): void {
    if (payload.length !== 8) throw protocol('a signal of the wrong length');
    const id = payload.readUInt32BE(0);
    const code = payload.readUInt32BE(4);
    const stream = this.#streams.get(id);
    if (stream) {
      apply(stream, code);
      return;
    }
    const own = (id % 2 === 1) === (this.role === 'dialler');
    // A stream that is over here may still be told of what crossed its end.
    if (own || id <= this.#lastPeerId) return;
    const signals = this.#earlySignals.get(id) ?? [];
    if (signals.length > 1 || this.#earlySignals.size >= MAX_EARLY_SIGNALS)
      throw protocol('signals for streams that were never opened');
    signals.push((opened) => apply(opened, code));
    this.#earlySignals.set(id, signals);
  }

  // ---- datagrams

  #sendDatagrams(datagrams: readonly Uint8Array[]): number {
    if (this.#ended) throw new TunnelError('SESSION_LOST', 'the session has ended');
    const large = datagrams.find(({ length }) => length > MAX_CONTROL_BYTES);
    if (large) {
      throw new TunnelError('TOO_LARGE', `a datagram of ${large.length} bytes exceeds ${MAX_CONTROL_BYTES}`);
    }
    let taken = 0;
    for (const datagram of datagrams) {
      if (this.#stream.full) break;
      this.#rpc.sendSessionFrame(MuxFrame.DATAGRAM, datagram);
      taken += 1;
    }
    return taken;
  }

  // ---- the session's frames

  #onSessionFrame(type: number, payload: Buffer): void {
    if (this.#ended) return;
    switch (type) {
      case MuxFrame.DATAGRAM:
        this.#inbox.push(payload);
        break;
      case MuxFrame.RESET:
        this.#onSignal(payload, (stream, code) => stream.onReset(code));
        break;
      case MuxFrame.STOP:
        this.#onSignal(payload, (stream, code) => stream.onStop(code));
        break;
      case MuxFrame.PING:
        if (payload.length !== 8) throw protocol('a ping of the wrong length');
        // A peer that pings and does not read is not kept a queue of answers for.
        if (!this.#stream.full) this.#rpc.sendSessionFrame(MuxFrame.PONG, payload);
        break;
      case MuxFrame.PONG:
        this.#onPong(payload);
        break;
      case MuxFrame.CLOSE:
        this.#end({ ...decodeClose(payload), by: 'peer' });
        this.#rpc.close();
        break;
      default:
        throw protocol(`a session frame of type ${type}`);
    }
  }

  #sendPing(): void {
    const payload = Buffer.allocUnsafe(8);
    payload.writeDoubleBE(performance.now(), 0);
    this.#unanswered += 1;
    this.#rpc.sendSessionFrame(MuxFrame.PING, payload);
  }

  #onPong(payload: Buffer): void {
    if (payload.length !== 8) throw protocol('a pong of the wrong length');
    this.#unanswered = 0;
    const sample = performance.now() - payload.readDoubleBE(0);
    // The echo is the peer's: it could be anything.
    if (!(sample >= 0 && sample < 60_000)) return;
    this.#rttMs = this.#rttMs === 0 ? sample : this.#rttMs + (sample - this.#rttMs) / 8;
  }

  /** Silence counts only against pings of this side's: one that slept itself asks again first. */
  #checkPeer(): void {
    const now = performance.now();
    if (this.#stream.received !== this.#heardBytes) {
      this.#heardBytes = this.#stream.received;
      this.#heardAt = now;
    }
    const idleMs = this.#options.idleTimeoutMs ?? IDLE_TIMEOUT_MS;
    if (now - this.#heardAt >= idleMs && this.#unanswered >= 3) {
      this.#end({ closeCode: 0, reason: `the peer was silent for ${idleMs / 1000} s`, by: 'timeout' });
      this.#rpc.close(new TunnelError('TIMEOUT', 'the peer is silent'));
      return;
    }
    this.#sendPing();
  }
}

function encodeClose(closeCode: number, reason: string): Buffer {
  const text = Buffer.from(reason, 'utf8').subarray(0, MAX_REASON_BYTES);
  const payload = Buffer.allocUnsafe(4 + text.length);
  payload.writeUInt32BE(closeCode >>> 0, 0);
  payload.set(text, 4);
  return payload;
}

function decodeClose(payload: Buffer): { closeCode: number; reason: string } {
  if (payload.length < 4 || payload.length > 4 + MAX_REASON_BYTES) throw protocol('a malformed close');
  return { closeCode: payload.readUInt32BE(0), reason: printable(payload.toString('utf8', 4)) };
}

function protocol(what: string): TunnelError {
  return new TunnelError('PROTOCOL', `the peer broke the protocol: ${what}`);
}
