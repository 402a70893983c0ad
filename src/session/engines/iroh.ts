/** The `iroh` engine: QUIC by node ID with hole punching, relays and look-ups, through the addon in `native/`. */
import { TunnelError } from '../../error.js';
import type { Identity } from '../identity.js';
import type { NodeId } from '../node-id.js';
import { AsyncQueue } from '../queue.js';
import type { AddressHints, Session } from '../session.js';
import { HANDSHAKES, type HandshakeLimits } from './handshakes.js';
import { ALPN, loadAddon, type Native, translate } from './iroh-library.js';
import {
  type HomeRelay,
  type IrohEndpoint,
  type NearbyNode,
  type NetworkReport,
  NetworkState,
} from './iroh-network.js';
import { IrohSession, type IrohStream, type Routes } from './iroh-session.js';

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
/**
 * QUIC's own 1 acknowledges every other packet, mostly with a packet of its own that wakes the other machine. A
 * question and an answer need two each way. More would slow a connection's start where the window is ten packets.
 */
const ACK_ELICITING_THRESHOLD = 4;
const DATAGRAM_BUFFER = 4 * 1024 * 1024;
const DIAL_TIMEOUT_MS = 15_000;
/** How long the end of sessions may take to reach their peers: the engine says it at once, and again when they ask. */
const GOODBYE_MS = 1000;
/** Where nobody is left who could hear it, or there is no time: until what was said is on its way. */
const SHORT_GOODBYE_MS = 100;
/** What nodes of this program call their service in mDNS, so that they find each other and no strangers. */
const LAN_SERVICE = 'tunnel';

export type Congestion = 'bbr' | 'cubic' | 'newreno';

export interface IrohOptions {
  readonly identity: Identity;
  /** `ip:port` to bind; empty for every interface. */
  readonly bind: readonly string[];
  readonly relay: 'default' | 'none' | readonly string[];
  /** Find and be found through iroh's DNS service. */
  readonly addressLookup: boolean;
  /** Find nodes of the local network by mDNS, and be found if `announce` is set. Off when left out. */
  readonly lan?: {
    readonly announce: boolean;
    /** Shown to everybody on the local network, at most 245 bytes of UTF-8. */
    readonly name?: string | undefined;
  };
  /**
   * Find and be found through the BitTorrent mainline DHT. What is published is public: the relay alone,
   * or this node's addresses too. Off when left out.
   */
  readonly dht?: {
    readonly publish: 'relay' | 'addresses';
    /** `host:port` of the first nodes to ask instead of the public ones. */
    readonly bootstrap?: readonly string[];
  };
  /** PEM certificates that a relay may have beside those of the web's authorities. */
  readonly relayRoots?: string;
  /** Whose guest this endpoint is at relays that are named by URL; they learn who that is. */
  readonly vouchedBy?: Identity;
  readonly congestion?: Congestion;
  /** Others than `HANDSHAKES`. */
  readonly handshakes?: Partial<HandshakeLimits>;
}

/** Throws ENGINE_UNAVAILABLE, PORT_IN_USE or CANNOT_BIND. */
export async function bindIroh(options: IrohOptions): Promise<IrohEndpoint> {
  const native = await loadAddon();
  const events = new Events(native.EventKind);
  try {
    const endpoint = await native.Endpoint.bind({
      secretKey: options.identity.seed(),
      alpn: ALPN,
      bind: [...options.bind],
      relay: typeof options.relay === 'string' ? options.relay : [...options.relay],
      addressLookup: options.addressLookup,
      lan: options.lan === undefined ? 'off' : options.lan.announce ? 'announce' : 'find',
      lanName: options.lan?.name ?? '',
      lanService: LAN_SERVICE,
      dht: options.dht?.publish ?? 'off',
      dhtBootstrap: [...(options.dht?.bootstrap ?? [])],
      relayRoots: options.relayRoots ?? '',
      relayToken: options.vouchedBy ? relayToken(options.vouchedBy, options.identity.nodeId) : '',
      streamReceiveWindow: STREAM_RECEIVE_WINDOW,
      connectionReceiveWindow: CONNECTION_RECEIVE_WINDOW,
      sendWindow: SEND_WINDOW,
      maxStreams: MAX_STREAMS,
      idleTimeoutMs: IDLE_TIMEOUT_MS,
      keepAliveMs: KEEP_ALIVE_MS,
      congestion: options.congestion ?? 'cubic',
      ackElicitingThreshold: ACK_ELICITING_THRESHOLD,
      datagramReceiveBuffer: DATAGRAM_BUFFER,
      datagramSendBuffer: DATAGRAM_BUFFER,
      handshakes: { ...HANDSHAKES, ...options.handshakes },
      onEvents: (batch) => events.deliver(batch),
    });
    return new BoundEndpoint(endpoint, events);
  } catch (error) {
    throw translate(error, 'CANNOT_BIND');
  }
}

/**
 * What lets an endpoint with a key of its own into a relay whose list has `voucher`. It is good for this
 * endpoint only, which proves to the relay that the key is its own.
 */
function relayToken(voucher: Identity, endpoint: NodeId): string {
  const message = Buffer.concat([Buffer.from('tunnel/1 relay guest\0'), Buffer.from(endpoint, 'hex')]);
  return voucher.nodeId + voucher.sign(message).toString('hex');
}

/** Routes the addon's batches to the connections and streams they are about. */
class Events implements Routes {
  readonly connections = new Map<number, IrohSession>();
  readonly streams = new Map<number, IrohStream>();
  readonly incoming = new AsyncQueue<Session>();
  /** Monotonic; when a session ended last. */
  endedAt = Number.NEGATIVE_INFINITY;
  readonly network = new NetworkState();
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
        this.connections.get(id)?.onPath(value as Native.PathChange);
        break;
      case is.CLOSED:
        this.connections.get(id)?.onClosed(value as Native.CloseInfo);
        break;
      case is.NEARBY:
        this.network.onNode(value as Native.Nearby);
        break;
      case is.RELAYS:
        this.network.onRelays(value as Native.HomeRelay[]);
        break;
      case is.CONNECTION:
        this.incoming.push(new IrohSession(value as Native.Connection, this));
        break;
    }
  }
}

class BoundEndpoint implements IrohEndpoint {
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

  get lookupErrors(): { readonly lan?: string; readonly dht?: string } {
    return this.#native.lookupErrors();
  }

  get nearby(): readonly NearbyNode[] {
    return this.#events.network.nearby;
  }

  onNearby(listener: () => void): () => void {
    return this.#events.network.onNearby(listener);
  }

  get homeRelays(): readonly HomeRelay[] {
    return this.#events.network.homeRelays;
  }

  onHomeRelays(listener: () => void): () => void {
    return this.#events.network.onHomeRelays(listener);
  }

  async networkReport(options: { readonly signal?: AbortSignal } = {}): Promise<NetworkReport> {
    const { signal } = options;
    const ended = () => new TunnelError('ABORTED', 'there is no report on the network yet');
    let onAbort: (() => void) | undefined;
    const aborted = new Promise<never>((_resolve, reject) => {
      onAbort = () => reject(ended());
      if (signal?.aborted) onAbort();
      else signal?.addEventListener('abort', onAbort, { once: true });
    });
    try {
      const report = await Promise.race([this.#native.netReport(), aborted]);
      if (report === null) throw ended();
      return report;
    } catch (error) {
      throw translate(error, 'INTERNAL');
    } finally {
      if (onAbort) signal?.removeEventListener('abort', onAbort);
    }
  }

  addAddresses(nodeId: NodeId, hints: AddressHints): void {
    try {
      this.#native.addAddresses(nodeId, { direct: [...hints.direct], relays: [...hints.relays] });
    } catch (error) {
      throw translate(error, 'INTERNAL');
    }
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
