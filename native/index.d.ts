/**
 * The contract of the native addon: iroh's types as JavaScript values, bytes as Buffers.
 *
 * No protocol, no policy and no reconnecting live below this line. Everything that happens on its
 * own (data, ends, incoming streams, path changes) is pushed through one callback per endpoint, in
 * batches: one wake-up of the event loop serves every stream that had something to say. One
 * `uv_async` handle per stream would cost the loop O(streams) on every wake-up.
 */

/** How an endpoint is bound. Sizes are bytes, times milliseconds. */
export interface EndpointOptions {
  /** Ed25519 seed, 32 bytes. Copied; the caller may wipe its own. */
  secretKey: Uint8Array;
  /** The application protocol spoken on every connection of this endpoint. */
  alpn: string;
  /** Local socket addresses such as `127.0.0.1:0`; empty for every interface. */
  bind: string[];
  /** iroh's public relays, none at all, or these URLs instead of the public ones. */
  relay: 'default' | 'none' | string[];
  /** Publish to, and resolve node IDs through, iroh's DNS/pkarr service. */
  addressLookup: boolean;
  streamReceiveWindow: number;
  connectionReceiveWindow: number;
  sendWindow: number;
  maxStreams: number;
  idleTimeoutMs: number;
  keepAliveMs: number;
  congestion: 'cubic' | 'bbr';
  datagramReceiveBuffer: number;
  datagramSendBuffer: number;
  /**
   * Called on the event loop with a flat array of `[kind, id, a, b]` quadruples, in the order the
   * events happened. Never called again once `close()` has resolved.
   */
  onEvents(batch: unknown[]): void;
}

/**
 * The kinds of the quadruples passed to `onEvents`.
 *
 * | kind | id | a | b |
 * |---|---|---|---|
 * | CONNECTION | 0 | `Connection` (incoming, handshake finished) | |
 * | BIDI, UNI | connection | `Stream` opened by the peer | |
 * | DATA | stream | `Buffer`, never empty | |
 * | END | stream | | the peer finished; everything it sent has been delivered |
 * | RESET | stream | code (number): the peer reset its sending side | |
 * | STOPPED | stream | code (number): the peer stopped reading; found by a write | |
 * | DRAIN | stream | | everything `write` had left over is accepted now |
 * | DATAGRAMS | connection | `Buffer[]` | |
 * | PATH | connection | `PathInfo` of the path now selected | |
 * | CLOSED | connection | `CloseInfo`; the last event of a connection and of all its streams | |
 */
export const EventKind: {
  readonly CONNECTION: 1;
  readonly BIDI: 2;
  readonly UNI: 3;
  readonly DATA: 4;
  readonly END: 5;
  readonly RESET: 6;
  readonly STOPPED: 7;
  readonly DRAIN: 8;
  readonly DATAGRAMS: 9;
  readonly PATH: 10;
  readonly CLOSED: 11;
};

/** Why a connection ended. `code` and `reason` are the application's when `kind` is `application` or `local`. */
export interface CloseInfo {
  kind: 'local' | 'application' | 'timeout' | 'reset' | 'transport' | 'version' | 'exhausted';
  code: number;
  reason: string;
}

/** The path a connection's packets take now. */
export interface PathInfo {
  kind: 'direct' | 'relay';
  /** `ip:port` of the peer, or the URL of the relay. */
  remote: string;
  rttMs: number;
}

/** Counters of a connection since it began. */
export interface ConnectionStats {
  rttMs: number;
  bytesSent: number;
  bytesReceived: number;
  packetsSent: number;
  packetsLost: number;
  congestionWindow: number;
  mtu: number;
}

/**
 * Every error thrown or rejected by the addon is an `Error` whose `code` is one of these:
 * `INVALID_ARGUMENT`, `BIND_FAILED`, `ADDRESS_IN_USE`, `CONNECT_FAILED`, `CONNECT_TIMEOUT`,
 * `PROTOCOL_MISMATCH`, `CONNECTION_LOST`, `STREAM_CLOSED`, `STREAM_STOPPED`, `TOO_LARGE`,
 * `UNSUPPORTED`, `CLOSED`, `INTERNAL` (a caught panic). A QUIC application code, where there is one,
 * is in `quicCode`.
 */
export interface NativeError extends Error {
  code: string;
  quicCode?: number;
}

export class Endpoint {
  /** Binds the sockets. Never waits for a relay or a look-up. */
  static bind(options: EndpointOptions): Promise<Endpoint>;
  /** The public key, 64 lowercase hex digits. */
  readonly nodeId: string;
  /** Incoming connections that failed, or were refused in a flood, before they were any. */
  readonly failedHandshakes: number;
  /** `ip:port` of every bound socket. */
  boundAddresses(): string[];
  /** What is known now of how to reach this endpoint; grows as iroh learns more. */
  addresses(): { direct: string[]; relays: string[] };
  connect(nodeId: string, hints: { direct: string[]; relays: string[] }): Promise<Connection>;
  /** Tells iroh that the machine's network changed. */
  networkChange(): Promise<void>;
  /** Closes every connection and the sockets, waiting (bounded) for the close to be sent. */
  close(): Promise<void>;
}

export class Connection {
  /** Unique within its endpoint. */
  readonly id: number;
  readonly remoteId: string;
  readonly side: 'client' | 'server';
  /**
   * Starts delivering this connection's BIDI, UNI, DATAGRAMS, PATH and CLOSED events.
   * Nothing arrives before, nothing is lost meanwhile.
   */
  start(): void;
  /** Opens at once, or answers null when the peer's stream limit is reached. */
  tryOpenBi(): Stream | null;
  openBi(): Promise<Stream>;
  openUni(): Promise<Stream>;
  /**
   * Sends datagrams until one does not fit the send buffer; answers how many were taken.
   * Throws `TOO_LARGE` for one that exceeds `maxDatagramSize`, `UNSUPPORTED` where there are none.
   */
  sendDatagrams(datagrams: Uint8Array[]): number;
  /** Bytes; 0 where the peer takes no datagrams. Changes with the path. */
  maxDatagramSize(): number;
  path(): PathInfo | null;
  stats(): ConnectionStats;
  /** RFC 5705 exporter: the same secret bytes at both ends of this connection and nowhere else. */
  exportKeyingMaterial(label: string, length: number): Buffer;
  /** `code` < 2^53; the reason is cut to what fits one packet by iroh. */
  close(code: number, reason: string): void;
}

export class Stream {
  /** Unique within its endpoint. */
  readonly id: number;
  readonly readable: boolean;
  readonly writable: boolean;
  /**
   * Starts pushing DATA, END and RESET events. At most `budget` bytes are delivered and not yet
   * given back by `consumed`; beyond that the addon keeps up to 64 MiB a connection, and then QUIC's
   * own flow control holds the peer. (noq 1.4.0 gives up a connection on which some 2,000 packets of
   * one stream lie unread, so nothing can be left lying there; quinn issue 2809.)
   */
  start(budget: number): void;
  consumed(bytes: number): void;
  /**
   * Takes every byte of `head` then `body` as one write. Answers 0 when all of it was accepted, or
   * the number of bytes kept (copied) for later; then a DRAIN event follows and the caller should
   * hold back until it does. Throws `STREAM_STOPPED`, `STREAM_CLOSED`, `CONNECTION_LOST`.
   */
  write(head: Uint8Array | null, body: Uint8Array | null): number;
  /** A clean end, after everything written. */
  finish(): void;
  /** Abandons the sending side, also with a write pending. */
  reset(code: number): void;
  /** Asks the peer to stop sending, also with a read pending. No event of the reading side follows. */
  stop(code: number): void;
}

/** What this build is made of. `sourceHash` covers the crate's sources and lock file. */
export function buildInfo(): { version: string; iroh: string; target: string; sourceHash: string };
