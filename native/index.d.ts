/**
 * The contract of the native addon: iroh's types as JavaScript values, bytes as Buffers.
 *
 * No protocol, no policy and no reconnecting live below this line. Everything that happens on its
 * own (data, ends, incoming streams, path changes) is pushed through one callback per endpoint, in
 * batches: one wake-up of the event loop serves every stream that had something to say. One
 * `uv_async` handle per stream would cost the loop O(streams) on every wake-up.
 */

/**
 * What dials may cost before anybody knows who they are. An address is an IPv4 one, the /64 of an IPv6 one,
 * or, behind a relay, the key. Where a dial may not go on, one of an address that has had its share is
 * refused; others are asked to prove their address (QUIC's Retry), or left unanswered until their next try.
 */
export interface HandshakeLimits {
  /** Of all. Once half of `burst` is used up, an address must be proven first. */
  perSecond: number;
  burst: number;
  /** Of one address that is proven; what is done in the name of one that is not is counted apart. */
  perSecondPerAddress: number;
  burstPerAddress: number;
  /**
   * Beyond the others, for dials from where a connection comes from: its very IP address and port, proven,
   * or its key behind a relay.
   */
  perSecondOfKnown: number;
  burstOfKnown: number;
  /** How old that connection must be. */
  knownAfterMs: number;
  /** Handshakes under way at once, and how long one may take. */
  underWay: number;
  timeoutMs: number;
}

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
  /**
   * mDNS: not at all, to find nodes of the local network, or to be found by them too. Where it cannot
   * be had, `lookupErrors` says why and everything else works.
   */
  lan: 'off' | 'find' | 'announce';
  /** Shown to nodes of the local network and to nobody else, at most 245 bytes; empty for no name. */
  lanName: string;
  /** Nodes of one service find each other, no others: 1 to 15 letters, digits and hyphens. */
  lanService: string;
  /** The mainline DHT: not at all, publishing the home relay only, or IP addresses as well. */
  dht: 'off' | 'relay' | 'addresses';
  /** `host:port` of the DHT's first nodes; empty for the public ones. */
  dhtBootstrap: string[];
  /** Certificates in PEM that a relay may have beside those of the web's authorities; empty for none. */
  relayRoots: string;
  /**
   * Shown to relays named by URL; empty for nothing. A relay of ours takes 64 hex digits of a node ID on its
   * list and 128 of that node's signature of `tunnel/1 relay guest\0` and this endpoint's ID (32 bytes).
   */
  relayToken: string;
  streamReceiveWindow: number;
  connectionReceiveWindow: number;
  sendWindow: number;
  maxStreams: number;
  idleTimeoutMs: number;
  keepAliveMs: number;
  congestion: 'cubic' | 'bbr' | 'newreno';
  /** How many packets the peer may leave unacknowledged, for its `max_ack_delay` (25 ms) at most. */
  ackElicitingThreshold: number;
  datagramReceiveBuffer: number;
  datagramSendBuffer: number;
  handshakes: HandshakeLimits;
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
 * | PATH | connection | `PathChange`: another path is selected | |
 * | CLOSED | connection | `CloseInfo`; the last event of a connection and of all its streams. From then on asking them fails | |
 * | PATH_NOTICE | connection | `PathNotice`: a path was opened or closed | |
 * | NEARBY | 0 | `Nearby`: a node of the local network came, changed or went | |
 * | RELAYS | 0 | `HomeRelay[]`: the home relays changed, or whether they are connected | |
 * | RELAY_ENDED | 0 | why (string) a `RelayServer` ended although nobody closed it | |
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
  readonly PATH_NOTICE: 12;
  readonly NEARBY: 13;
  readonly RELAYS: 14;
  readonly RELAY_ENDED: 15;
};

/** Why a connection ended. `code` and `reason` are the application's when `kind` is `application` or `local`. */
export interface CloseInfo {
  kind: 'local' | 'application' | 'timeout' | 'reset' | 'transport' | 'version' | 'exhausted';
  code: number;
  reason: string;
}

/** A path of a connection, as it is now. */
export interface PathInfo {
  kind: 'direct' | 'relay';
  /** `ip:port` of the peer, or the URL of the relay. */
  remote: string;
  /** This side's IP address, where the system tells it, or the URL of the relay. */
  local?: string;
  /** Whether the application's data takes it. */
  selected: boolean;
  rttMs: number;
  congestionWindow: number;
  mtu: number;
  packetsSent: number;
  /** Without probes for a larger MTU. */
  packetsLost: number;
  bytesSent: number;
  bytesReceived: number;
}

/** The path selected now. `closed`: the one before is gone; `preferred`: it is still there. */
export interface PathChange {
  path: PathInfo;
  reason: 'first' | 'closed' | 'preferred';
}

export interface PathNotice {
  opened: boolean;
  kind: 'direct' | 'relay';
  remote: string;
  local?: string;
}

/** A node of the local network; without addresses when it is `here` no more. */
export interface Nearby {
  nodeId: string;
  here: boolean;
  name?: string;
  direct: string[];
  relays: string[];
}

export interface HomeRelay {
  url: string;
  connected: boolean;
  /** What the last try came to, for people to read. */
  error?: string;
  /** The relay's own words where it does not let this node in. */
  denied?: string;
}

/** What iroh found out about the network with the help of its relays. */
export interface NetworkReport {
  /** A packet to a relay and back, by IPv4 and IPv6. */
  udpV4: boolean;
  udpV6: boolean;
  /** `ip:port` that relays see. */
  publicV4?: string;
  publicV6?: string;
  /** Whether different relays see different addresses (a symmetric NAT); unknown with fewer than two. */
  variesByDestinationV4?: boolean;
  variesByDestinationV6?: boolean;
  captivePortal?: boolean;
  preferredRelay?: string;
  relays: { url: string; probe: 'https' | 'udp4' | 'udp6'; latencyMs: number }[];
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
 * `INVALID_ARGUMENT`, `BIND_FAILED`, `ADDRESS_IN_USE`, `BAD_CERTIFICATE`, `CONNECT_FAILED`, `CONNECT_TIMEOUT`,
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
  /** Why look-ups that were asked for could not be started. */
  lookupErrors(): { lan?: string; dht?: string };
  /** `ip:port` of every bound socket; none once it is closed. */
  boundAddresses(): string[];
  /** What is known now of how to reach this endpoint; grows as iroh learns more. */
  addresses(): { direct: string[]; relays: string[] };
  connect(nodeId: string, hints: { direct: string[]; relays: string[] }): Promise<Connection>;
  /** Tells what is known of a node beside what look-ups find. It adds to what was told before. */
  addAddresses(nodeId: string, hints: { direct: string[]; relays: string[] }): void;
  /** The last report, or the first as soon as there is one; null when the endpoint is closed before. */
  netReport(): Promise<NetworkReport | null>;
  /** Tells iroh that the machine's network changed. */
  networkChange(): Promise<void>;
  /**
   * Closes every connection and the sockets, waiting (bounded) for the close to be sent. The ports are
   * free some milliseconds later, whoever still holds a connection or stream.
   */
  close(): Promise<void>;
}

export class Connection {
  /** Unique within its endpoint. */
  readonly id: number;
  readonly remoteId: string;
  readonly side: 'client' | 'server';
  /**
   * Starts delivering this connection's BIDI, UNI, DATAGRAMS, PATH, PATH_NOTICE and CLOSED events.
   * Nothing arrives before, nothing is lost meanwhile.
   */
  start(): void;
  /**
   * Opens at once, or answers null when the peer's stream limit is reached. Some streams are kept ready:
   * on a connection that is lost, but whose CLOSED has not been delivered, it may still answer one.
   */
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
  /** The selected path. This, `stats` and all that follows throw once the endpoint is closed. */
  path(): PathInfo | null;
  /** Every open path; none once the endpoint is closed. */
  paths(): PathInfo[];
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
   * Takes (copies) every byte of `head` then `body` as one write. Answers 0 where there is no reason to hold
   * back, or the number of bytes that wait for room; then a DRAIN event follows. Throws `STREAM_STOPPED`,
   * `STREAM_CLOSED`, `CONNECTION_LOST`; where that is not known yet, a STOPPED or CLOSED event follows.
   */
  write(head: Uint8Array | null, body: Uint8Array | null): number;
  /**
   * A clean end after everything written, and after `last`, in one packet with it where that fits. One that
   * is `late` goes with the next packet of any stream of the endpoint, or after some milliseconds.
   */
  finish(last: Uint8Array | null, late: boolean): void;
  /** Abandons the sending side, also with a write pending. */
  reset(code: number): void;
  /** Asks the peer to stop sending, also with a read pending. No event of the reading side follows. */
  stop(code: number): void;
}

/** How a relay is run. Addresses are `ip:port`; an empty one is left out. */
export interface RelayOptions {
  /** Where clients connect: HTTP without TLS, HTTPS with it. */
  listen: string;
  tls: 'none' | 'files' | 'acme';
  /** `files`: PEM files, read again once an hour. */
  certificate?: string;
  key?: string;
  /** `acme`: proves the domains by TLS-ALPN-01 on `listen`, which must be reachable as port 443. */
  acmeDomains?: string[];
  /** `mailto:` URLs. */
  acmeContact?: string[];
  /** Where account and certificates are kept. */
  acmeFolder?: string;
  /** URL of the directory. */
  acmeDirectory?: string;
  /** Certificates in PEM that the directory may have beside those of the web's authorities. */
  acmeRoots?: string;
  /** With TLS only: plain HTTP for clients that check for captive portals. */
  http: string;
  /** With TLS only: QUIC address discovery. */
  quic: string;
  /** OpenMetrics over HTTP. */
  metrics: string;
  /** Bytes a second that one client may send; 0 for no limit. */
  clientRate: number;
  /** The only nodes that may use it, with those they vouch for by a `relayToken`; null for all. */
  allowed: string[] | null;
  /** As for an endpoint; RELAY_ENDED is the only event. */
  onEvents(batch: unknown[]): void;
}

/** Counters since the start, and the clients of this moment. */
export interface RelayStats {
  clients: number;
  connections: number;
  bytesReceived: number;
  bytesSent: number;
  packetsReceived: number;
  packetsSent: number;
  packetsDropped: number;
  /** Bytes that waited because their client sent more than it may. */
  bytesLimited: number;
  addressDiscoveries: number;
}

/** iroh's own relay. Like an endpoint, it lives until it is closed. */
export class RelayServer {
  static start(options: RelayOptions): Promise<RelayServer>;
  /** As bound. */
  addresses(): { listen: string; http?: string; quic?: string };
  /** Replaces the list; clients that are not on it are disconnected. */
  setAllowed(nodeIds: string[] | null): void;
  stats(): RelayStats;
  close(): Promise<void>;
}

/** What this build is made of. `sourceHash` covers the crate's sources and lock file. */
export function buildInfo(): { version: string; iroh: string; target: string; sourceHash: string };
