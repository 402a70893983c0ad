/** A session and a stream of the `iroh` engine. */
import { TunnelError } from '../../error.js';
import { isNodeId, type NodeId } from '../node-id.js';
import { AsyncQueue } from '../queue.js';
import type {
  BidirectionalStream,
  CloseInfo,
  Datagrams,
  OpenPath,
  PathReason,
  ReceiveStream,
  SendStream,
  Session,
  SessionPath,
  SessionStats,
  StreamSink,
} from '../session.js';
import type { SinkSlot } from '../sink-slot.js';
import { StreamBase } from '../web-streams.js';
import { type Native, quietly, translate } from './iroh-library.js';

/** Bytes of one stream under way between the addon and this side. */
const READ_BUDGET = 1024 * 1024;
const MAX_QUEUED_DATAGRAM_BATCHES = 1024;
const MAX_QUEUED_DATAGRAM_BYTES = 16 * 1024 * 1024;
/** Until somebody asks for them: a peer that has not been admitted yet may send as much as any other. */
const MAX_EARLY_DATAGRAM_BYTES = 256 * 1024;

/** Who the addon's events are about, by its numbers. */
export interface Routes {
  readonly connections: Map<number, IrohSession>;
  readonly streams: Map<number, IrohStream>;
  /** Monotonic; when a session ended last. */
  endedAt: number;
}

type PathListener = (path: SessionPath, previous: SessionPath, reason: PathReason) => void;

const NO_STATS: SessionStats = {
  rttMs: 0,
  bytesSent: 0,
  bytesReceived: 0,
  packetsSent: 0,
  packetsLost: 0,
  congestionWindow: 0,
  mtu: 0,
};

export class IrohSession implements Session {
  readonly remoteId: NodeId;
  readonly role: 'dialler' | 'acceptor';
  readonly ready = Promise.resolve();
  readonly closed: Promise<CloseInfo>;
  readonly incomingBidirectionalStreams = new AsyncQueue<BidirectionalStream>();
  readonly incomingUnidirectionalStreams = new AsyncQueue<ReceiveStream>();
  readonly datagrams: Datagrams;
  readonly reliableDatagrams = false;
  readonly #native: Native.Connection;
  readonly #events: Routes;
  readonly #streams = new Set<IrohStream>();
  readonly #incomingDatagrams = new AsyncQueue<readonly Buffer[]>();
  /** Bytes of each batch that waits. */
  readonly #datagramSizes: number[] = [];
  #datagramBytes = 0;
  #datagramsWanted = false;
  readonly #pathListeners = new Set<PathListener>();
  readonly #resolveClosed: (info: CloseInfo) => void;
  heard = 0;
  #path: SessionPath;
  #stats: SessionStats = NO_STATS;
  #maxDatagramSize = 0;
  #ended = false;

  constructor(connection: Native.Connection, events: Routes) {
    this.#native = connection;
    this.#events = events;
    if (!isNodeId(connection.remoteId)) throw new TunnelError('INTERNAL', 'the engine named no node ID');
    this.remoteId = connection.remoteId;
    this.role = connection.side === 'client' ? 'dialler' : 'acceptor';
    let resolve!: (info: CloseInfo) => void;
    this.closed = new Promise((r) => {
      resolve = r;
    });
    this.#resolveClosed = resolve;
    const native = connection;
    const maxDatagramSize = () => this.maxDatagramSize;
    const incoming = {
      [Symbol.asyncIterator]: () => {
        this.#datagramsWanted = true;
        return this.#incomingDatagrams[Symbol.asyncIterator]();
      },
    };
    this.datagrams = {
      get maxDatagramSize() {
        return maxDatagramSize();
      },
      incoming,
      send(datagrams) {
        try {
          return native.sendDatagrams(datagrams as Uint8Array[]);
        } catch (error) {
          throw translate(error, 'INTERNAL');
        }
      },
    };
    this.#path = toPath(connection.path());
    events.connections.set(connection.id, this);
    connection.start();
  }

  get maxDatagramSize(): number {
    if (!this.#ended) this.#maxDatagramSize = this.#native.maxDatagramSize();
    return this.#maxDatagramSize;
  }

  /** Kind and address are those of the last path event; the RTT is asked for when it is read, which costs a call. */
  get path(): SessionPath {
    const { kind, remote, rttMs } = this.#path;
    const native = this.#ended ? undefined : this.#native;
    return {
      kind,
      remote,
      get rttMs() {
        return native?.path()?.rttMs ?? rttMs;
      },
    };
  }

  close(closeCode = 0, reason = ''): void {
    if (this.#ended) return;
    this.#native.close(closeCode, reason);
    this.#end({ closeCode, reason, by: 'local' });
  }

  async createBidirectionalStream(): Promise<BidirectionalStream> {
    // The addon may have streams ready that it has not heard the end of.
    if (this.#ended) throw new TunnelError('SESSION_LOST', 'the session has ended');
    try {
      return this.adopt(this.#native.tryOpenBi() ?? (await this.#native.openBi()));
    } catch (error) {
      throw translate(error, 'SESSION_LOST');
    }
  }

  async createUnidirectionalStream(): Promise<SendStream> {
    try {
      return this.adopt(await this.#native.openUni());
    } catch (error) {
      throw translate(error, 'SESSION_LOST');
    }
  }

  paths(): readonly OpenPath[] {
    if (this.#ended) return [];
    return this.#native
      .paths()
      .map(({ local, ...path }) => ({ ...path, ...toPath(path), local: local ?? '' }));
  }

  onPathChange(listener: PathListener): () => void {
    this.#pathListeners.add(listener);
    return () => this.#pathListeners.delete(listener);
  }

  stats(): SessionStats {
    if (!this.#ended) this.#stats = this.#native.stats();
    return this.#stats;
  }

  exportKeyingMaterial(label: string, length: number): Buffer {
    try {
      return this.#native.exportKeyingMaterial(label, length);
    } catch (error) {
      throw translate(error, 'INTERNAL');
    }
  }

  // ---- from the addon

  adopt(native: Native.Stream): IrohStream {
    const stream = new IrohStream(native, this);
    this.#streams.add(stream);
    this.#events.streams.set(native.id, stream);
    return stream;
  }

  forget(stream: IrohStream): void {
    this.#streams.delete(stream);
    this.#events.streams.delete(stream.id);
  }

  onStream(native: Native.Stream): void {
    this.incomingBidirectionalStreams.push(this.adopt(native));
  }

  onUnidirectionalStream(native: Native.Stream): void {
    this.incomingUnidirectionalStreams.push(this.adopt(native));
  }

  onDatagrams(batch: readonly Buffer[]): void {
    this.heard += 1;
    this.#incomingDatagrams.push(batch);
    if (this.#incomingDatagrams.length > 0) this.#boundDatagrams(batch);
  }

  /** `batch` was not taken at once. Drops the oldest beyond the bounds. */
  #boundDatagrams(batch: readonly Buffer[]): void {
    const queue = this.#incomingDatagrams;
    const sizes = this.#datagramSizes;
    const size = batch.reduce((sum, { length }) => sum + length, 0);
    sizes.push(size);
    this.#datagramBytes += size;
    const limit = this.#datagramsWanted ? MAX_QUEUED_DATAGRAM_BYTES : MAX_EARLY_DATAGRAM_BYTES;
    for (;;) {
      while (sizes.length > queue.length) this.#datagramBytes -= sizes.shift() as number;
      if (queue.length <= MAX_QUEUED_DATAGRAM_BATCHES && this.#datagramBytes <= limit) return;
      queue.shift();
    }
  }

  onPath({ path: info, reason }: Native.PathChange): void {
    const path = toPath(info);
    const previous = this.#path;
    this.#path = path;
    if (previous.kind === path.kind && previous.remote === path.remote) return;
    for (const listener of this.#pathListeners) listener(path, previous, reason);
  }

  onClosed(info: Native.CloseInfo): void {
    const by = BY_KIND[info.kind];
    this.#end({
      closeCode: by === 'peer' ? info.code : 0,
      reason: info.reason || info.kind,
      by,
    });
  }

  #end(info: CloseInfo): void {
    if (this.#ended) return;
    // The last word on it: the addon lets go of a connection once this event has been seen.
    quietly(() => [this.stats(), this.maxDatagramSize]);
    this.#ended = true;
    this.#events.endedAt = performance.now();
    this.#events.connections.delete(this.#native.id);
    for (const stream of this.#streams) {
      this.#events.streams.delete(stream.id);
      stream.sinks.lost();
    }
    this.#streams.clear();
    this.incomingBidirectionalStreams.end();
    this.incomingUnidirectionalStreams.end();
    this.#incomingDatagrams.end();
    this.#pathListeners.clear();
    this.#resolveClosed(info);
  }
}

const BY_KIND = {
  local: 'local',
  application: 'peer',
  timeout: 'timeout',
  reset: 'lost',
  transport: 'lost',
  version: 'lost',
  exhausted: 'lost',
} as const satisfies Record<Native.CloseInfo['kind'], CloseInfo['by']>;

export class IrohStream extends StreamBase {
  readonly id: number;
  readonly #native: Native.Stream;
  readonly #session: IrohSession;
  #reading: boolean;
  #writing: boolean;

  constructor(native: Native.Stream, session: IrohSession) {
    super();
    this.id = native.id;
    this.#native = native;
    this.#session = session;
    this.#reading = native.readable;
    this.#writing = native.writable;
  }

  receive(sink: StreamSink): void {
    if (this.sinks.setSink(sink) && this.#reading) this.#native.start(READ_BUDGET);
  }

  consumed(bytes: number): void {
    if (this.#reading) quietly(() => this.#native.consumed(bytes));
  }

  write(head: Uint8Array | null, body: Uint8Array | null): boolean {
    try {
      return this.#native.write(head, body) === 0;
    } catch (error) {
      const { code, quicCode } = error as Native.NativeError;
      // Its event may still be on the way.
      if (code === 'STREAM_STOPPED' && this.#writing) queueMicrotask(() => this.onStopped(quicCode ?? 0));
      throw new TunnelError('STREAM_CLOSED', (error as Error).message, { cause: error });
    }
  }

  finish(last?: Uint8Array, when: 'now' | 'late' = 'now'): void {
    if (!this.#writing) return;
    quietly(() => this.#native.finish(last ?? null, when === 'late'));
    this.#endWriting();
  }

  reset(code: number): void {
    // Also after `finish`: what was finished but not yet delivered is abandoned then.
    quietly(() => this.#native.reset(code));
    this.#endWriting();
  }

  stop(code: number): void {
    if (!this.#reading) return;
    quietly(() => this.#native.stop(code));
    this.#endReading();
  }

  // ---- from the addon

  onData(chunk: Buffer): void {
    this.#session.heard += 1;
    if (this.#reading) this.sinks.data(chunk);
  }

  onReadEnd(tell: (sinks: SinkSlot) => void): void {
    if (!this.#reading) return;
    this.#endReading();
    tell(this.sinks);
  }

  onStopped(code: number): void {
    if (!this.#writing) return;
    this.#endWriting();
    this.sinks.stopped(code);
  }

  #endReading(): void {
    this.#reading = false;
    if (!this.#writing) this.#session.forget(this);
  }

  #endWriting(): void {
    this.#writing = false;
    if (!this.#reading) this.#session.forget(this);
  }
}

function toPath(info: Pick<Native.PathInfo, 'kind' | 'remote' | 'rttMs'> | null): SessionPath {
  if (!info) return { kind: 'iroh-direct', remote: '', rttMs: 0 };
  return {
    kind: info.kind === 'direct' ? 'iroh-direct' : 'iroh-relay',
    remote: info.remote,
    rttMs: info.rttMs,
  };
}
