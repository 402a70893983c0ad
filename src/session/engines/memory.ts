/**
 * Sessions inside one process, for tests of everything above an engine: the same streams,
 * datagrams and ends as the real ones, with latency, datagram loss and cuts on request.
 */

import { createHash, randomBytes } from 'node:crypto';
import { TunnelError } from '../../error.js';
import type { NodeId } from '../node-id.js';
import { onlyPath } from '../only-path.js';
import { AsyncQueue } from '../queue.js';
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
  StreamSink,
} from '../session.js';
import { StreamBase } from '../web-streams.js';

/** Bytes a sender may be ahead of its receiver on one stream before `write` answers false. */
const STREAM_WINDOW = 256 * 1024;
const MAX_DATAGRAM_BYTES = 1200;
const MAX_QUEUED_DATAGRAM_BATCHES = 1024;

export interface MemoryOptions {
  /** One-way delay, milliseconds. */
  readonly latencyMs?: number;
  /** Answers true for a datagram that is to be lost. */
  readonly loseDatagram?: (payload: Uint8Array) => boolean;
  /** What arrives of the datagrams sent together: fewer, more, in another order. */
  readonly shapeDatagrams?: (datagrams: readonly Uint8Array[]) => readonly Uint8Array[];
  /** Node IDs of the dialler and the acceptor; random ones unless given. */
  readonly ids?: readonly [NodeId, NodeId];
}

/** Also iterable: `const [dialler, acceptor] = memorySessionPair()`. */
export interface MemoryPair extends Iterable<Session> {
  readonly dialler: Session;
  readonly acceptor: Session;
  /** Breaks the path without a word to either side; both learn it as `lost`. */
  cut(): void;
}

export function memorySessionPair(options: MemoryOptions = {}): MemoryPair {
  const [diallerId, acceptorId] = options.ids ?? [randomId(), randomId()];
  const wire = new Wire(options.latencyMs ?? 0);
  const secret = randomBytes(32);
  const dialler = new MemorySession('dialler', acceptorId, wire, secret, options);
  const acceptor = new MemorySession('acceptor', diallerId, wire, secret, options);
  dialler.attach(acceptor);
  acceptor.attach(dialler);
  return {
    dialler,
    acceptor,
    [Symbol.iterator]: () => [dialler, acceptor].values(),
    cut: () => {
      wire.cut();
      dialler.end({ closeCode: 0, reason: 'the path was cut', by: 'lost' });
      acceptor.end({ closeCode: 0, reason: 'the path was cut', by: 'lost' });
    },
  };
}

/** Delivers in order, after the latency, and nothing once cut. */
class Wire {
  readonly #latencyMs: number;
  readonly #queue: (() => void)[] = [];
  readonly #timers = new Set<NodeJS.Timeout>();
  #scheduled = false;
  #cut = false;

  constructor(latencyMs: number) {
    this.#latencyMs = latencyMs;
  }

  send(deliver: () => void): void {
    if (this.#cut) return;
    if (this.#latencyMs > 0) {
      // Timers of one duration fire in the order they were set.
      const timer = setTimeout(() => {
        this.#timers.delete(timer);
        deliver();
      }, this.#latencyMs);
      this.#timers.add(timer);
      return;
    }
    this.#queue.push(deliver);
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      for (const next of this.#queue.splice(0)) next();
    });
  }

  cut(): void {
    this.#cut = true;
    this.#queue.length = 0;
    for (const timer of this.#timers) clearTimeout(timer);
  }
}

class MemorySession implements Session {
  readonly ready = Promise.resolve();
  readonly closed: Promise<CloseInfo>;
  readonly incomingBidirectionalStreams = new AsyncQueue<BidirectionalStream>();
  readonly incomingUnidirectionalStreams = new AsyncQueue<ReceiveStream>();
  readonly datagrams: Datagrams;
  readonly reliableDatagrams = false;
  readonly path: SessionPath;
  readonly #incomingDatagrams = new AsyncQueue<readonly Buffer[]>();
  readonly #streams = new Set<MemoryStream>();
  readonly #resolveClosed: (info: CloseInfo) => void;
  #peer!: MemorySession;
  #ended = false;
  #nextStreamId = 0;
  #bytesSent = 0;
  #bytesReceived = 0;

  constructor(
    readonly role: 'dialler' | 'acceptor',
    readonly remoteId: NodeId,
    readonly wire: Wire,
    readonly secret: Buffer,
    options: MemoryOptions,
  ) {
    this.path = { kind: 'memory', remote: remoteId, rttMs: 2 * (options.latencyMs ?? 0) };
    let resolve!: (info: CloseInfo) => void;
    this.closed = new Promise((r) => {
      resolve = r;
    });
    this.#resolveClosed = resolve;
    this.datagrams = {
      maxDatagramSize: MAX_DATAGRAM_BYTES,
      incoming: this.#incomingDatagrams,
      send: (datagrams) => this.#sendDatagrams(datagrams, options),
    };
  }

  get heard(): number {
    return this.#bytesReceived;
  }

  attach(peer: MemorySession): void {
    this.#peer = peer;
  }

  get maxDatagramSize(): number {
    return this.datagrams.maxDatagramSize;
  }

  close(closeCode = 0, reason = ''): void {
    if (this.#ended) return;
    this.wire.send(() => this.#peer.end({ closeCode, reason, by: 'peer' }));
    this.end({ closeCode, reason, by: 'local' });
  }

  end(info: CloseInfo): void {
    if (this.#ended) return;
    this.#ended = true;
    for (const stream of this.#streams) stream.sinks.lost();
    this.#streams.clear();
    this.incomingBidirectionalStreams.end();
    this.incomingUnidirectionalStreams.end();
    this.#incomingDatagrams.end();
    this.#resolveClosed(info);
  }

  async createBidirectionalStream(): Promise<BidirectionalStream> {
    return this.#createStream(this.#peer.incomingBidirectionalStreams, true);
  }

  async createUnidirectionalStream(): Promise<SendStream> {
    return this.#createStream(this.#peer.incomingUnidirectionalStreams, false);
  }

  paths(): readonly OpenPath[] {
    return this.#ended ? [] : [onlyPath({ path: this.path, stats: this.stats() })];
  }

  onPathChange(): () => void {
    return () => undefined;
  }

  stats(): SessionStats {
    return {
      rttMs: this.path.rttMs,
      bytesSent: this.#bytesSent,
      bytesReceived: this.#bytesReceived,
      packetsSent: 0,
      packetsLost: 0,
      congestionWindow: STREAM_WINDOW,
      mtu: MAX_DATAGRAM_BYTES,
    };
  }

  exportKeyingMaterial(label: string, length: number): Buffer {
    return createHash('shake256', { outputLength: length }).update(this.secret).update(label).digest();
  }

  get ended(): boolean {
    return this.#ended;
  }

  count(sent: number, received: number): void {
    this.#bytesSent += sent;
    this.#bytesReceived += received;
  }

  forget(stream: MemoryStream): void {
    this.#streams.delete(stream);
  }

  #createStream(inbox: { push(stream: MemoryStream): boolean }, bidirectional: boolean): MemoryStream {
    if (this.#ended) throw new TunnelError('SESSION_LOST', 'the session has ended');
    this.#nextStreamId += 1;
    const near = new MemoryStream(this.#nextStreamId, this, true, bidirectional);
    const far = new MemoryStream(this.#nextStreamId, this.#peer, bidirectional, true);
    near.attach(far);
    far.attach(near);
    this.#streams.add(near);
    const peer = this.#peer;
    this.wire.send(() => {
      if (peer.#ended) return;
      peer.#streams.add(far);
      inbox.push(far);
    });
    return near;
  }

  #sendDatagrams(datagrams: readonly Uint8Array[], { loseDatagram, shapeDatagrams }: MemoryOptions): number {
    if (this.#ended) throw new TunnelError('SESSION_LOST', 'the session has ended');
    const large = datagrams.find((datagram) => datagram.length > MAX_DATAGRAM_BYTES);
    if (large) {
      throw new TunnelError('TOO_LARGE', `a datagram of ${large.length} bytes exceeds ${MAX_DATAGRAM_BYTES}`);
    }
    const shaped = shapeDatagrams?.(datagrams) ?? datagrams;
    const batch = shaped.filter((datagram) => !loseDatagram?.(datagram)).map((each) => Buffer.from(each));
    const bytes = batch.reduce((sum, { length }) => sum + length, 0);
    const peer = this.#peer;
    this.count(bytes, 0);
    this.wire.send(() => {
      if (peer.#incomingDatagrams.length >= MAX_QUEUED_DATAGRAM_BATCHES) peer.#incomingDatagrams.shift();
      peer.#incomingDatagrams.push(batch);
      peer.count(0, bytes);
      // As QUIC does: what arrived is acknowledged.
      this.count(0, 1);
    });
    return datagrams.length;
  }
}

class MemoryStream extends StreamBase {
  readonly #session: MemorySession;
  #far!: MemoryStream;
  /** Arrived before there was a sink, or while the sender was a window ahead. */
  readonly #inbox: (() => void)[] = [];
  #receiving = false;
  #sendDone: boolean;
  #receiveDone: boolean;
  #stopped = false;
  #unconsumed = 0;
  #blocked = false;

  constructor(
    readonly id: number,
    session: MemorySession,
    canSend: boolean,
    canReceive: boolean,
  ) {
    super();
    this.#session = session;
    this.#sendDone = !canSend;
    this.#receiveDone = !canReceive;
  }

  attach(far: MemoryStream): void {
    this.#far = far;
  }

  receive(sink: StreamSink): void {
    if (!this.sinks.setSink(sink)) return;
    queueMicrotask(() => {
      // What arrives before this joins the queue, so that nothing overtakes.
      this.#receiving = true;
      for (const deliver of this.#inbox.splice(0)) {
        if (!this.#session.ended) deliver();
      }
    });
  }

  consumed(bytes: number): void {
    const far = this.#far;
    this.#session.wire.send(() => {
      far.#unconsumed -= bytes;
      if (!far.#blocked || far.#unconsumed > STREAM_WINDOW / 2) return;
      far.#blocked = false;
      if (!far.#session.ended) far.sinks.drain();
    });
  }

  write(head: Uint8Array | null, body: Uint8Array | null): boolean {
    if (this.#sendDone || this.#session.ended) {
      throw new TunnelError('STREAM_CLOSED', `stream ${this.id} is closed for writing`);
    }
    const parts = [head, body].filter((part): part is Uint8Array => part !== null && part.length > 0);
    const bytes = Buffer.concat(parts);
    if (bytes.length === 0) return true;
    this.#unconsumed += bytes.length;
    this.#session.count(bytes.length, 0);
    this.#toFar((far) => {
      far.#session.count(0, bytes.length);
      if (!far.#receiveDone) far.sinks.data(bytes);
      else far.consumed(bytes.length);
    });
    // Once it has said no, only a drain takes that back.
    this.#blocked ||= this.#unconsumed > STREAM_WINDOW;
    return !this.#blocked;
  }

  finish(last?: Uint8Array): void {
    if (last) this.write(null, last);
    if (this.#sendDone) return;
    this.#sendDone = true;
    this.#toFar((far) => far.#receiveEnd(() => far.sinks.end()));
    this.#maybeForget();
  }

  reset(code: number): void {
    if (this.#sendDone) return;
    this.#sendDone = true;
    this.#toFar((far) => far.#receiveEnd(() => far.sinks.reset(code)));
    this.#maybeForget();
  }

  stop(code: number): void {
    if (this.#receiveDone) return;
    this.#receiveDone = true;
    this.#toFar((far) => {
      if (far.#sendDone || far.#stopped) return;
      far.#stopped = true;
      far.#sendDone = true;
      far.sinks.stopped(code);
      far.#maybeForget();
    }, true);
    this.#maybeForget();
  }

  #receiveEnd(tell: () => void): void {
    if (this.#receiveDone) return;
    this.#receiveDone = true;
    tell();
    this.#maybeForget();
  }

  #maybeForget(): void {
    if (this.#sendDone && this.#receiveDone) this.#session.forget(this);
  }

  #toFar(deliver: (far: MemoryStream) => void, urgent = false): void {
    const far = this.#far;
    this.#session.wire.send(() => {
      if (far.#session.ended) return;
      if (far.#receiving || urgent) deliver(far);
      else far.#inbox.push(() => deliver(far));
    });
  }
}

function randomId(): NodeId {
  return randomBytes(32).toString('hex') as NodeId;
}
