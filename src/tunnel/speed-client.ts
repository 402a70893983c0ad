/** The dialling side of speed tests: one test, one way, and what came of it. */
import { TunnelError, toTunnelError } from '../error.js';
import type { PeerSession } from '../session/handshake.js';
import { encodePreamble, StreamKind } from '../session/preamble.js';
import type { Session } from '../session/session.js';
import { type RoundTripFigures, roundRtt, roundTripFigures } from './round-trips.js';
import { type Bulk, receiveBulk, sendBulk } from './speed-bulk.js';
import { DatagramSink, SPEED_DATAGRAM, sendDatagrams } from './speed-datagrams.js';
import {
  type Direction,
  decodeAccepted,
  decodeFigures,
  encodeMessage,
  encodeSpeedStream,
  MAX_BYTES,
  SPEED_METHOD,
  type SpeedFigures,
  type SpeedRequest,
} from './speed-messages.js';
import { wait } from './wait.js';

const PROGRESS_MS = 200;
const PING_MS = 200;
/** How long the first byte, and what the peer has counted, are waited for. */
const PATIENCE_MS = 10_000;
/** What is under way when the sender stops still counts. */
const LATE_MS = 500;
const MAX_EARLY = 4096;

export interface Progress {
  readonly direction: Direction;
  /** From 0 to 1. */
  readonly done: number;
  readonly ms: number;
  readonly bytes: number;
  /** Since the last one. */
  readonly bytesPerSecond: number;
}

export interface SpeedResult {
  /** That arrived. */
  readonly bytes: number;
  readonly durationMs: number;
  readonly bytesPerSecond: number;
  /** Of bulk: packets that were lost and sent again. Of datagrams: those that never came. Undefined where the path does not tell. */
  readonly lossRatio: number | undefined;
  /** Round trips of calls meanwhile. */
  readonly rttMs: RoundTripFigures | undefined;
}

export interface DatagramResult extends SpeedResult {
  readonly sent: number;
  readonly received: number;
  readonly jitterMs: number;
}

export interface SpeedOptions {
  readonly direction: Direction;
  readonly durationMs: number;
  readonly onProgress: (progress: Progress) => void;
  readonly signal: AbortSignal;
}

/**
 * Bytes as fast as a connection through the tunnel gets them. Throws DENIED, UNIMPLEMENTED,
 * RESOURCE_EXHAUSTED, SESSION_LOST, CANCELLED when the signal fires, TIMEOUT when nothing comes.
 */
export async function measureBulk(peer: PeerSession, options: SpeedOptions): Promise<SpeedResult> {
  const { direction } = options;
  const { session } = peer;
  return measure(
    peer,
    { direction, kind: 'stream', durationMs: options.durationMs },
    options,
    async (run) => {
      const stream = await session.createBidirectionalStream();
      stream.write(encodePreamble(StreamKind.SPEED, encodeSpeedStream(run.test)), null);
      const bulkOptions = {
        stream,
        test: run.test,
        role: 'opener' as const,
        rttMs: () => session.path.rttMs,
      };
      const bulk =
        direction === 'down' ? receiveBulk(bulkOptions) : sendBulk({ ...bulkOptions, maxBytes: MAX_BYTES });
      run.onClose(() => bulk.close(new TunnelError('CANCELLED', 'the speed test is over')));
      run.follow(bulk);
      if (direction === 'down') return takeBulk(bulk, run);
      const figures = await run.finalFigures(PATIENCE_MS);
      return { bytes: figures.bytes, durationMs: figures.ms, lossRatio: run.ownLoss() };
    },
  );
}

/** Datagrams at an even pace. Throws as `measureBulk`. */
export async function measureDatagrams(
  peer: PeerSession,
  options: SpeedOptions & { readonly bitsPerSecond: number; readonly inbox: DatagramInbox },
): Promise<DatagramResult> {
  const { direction, durationMs, bitsPerSecond, inbox } = options;
  const request = { direction, kind: 'datagram' as const, durationMs, bitsPerSecond };
  return measure(peer, request, options, async (run) => {
    if (direction === 'down') {
      const sink = new DatagramSink(run.test);
      inbox.deliverTo(sink);
      run.follow({
        get bytes() {
          return sink.bytes;
        },
        get startedAt() {
          return sink.startedAt;
        },
      });
      const { datagrams: sent } = await run.finalFigures(PATIENCE_MS);
      await wait(LATE_MS, { signal: options.signal });
      const { received, bytes, ms, jitterMs } = sink;
      return { ...datagramFigures(sent, received), bytes, durationMs: ms, jitterMs: roundRtt(jitterMs) };
    }
    const source = sendDatagrams(peer.session, { test: run.test, bitsPerSecond });
    run.onClose(() => source.stop());
    const startedAt = performance.now();
    run.follow({
      startedAt,
      get bytes() {
        return source.bytes;
      },
    });
    await wait(run.durationMs, { signal: run.signal });
    source.stop();
    const { datagrams, bytes, ms, jitterMs } = await run.finalFigures(PATIENCE_MS);
    return {
      ...datagramFigures(source.sent, datagrams),
      bytes,
      durationMs: ms,
      jitterMs: roundRtt(jitterMs),
    };
  });
}

function datagramFigures(sent: number, received: number) {
  return { sent, received, lossRatio: sent === 0 ? undefined : Math.max(0, 1 - received / sent) };
}

async function takeBulk(bulk: Bulk, run: Run) {
  await Promise.race([bulk.ended, run.ended, run.fromFirstByte(bulk)]);
  if (run.signal.aborted) throw cancelled();
  if (bulk.startedAt === undefined) {
    throw (
      run.failure ?? new TunnelError('TIMEOUT', `no byte of the speed test within ${PATIENCE_MS / 1000} s`)
    );
  }
  if (run.failure) throw run.failure;
  const durationMs = performance.now() - bulk.startedAt;
  const { bytes } = bulk;
  return { bytes, durationMs, lossRatio: run.theirLoss() };
}

type Measured<T> = Omit<T, 'bytesPerSecond' | 'rttMs'>;

async function measure<T extends Measured<SpeedResult>>(
  peer: PeerSession,
  request: SpeedRequest,
  options: SpeedOptions,
  work: (run: Run) => Promise<T>,
): Promise<T & Pick<SpeedResult, 'bytesPerSecond' | 'rttMs'>> {
  const run = await Run.start(peer, request, options);
  try {
    const measured = await Promise.race([work(run), run.failed]);
    if (options.signal.aborted) throw cancelled();
    const { bytes, durationMs } = measured;
    return {
      ...measured,
      durationMs: Math.round(durationMs),
      bytesPerSecond: durationMs > 0 ? Math.round((bytes / durationMs) * 1000) : 0,
      rttMs: roundTripFigures(run.rtts),
    };
  } finally {
    run.close();
  }
}

/** A test while it runs: the call that it hangs on, the pings beside it, the progress that is told. */
class Run {
  readonly test: number;
  readonly durationMs: number;
  readonly rtts: number[] = [];
  /** Resolves when the server has ended it. */
  readonly ended: Promise<void>;
  /** Rejects when it fails, never resolves. */
  readonly failed: Promise<never>;
  failure: TunnelError | undefined;
  readonly signal: AbortSignal;
  readonly #controller: AbortController;
  readonly #session: Session;
  readonly #options: SpeedOptions;
  readonly #before: { readonly packetsSent: number; readonly packetsLost: number };
  readonly #closing: (() => void)[] = [];
  #last: SpeedFigures | undefined;

  /** Throws what the peer refuses it with. */
  static async start(peer: PeerSession, request: SpeedRequest, options: SpeedOptions): Promise<Run> {
    const controller = new AbortController();
    const stop = () => controller.abort();
    if (options.signal.aborted) stop();
    options.signal.addEventListener('abort', stop, { once: true });
    const items = peer.rpc.streamingCall(SPEED_METHOD, encodeMessage(request), { signal: controller.signal });
    try {
      const first = await items.next();
      const accepted = decodeAccepted(first.value ?? undefined);
      const run = new Run(peer, accepted, items, controller, options);
      run.onClose(() => options.signal.removeEventListener('abort', stop));
      return run;
    } catch (error) {
      controller.abort();
      options.signal.removeEventListener('abort', stop);
      throw error;
    }
  }

  private constructor(
    peer: PeerSession,
    accepted: { readonly test: number; readonly durationMs: number },
    items: AsyncGenerator<Uint8Array, void>,
    controller: AbortController,
    options: SpeedOptions,
  ) {
    this.test = accepted.test;
    this.durationMs = Math.min(accepted.durationMs, options.durationMs);
    this.signal = controller.signal;
    this.#controller = controller;
    this.#session = peer.session;
    this.#options = options;
    this.#before = peer.session.stats();
    this.ended = this.#readFigures(items);
    this.failed = this.ended.then(() => {
      if (this.failure) throw this.failure;
      return new Promise<never>(() => undefined);
    });
    this.failed.catch(() => undefined);
    void this.#ping(peer);
  }

  onClose(close: () => void): void {
    this.#closing.push(close);
  }

  /** Tells of the progress until it is over. */
  follow(what: { readonly bytes: number; readonly startedAt: number | undefined }): void {
    let before = { bytes: 0, ms: 0 };
    const timer = setInterval(() => {
      if (what.startedAt === undefined) return;
      const ms = performance.now() - what.startedAt;
      const { bytes } = what;
      const bytesPerSecond = Math.max(0, ((bytes - before.bytes) / Math.max(1, ms - before.ms)) * 1000);
      before = { bytes, ms };
      this.#options.onProgress({
        direction: this.#options.direction,
        done: Math.min(1, ms / this.durationMs),
        ms: Math.round(ms),
        bytes,
        bytesPerSecond: Math.round(bytesPerSecond),
      });
    }, PROGRESS_MS);
    this.onClose(() => clearInterval(timer));
  }

  /** Resolves when the time is over, counted from the first byte. */
  async fromFirstByte(bulk: Bulk): Promise<void> {
    const givenUpAt = performance.now() + PATIENCE_MS;
    while (bulk.startedAt === undefined && performance.now() < givenUpAt && !this.signal.aborted)
      await wait(10, { signal: this.signal });
    if (bulk.startedAt !== undefined)
      await wait(bulk.startedAt + this.durationMs - performance.now(), { signal: this.signal });
  }

  /** What the server has counted when it was over there. Throws TIMEOUT. */
  async finalFigures(patienceMs: number): Promise<SpeedFigures> {
    await Promise.race([this.ended, wait(this.durationMs + patienceMs, { signal: this.signal })]);
    if (this.failure) throw this.failure;
    if (this.signal.aborted) throw cancelled();
    if (this.#last?.final) return this.#last;
    throw new TunnelError('TIMEOUT', 'the peer did not tell in time what it has counted');
  }

  /** Of the packets that this side sent meanwhile. */
  ownLoss(): number | undefined {
    const { packetsSent, packetsLost } = this.#session.stats();
    return ratio(packetsLost - this.#before.packetsLost, packetsSent - this.#before.packetsSent);
  }

  /** Of those that the peer sent, as last told. */
  theirLoss(): number | undefined {
    return ratio(this.#last?.packetsLost ?? 0, this.#last?.packetsSent ?? 0);
  }

  close(): void {
    this.#controller.abort();
    for (const close of this.#closing) close();
  }

  async #readFigures(items: AsyncGenerator<Uint8Array, void>): Promise<void> {
    try {
      for await (const item of items) this.#last = decodeFigures(item);
    } catch (error) {
      this.failure = toTunnelError(error);
    }
  }

  async #ping({ rpc }: PeerSession): Promise<void> {
    while (!this.signal.aborted) {
      const startedAt = performance.now();
      try {
        await rpc.call('ping', undefined, { signal: this.signal });
      } catch {
        // The test is over, or the session; whose error is told where it is waited for.
        return;
      }
      const rttMs = performance.now() - startedAt;
      this.rtts.push(roundRtt(rttMs));
      await wait(PING_MS - rttMs, { signal: this.signal });
    }
  }
}

/** The datagrams of a session on which nothing but speed tests uses them. Ends with the session. */
export class DatagramInbox {
  /** The first ones may be here before the call's answer that says which test they are of. */
  #early: [Buffer, number][] = [];
  #sink: DatagramSink | undefined;

  constructor({ session }: PeerSession) {
    void this.#read(session);
  }

  deliverTo(sink: DatagramSink): void {
    this.#sink = sink;
    for (const [datagram, at] of this.#early.splice(0)) sink.accept(datagram, at);
  }

  async #read(session: Session): Promise<void> {
    for await (const batch of session.datagrams.incoming) {
      const now = performance.now();
      for (const datagram of batch) {
        if (datagram[0] !== SPEED_DATAGRAM) continue;
        if (this.#sink) this.#sink.accept(datagram, now);
        else if (this.#early.length < MAX_EARLY) this.#early.push([datagram, now]);
      }
    }
  }
}

function cancelled(): TunnelError {
  return new TunnelError('CANCELLED', 'the speed test was cancelled');
}

function ratio(lost: number, sent: number): number | undefined {
  return sent > 0 ? Math.min(1, Math.max(0, lost / sent)) : undefined;
}
