/**
 * The `iroh` engine: QUIC by node ID with hole punching and relays, through the addon in `native/`.
 * The only importer of that addon. Its errors are translated here, once.
 */
import type * as Native from '../../../native/index.js';
import { TunnelError, type TunnelErrorCode } from '../../error.js';
import type { Identity } from '../identity.js';
import { isNodeId, type NodeId } from '../node-id.js';
import { AsyncQueue } from '../queue.js';
import type {
  AddressHints,
  BidirectionalStream,
  CloseInfo,
  Datagrams,
  Endpoint,
  ReceiveStream,
  SendStream,
  Session,
  SessionPath,
  SessionStats,
  StreamSink,
} from '../session.js';
import type { SinkSlot } from '../sink-slot.js';
import { StreamBase } from '../web-streams.js';

const ALPN = 'tunnel/1';

/**
 * At most 2 MiB with noq 1.4: its assembler keeps 1,024 chunks of a stream and does not join
 * contiguous ones, so a larger window ends the connection with "too many gaps in stream buffer"
 * although nothing was lost (quinn issue 2809). Raise it when a noq release has the fix.
 */
const STREAM_RECEIVE_WINDOW = 2 * 1024 * 1024;
const CONNECTION_RECEIVE_WINDOW = 16 * 1024 * 1024;
const SEND_WINDOW = 8 * 1024 * 1024;
const MAX_STREAMS = 100_000;
/** A peer that vanished is known after this long; packets of our own keep NATs and this timer alive. */
const IDLE_TIMEOUT_MS = 10_000;
const KEEP_ALIVE_MS = 3_000;
const DATAGRAM_BUFFER = 4 * 1024 * 1024;
/** Bytes of one stream under way between the addon and this side. */
const READ_BUDGET = 1024 * 1024;
const MAX_QUEUED_DATAGRAM_BATCHES = 1024;
const MAX_QUEUED_DATAGRAM_BYTES = 16 * 1024 * 1024;
/** Until somebody asks for them: a peer that has not been admitted yet may send as much as any other. */
const MAX_EARLY_DATAGRAM_BYTES = 256 * 1024;
const DIAL_TIMEOUT_MS = 15_000;
/** How long the end of sessions may take to reach their peers: the engine says it at once, and again when they ask. */
const GOODBYE_MS = 1000;
/** Where nobody is left who could hear it, or there is no time: until what was said is on its way. */
const SHORT_GOODBYE_MS = 100;

export interface IrohOptions {
  readonly identity: Identity;
  /** `ip:port` to bind; empty for every interface. */
  readonly bind: readonly string[];
  readonly relay: 'default' | 'none' | readonly string[];
  /** Find and be found through iroh's DNS service. */
  readonly addressLookup: boolean;
}

/** Throws ENGINE_UNAVAILABLE, PORT_IN_USE or CANNOT_BIND. */
export async function bindIroh(options: IrohOptions): Promise<Endpoint> {
  const native = await loadAddon();
  const events = new Events(native.EventKind);
  try {
    const endpoint = await native.Endpoint.bind({
      secretKey: options.identity.seed(),
      alpn: ALPN,
      bind: [...options.bind],
      relay: typeof options.relay === 'string' ? options.relay : [...options.relay],
      addressLookup: options.addressLookup,
      streamReceiveWindow: STREAM_RECEIVE_WINDOW,
      connectionReceiveWindow: CONNECTION_RECEIVE_WINDOW,
      sendWindow: SEND_WINDOW,
      maxStreams: MAX_STREAMS,
      idleTimeoutMs: IDLE_TIMEOUT_MS,
      keepAliveMs: KEEP_ALIVE_MS,
      congestion: 'cubic',
      datagramReceiveBuffer: DATAGRAM_BUFFER,
      datagramSendBuffer: DATAGRAM_BUFFER,
      onEvents: (batch) => events.deliver(batch),
    });
    return new IrohEndpoint(endpoint, events);
  } catch (error) {
    throw translate(error, 'CANNOT_BIND');
  }
}

async function loadAddon(): Promise<typeof Native> {
  try {
    return await import('../../../native/index.js');
  } catch (error) {
    throw new TunnelError('ENGINE_UNAVAILABLE', (error as Error).message, {
      hint: "run 'npm run build:native' with Rust 1.91 or newer installed",
      cause: error,
    });
  }
}

/** Routes the addon's batches to the connections and streams they are about. */
class Events {
  readonly connections = new Map<number, IrohSession>();
  readonly streams = new Map<number, IrohStream>();
  readonly incoming = new AsyncQueue<Session>();
  /** Monotonic; when a session ended last. */
  endedAt = Number.NEGATIVE_INFINITY;
  readonly #kind: typeof Native.EventKind;

  constructor(kind: typeof Native.EventKind) {
    this.#kind = kind;
  }

  deliver(batch: unknown[]): void {
    for (let i = 0; i < batch.length; i += 4) {
      this.#one(batch[i] as number, batch[i + 1] as number, batch[i + 2]);
    }
  }

  #one(kind: number, id: number, value: unknown): void {
    const is = this.#kind;
    switch (kind) {
      case is.DATA:
        this.streams.get(id)?.onData(value as Buffer);
        break;
      case is.DRAIN:
        this.streams.get(id)?.sinks.drain();
        break;
      case is.END:
        this.streams.get(id)?.onReadEnd((sinks) => sinks.end());
        break;
      case is.RESET:
        this.streams.get(id)?.onReadEnd((sinks) => sinks.reset(value as number));
        break;
      case is.STOPPED:
        this.streams.get(id)?.onStopped(value as number);
        break;
      case is.BIDI:
        this.connections.get(id)?.onStream(value as Native.Stream);
        break;
      case is.UNI:
        this.connections.get(id)?.onUnidirectionalStream(value as Native.Stream);
        break;
      case is.DATAGRAMS:
        this.connections.get(id)?.onDatagrams(value as Buffer[]);
        break;
      case is.PATH:
        this.connections.get(id)?.onPath(value as Native.PathInfo);
        break;
      case is.CLOSED:
        this.connections.get(id)?.onClosed(value as Native.CloseInfo);
        break;
      case is.CONNECTION:
        this.incoming.push(new IrohSession(value as Native.Connection, this));
        break;
    }
  }
}

class IrohEndpoint implements Endpoint {
  readonly nodeId: NodeId;
  readonly #native: Native.Endpoint;
  readonly #events: Events;

  constructor(endpoint: Native.Endpoint, events: Events) {
    this.#native = endpoint;
    this.#events = events;
    this.nodeId = endpoint.nodeId as NodeId;
  }

  get incoming(): AsyncIterable<Session> {
    return this.#events.incoming;
  }

  async connect(
    nodeId: NodeId,
    hints: AddressHints,
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<Session> {
    const dialling = this.#native
      .connect(nodeId, { direct: [...hints.direct], relays: [...hints.relays] })
      .catch((error: unknown) => {
        throw translate(error, 'UNREACHABLE');
      });
    const connection = await abandonable(dialling, options.signal, (late) => late.close(0, ''));
    return new IrohSession(connection, this.#events);
  }

  addresses(): AddressHints {
    return this.#native.addresses();
  }

  boundAddresses(): readonly string[] {
    return this.#native.boundAddresses();
  }

  async networkChange(): Promise<void> {
    await this.#native.networkChange();
  }

  async close({ signal }: { readonly signal?: AbortSignal } = {}): Promise<void> {
    const { connections, endedAt } = this.#events;
    const heard = connections.size > 0 || performance.now() - endedAt < GOODBYE_MS;
    this.#events.incoming.end();
    await goodbye(this.#native.close(), heard ? GOODBYE_MS : SHORT_GOODBYE_MS, signal);
    // CLOSED events may not be delivered any more once the endpoint is gone.
    for (const session of this.#events.connections.values()) {
      session.onClosed({ kind: 'local', code: 0, reason: '' });
    }
  }
}

/** Waits for the engine's own end, but not longer than that, and hardly any longer once the signal has fired. */
async function goodbye(closing: Promise<void>, longestMs: number, signal?: AbortSignal): Promise<void> {
  const timers: NodeJS.Timeout[] = [];
  const late = new Promise<void>((resolve) => {
    const hurry = () => timers.push(setTimeout(resolve, SHORT_GOODBYE_MS));
    timers.push(setTimeout(resolve, longestMs));
    if (signal?.aborted) hurry();
    else signal?.addEventListener('abort', hurry, { once: true });
  });
  await Promise.race([closing, late]);
  for (const timer of timers) clearTimeout(timer);
  closing.catch(() => undefined);
}

/** Waits for a dial, but not longer than the signal or the timeout; a connection that comes later is let go. */
async function abandonable(
  dialling: Promise<Native.Connection>,
  signal: AbortSignal | undefined,
  release: (late: Native.Connection) => void,
): Promise<Native.Connection> {
  let give: ((error: TunnelError) => void) | undefined;
  const given = new Promise<never>((_resolve, reject) => {
    give = reject;
  });
  const onAbort = () => give?.(new TunnelError('ABORTED', 'dialling was cancelled'));
  const timer = setTimeout(
    () => give?.(new TunnelError('UNREACHABLE', `no answer within ${DIAL_TIMEOUT_MS / 1000} s`)),
    DIAL_TIMEOUT_MS,
  );
  if (signal?.aborted) onAbort();
  else signal?.addEventListener('abort', onAbort, { once: true });
  try {
    return await Promise.race([dialling, given]);
  } catch (error) {
    dialling.then(release, () => undefined);
    throw error;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
  }
}

class IrohSession implements Session {
  readonly remoteId: NodeId;
  readonly role: 'dialler' | 'acceptor';
  readonly ready = Promise.resolve();
  readonly closed: Promise<CloseInfo>;
  readonly incomingBidirectionalStreams = new AsyncQueue<BidirectionalStream>();
  readonly incomingUnidirectionalStreams = new AsyncQueue<ReceiveStream>();
  readonly datagrams: Datagrams;
  readonly reliableDatagrams = false;
  readonly #native: Native.Connection;
  readonly #events: Events;
  readonly #streams = new Set<IrohStream>();
  readonly #incomingDatagrams = new AsyncQueue<readonly Buffer[]>();
  /** Bytes of each batch that waits. */
  readonly #datagramSizes: number[] = [];
  #datagramBytes = 0;
  #datagramsWanted = false;
  readonly #pathListeners = new Set<(path: SessionPath, previous: SessionPath) => void>();
  readonly #resolveClosed: (info: CloseInfo) => void;
  heard = 0;
  #path: SessionPath;
  #ended = false;

  constructor(connection: Native.Connection, events: Events) {
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
    const incoming = {
      [Symbol.asyncIterator]: () => {
        this.#datagramsWanted = true;
        return this.#incomingDatagrams[Symbol.asyncIterator]();
      },
    };
    this.datagrams = {
      get maxDatagramSize() {
        return native.maxDatagramSize();
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
    return this.#native.maxDatagramSize();
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

  onPathChange(listener: (path: SessionPath, previous: SessionPath) => void): () => void {
    this.#pathListeners.add(listener);
    return () => this.#pathListeners.delete(listener);
  }

  stats(): SessionStats {
    return this.#native.stats();
  }

  exportKeyingMaterial(label: string, length: number): Buffer {
    return this.#native.exportKeyingMaterial(label, length);
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

  onPath(info: Native.PathInfo): void {
    const path = toPath(info);
    const previous = this.#path;
    this.#path = path;
    if (previous.kind === path.kind && previous.remote === path.remote) return;
    for (const listener of this.#pathListeners) listener(path, previous);
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

class IrohStream extends StreamBase {
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
      // A stop of an idle stream is only found by a write.
      if (code === 'STREAM_STOPPED' && this.#writing) queueMicrotask(() => this.onStopped(quicCode ?? 0));
      throw new TunnelError('STREAM_CLOSED', (error as Error).message, { cause: error });
    }
  }

  finish(): void {
    if (!this.#writing) return;
    quietly(() => this.#native.finish());
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

/** Ending what has ended is no error; the connection may be gone before its CLOSED event is here. */
function quietly(end: () => void): void {
  try {
    end();
  } catch (error) {
    const { code } = error as Native.NativeError;
    if (code !== 'CONNECTION_LOST' && code !== 'STREAM_CLOSED' && code !== 'STREAM_STOPPED') {
      throw translate(error, 'INTERNAL');
    }
  }
}

function toPath(info: Native.PathInfo | null): SessionPath {
  if (!info) return { kind: 'iroh-direct', remote: '', rttMs: 0 };
  return {
    kind: info.kind === 'direct' ? 'iroh-direct' : 'iroh-relay',
    remote: info.remote,
    rttMs: info.rttMs,
  };
}

const CODES: Readonly<Record<string, TunnelErrorCode>> = {
  ADDRESS_IN_USE: 'PORT_IN_USE',
  BIND_FAILED: 'CANNOT_BIND',
  CONNECT_FAILED: 'UNREACHABLE',
  CONNECT_TIMEOUT: 'UNREACHABLE',
  CONNECTION_LOST: 'SESSION_LOST',
  CLOSED: 'SESSION_LOST',
  STREAM_CLOSED: 'STREAM_CLOSED',
  STREAM_STOPPED: 'STREAM_CLOSED',
  TOO_LARGE: 'TOO_LARGE',
  UNSUPPORTED: 'UNSUPPORTED',
  INTERNAL: 'INTERNAL',
};

function translate(error: unknown, fallback: TunnelErrorCode): TunnelError {
  if (error instanceof TunnelError) return error;
  const { code, message } = error as Native.NativeError;
  if (code === 'PROTOCOL_MISMATCH') {
    // TLS does not say what the other side would have spoken; HELLO does where the major version is shared.
    return new TunnelError('VERSION', `the peer does not speak ${ALPN}, the protocol of this program`, {
      hint: 'install the same version of tunnel on both machines',
      cause: error,
    });
  }
  return new TunnelError(CODES[code] ?? fallback, message, { cause: error });
}
