/** The exposing side of speed tests: for peers that have a right to them, one at a time, and bounded. */
import { TunnelError } from '../error.js';
import type { NodeId } from '../session/node-id.js';
import type { Preamble } from '../session/preamble.js';
import type { CallContext, Dispatcher } from '../session/rpc-session.js';
import type { BidirectionalStream, Session } from '../session/session.js';
import { type Bulk, receiveBulk, sendBulk } from './speed-bulk.js';
import { DatagramSink, type DatagramSource, SPEED_DATAGRAM, sendDatagrams } from './speed-datagrams.js';
import {
  decodeRequest,
  decodeSpeedStream,
  encodeMessage,
  MAX_BYTES,
  SPEED_METHOD,
  type SpeedFigures,
  type SpeedRequest,
} from './speed-messages.js';
import { wait } from './wait.js';

/** Of all peers together: a machine has one network. */
const MAX_TESTS = 4;
const FIGURES_MS = 200;
/** How long one that was left may take to end. */
const LEFT_MS = 1000;
/** How long the caller may take to begin. */
const START_TIMEOUT_MS = 10_000;
/** What is under way when the sender stops still counts. */
const LATE_MS = 500;

export interface SpeedPeer {
  readonly peer: NodeId;
  readonly session: Session;
  /** Asked at every test. */
  readonly mayMeasure: () => boolean;
}

export class SpeedServer {
  /** Each with what to call at its end. */
  readonly #running = new Map<NodeId, Set<() => void>>();
  #lastTest = 0;

  /** What one session may do. */
  connection(peer: SpeedPeer): SpeedConnection {
    return new SpeedConnection(peer, this);
  }

  /**
   * Takes the peer's place; answers the number of the test. Waits a moment for one that is there: the
   * caller may have left it just before. Throws RESOURCE_EXHAUSTED.
   */
  async begin(peer: NodeId, signal: AbortSignal): Promise<number> {
    await this.#left(peer, signal);
    if (this.#running.has(peer))
      throw new TunnelError('RESOURCE_EXHAUSTED', 'a speed test of yours is running');
    if (this.#running.size >= MAX_TESTS)
      throw new TunnelError('RESOURCE_EXHAUSTED', 'others measure now; try again in a minute');
    this.#running.set(peer, new Set());
    this.#lastTest = (this.#lastTest % 0xffff_ffff) + 1;
    return this.#lastTest;
  }

  end(peer: NodeId): void {
    const waiting = this.#running.get(peer) ?? [];
    this.#running.delete(peer);
    for (const go of waiting) go();
  }

  async #left(peer: NodeId, signal: AbortSignal): Promise<void> {
    const waiting = this.#running.get(peer);
    if (!waiting) return;
    const ended = new AbortController();
    const go = () => ended.abort();
    waiting.add(go);
    await wait(LEFT_MS, { signal: AbortSignal.any([ended.signal, signal]) });
    waiting.delete(go);
  }
}

export class SpeedConnection {
  /** What the peer may call. */
  readonly dispatcher: Dispatcher;
  readonly #peer: SpeedPeer;
  readonly #server: SpeedServer;
  #test: ServedTest | undefined;

  constructor(peer: SpeedPeer, server: SpeedServer) {
    this.#peer = peer;
    this.#server = server;
    this.dispatcher = { [SPEED_METHOD]: (payload, context) => this.#serve(payload, context) };
  }

  /** A stream that the peer opened for its test. Throws DENIED where there is none. */
  stream(stream: BidirectionalStream, { body, rest }: Pick<Preamble, 'body' | 'rest'>): void {
    if (!this.#test?.takesStream(decodeSpeedStream(body)))
      throw new TunnelError('DENIED', 'opened a stream for a speed test that it does not have');
    this.#test.stream(stream, rest);
  }

  /** Takes those of speed tests, and answers whether it did. */
  readonly datagram = (datagram: Buffer, now: number): boolean => {
    if (datagram[0] !== SPEED_DATAGRAM) return false;
    this.#test?.datagram(datagram, now);
    return true;
  };

  async *#serve(payload: Uint8Array, { signal }: CallContext): AsyncGenerator<Uint8Array, void> {
    const { peer, session, mayMeasure } = this.#peer;
    if (!mayMeasure()) throw new TunnelError('DENIED', 'speed tests are not allowed to you here');
    const request = decodeRequest(payload);
    if (request.kind === 'datagram' && session.maxDatagramSize === 0)
      throw new TunnelError('UNIMPLEMENTED', 'this path carries no datagrams');
    const id = await this.#server.begin(peer, signal);
    const test = new ServedTest(id, request, session);
    this.#test = test;
    try {
      yield encodeMessage({ test: id, durationMs: request.durationMs });
      test.begin();
      while (!signal.aborted) {
        const figures = test.figures();
        yield encodeMessage(figures);
        if (figures.final) return;
        await wait(Math.min(FIGURES_MS, Math.max(1, test.leftMs)), { signal });
      }
    } finally {
      test.close();
      this.#test = undefined;
      this.#server.end(peer);
    }
  }
}

/** One test, one way. */
class ServedTest {
  readonly #id: number;
  readonly #request: SpeedRequest;
  readonly #session: Session;
  readonly #sink: DatagramSink;
  readonly #before: { readonly packetsSent: number; readonly packetsLost: number };
  #bulk: Bulk | undefined;
  #source: DatagramSource | undefined;
  #begunAt = performance.now();
  #ended = false;

  constructor(id: number, request: SpeedRequest, session: Session) {
    this.#id = id;
    this.#request = request;
    this.#session = session;
    this.#sink = new DatagramSink(id);
    this.#before = session.stats();
  }

  /** The caller has been told. */
  begin(): void {
    this.#begunAt = performance.now();
    const { direction, kind, bitsPerSecond = 0 } = this.#request;
    if (kind === 'datagram' && direction === 'down')
      this.#source = sendDatagrams(this.#session, { test: this.#id, bitsPerSecond });
  }

  takesStream(id: number): boolean {
    return id === this.#id && this.#request.kind === 'stream' && this.#bulk === undefined;
  }

  stream(stream: BidirectionalStream, rest: Buffer): void {
    const options = {
      stream,
      test: this.#id,
      role: 'acceptor' as const,
      rttMs: () => this.#session.path.rttMs,
      rest,
    };
    this.#bulk =
      this.#request.direction === 'down'
        ? sendBulk({ ...options, maxBytes: MAX_BYTES })
        : receiveBulk(options);
    void this.#bulk.ended.then(() => {
      this.#ended = true;
    });
  }

  datagram(datagram: Buffer, now: number): void {
    if (this.#request.direction === 'up' && this.#sink.bytes < MAX_BYTES) this.#sink.accept(datagram, now);
  }

  /** Until it is over. */
  get leftMs(): number {
    const startedAt = this.#startedAt;
    const now = performance.now();
    if (this.#ended || this.#bytes >= MAX_BYTES) return 0;
    if (startedAt === undefined) return this.#begunAt + START_TIMEOUT_MS - now;
    const late = this.#request.kind === 'datagram' && this.#request.direction === 'up' ? LATE_MS : 0;
    return startedAt + this.#request.durationMs + late - now;
  }

  figures(): SpeedFigures {
    const { packetsSent, packetsLost } = this.#session.stats();
    const isDatagrams = this.#request.kind === 'datagram';
    const isUp = this.#request.direction === 'up';
    const startedAt = this.#startedAt;
    const final = this.leftMs <= 0;
    if (final) this.#source?.stop();
    return {
      ms:
        isDatagrams && isUp
          ? this.#sink.ms
          : startedAt === undefined
            ? 0
            : Math.round(performance.now() - startedAt),
      bytes: this.#bytes,
      datagrams: this.#source?.sent ?? this.#sink.received,
      jitterMs: this.#sink.jitterMs,
      packetsSent: packetsSent - this.#before.packetsSent,
      packetsLost: packetsLost - this.#before.packetsLost,
      final,
    };
  }

  close(): void {
    this.#source?.stop();
    this.#bulk?.close(new TunnelError('CANCELLED', 'the speed test is over'));
  }

  get #startedAt(): number | undefined {
    if (this.#source) return this.#begunAt;
    return this.#bulk ? this.#bulk.startedAt : this.#sink.startedAt;
  }

  get #bytes(): number {
    return this.#bulk?.bytes ?? this.#source?.bytes ?? this.#sink.bytes;
  }
}
