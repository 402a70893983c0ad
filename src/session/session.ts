/**
 * What an engine provides: sessions, each one connection to one remote node, with streams and
 * datagrams. The names follow W3C WebTransport (https://www.w3.org/TR/webtransport/), so who knows
 * it knows this. Sessions are never pooled: closing one affects no other, and one may die any time.
 */
import type { NodeId } from './node-id.js';

/** How a session ended. `closeCode` and `reason` are the closing side's, also on the other side. */
export interface CloseInfo {
  /** 0 for a plain end; see docs/protocol.md for the numbers. */
  readonly closeCode: number;
  readonly reason: string;
  /**
   * Who or what ended it: this side, the peer, the peer's silence (`timeout`), or the transport
   * under it (`lost`). For the last two `closeCode` is 0 and `reason` is the engine's.
   */
  readonly by: 'local' | 'peer' | 'timeout' | 'lost';
}

export type PathKind = 'iroh-direct' | 'iroh-relay' | 'webtransport-h3' | 'webtransport-h2' | 'memory';

/** How bytes reach the peer now. */
export interface SessionPath {
  readonly kind: PathKind;
  /** `ip:port`, or the relay's URL. */
  readonly remote: string;
  /** Smoothed round trip, milliseconds; 0 before the first measurement. */
  readonly rttMs: number;
}

/** Why a path is taken instead of the one before: that one is gone, or it is there and this one is better. */
export type PathReason = 'first' | 'closed' | 'preferred';

/** A path that the session could take, and what was measured of it. Counters since the path was opened. */
export interface OpenPath extends SessionPath {
  /** This side's IP address, or the relay's URL; empty where it is not known. */
  readonly local: string;
  /** Whether it is the one that is taken now. */
  readonly selected: boolean;
  /** Bytes. */
  readonly congestionWindow: number;
  /** Bytes. */
  readonly mtu: number;
  readonly packetsSent: number;
  readonly packetsLost: number;
  readonly bytesSent: number;
  readonly bytesReceived: number;
}

/** Receives what happens on a stream. Every method is called on the event loop, never re-entrantly from `write`. */
export interface StreamSink {
  /** Bytes in order. The memory is the receiver's to keep. Answer with `consumed` when done with them. */
  data(chunk: Buffer): void;
  /** The peer ended its side cleanly; nothing more comes. */
  end(): void;
  /** The peer abandoned its sending side with this application code. */
  reset(code: number): void;
  /** The peer asked this side to stop sending, with this application code. */
  stopped(code: number): void;
  /** Everything a `write` that answered false left over has been accepted. */
  drain(): void;
  /** The session ended under the stream. Nothing else is called after this. */
  lost(): void;
}

/** The sending half. */
export interface SendStream {
  readonly id: number;
  /**
   * Sends `head` and then `body` as one write; either may be null. The bytes are taken before it
   * returns. False asks the caller to hold back until `drain`; writing on is allowed and queues.
   * Throws `TunnelError` STREAM_CLOSED after `finish`, `reset`, a stop by the peer, or a lost session.
   */
  write(head: Uint8Array | null, body: Uint8Array | null): boolean;
  /**
   * A clean end after everything written and, if given, after `last`: where the engine can, in one packet
   * with it. Idempotent; throws as `write` does where `last` can't be sent. With `late` it may wait some
   * milliseconds for another packet of the session to travel with.
   */
  finish(last?: Uint8Array, when?: 'now' | 'late'): void;
  /** Abandons the sending side at once, also with bytes pending. Idempotent. */
  reset(code: number): void;
  /** The same stream as a platform stream: `close` finishes, `abort` resets. */
  readonly writable: WritableStream<Uint8Array>;
}

/** The receiving half. */
export interface ReceiveStream {
  readonly id: number;
  /**
   * Starts pushing to `sink`, or moves the stream on to another sink. At most the engine's budget
   * of bytes is handed out and not yet given back by `consumed`; beyond it the peer is held.
   */
  receive(sink: StreamSink): void;
  consumed(bytes: number): void;
  /** Asks the peer to stop sending. No more of the sink's data, end or reset is called. Idempotent. */
  stop(code: number): void;
  /** The same stream as a platform stream; `cancel` stops. Excludes `receive`. */
  readonly readable: ReadableStream<Uint8Array>;
}

export interface BidirectionalStream extends SendStream, ReceiveStream {}

/** Unreliable, unordered messages beside the streams. */
export interface Datagrams {
  /** Largest payload now, bytes; 0 where there are none. It changes with the path: read it at each send. */
  readonly maxDatagramSize: number;
  /**
   * Sends in order until the send buffer is full; answers how many were taken, the rest is the
   * caller's to count as lost. The bytes are taken before it returns. Throws TOO_LARGE or UNSUPPORTED,
   * having sent nothing.
   */
  send(datagrams: readonly Uint8Array[]): number;
  /** Batches as they arrived. Ends cleanly with the session. Bounded: the oldest are dropped. */
  readonly incoming: AsyncIterable<readonly Buffer[]>;
}

/** Counters since the session began. */
export interface SessionStats {
  readonly rttMs: number;
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly packetsSent: number;
  readonly packetsLost: number;
  /** Bytes. */
  readonly congestionWindow: number;
  /** Bytes. */
  readonly mtu: number;
}

export interface Session {
  /** The authenticated public key of the other end. */
  readonly remoteId: NodeId;
  readonly role: 'dialler' | 'acceptor';
  readonly ready: Promise<void>;
  /** Never rejects. */
  readonly closed: Promise<CloseInfo>;
  /** Ends the session at once; data in flight is lost. Idempotent. `closeCode` is an unsigned 32-bit number. */
  close(closeCode?: number, reason?: string): void;
  createBidirectionalStream(): Promise<BidirectionalStream>;
  createUnidirectionalStream(): Promise<SendStream>;
  /** Ends cleanly with the session. */
  readonly incomingBidirectionalStreams: AsyncIterable<BidirectionalStream>;
  readonly incomingUnidirectionalStreams: AsyncIterable<ReceiveStream>;
  readonly datagrams: Datagrams;
  readonly maxDatagramSize: number;
  /** Whether datagrams share a stream here: then none is lost on the way, and each waits for those before it. */
  readonly reliableDatagrams: boolean;
  readonly path: SessionPath;
  /** Grows with whatever the peer's program sends; what its transport does by itself does not count. */
  readonly heard: number;
  /** Calls back whenever `path` becomes another one. Answers a function that ends it. */
  onPathChange(listener: (path: SessionPath, previous: SessionPath, reason: PathReason) => void): () => void;
  /** Every path there is at the moment, the selected one among them. Empty once the session has ended. */
  paths(): readonly OpenPath[];
  stats(): SessionStats;
  /**
   * Bytes that are the same at both ends of this session and unknown anywhere else
   * (RFC 5705 on TLS). A signature over them proves a key for this session only.
   */
  exportKeyingMaterial(label: string, length: number): Buffer;
}

/** Where a node can be found, as far as known. */
export interface AddressHints {
  /** `ip:port`, IPv6 in brackets. */
  readonly direct: readonly string[];
  /** Relay URLs. */
  readonly relays: readonly string[];
}

/** One bound endpoint of an engine: dials and accepts sessions under one key. */
export interface Endpoint {
  readonly nodeId: NodeId;
  /** Dials. Throws UNREACHABLE, VERSION, or ABORTED when the signal fires. */
  connect(nodeId: NodeId, hints: AddressHints, options?: { readonly signal?: AbortSignal }): Promise<Session>;
  /** Authenticated sessions dialled by others. Ends when the endpoint closes. */
  readonly incoming: AsyncIterable<Session>;
  /** How this endpoint can be reached, as known now. */
  addresses(): AddressHints;
  /** `ip:port` of each bound socket. */
  boundAddresses(): readonly string[];
  networkChange(): Promise<void>;
  /** Ends its sessions; resolves when their peers may be taken to have heard of it, or soon after the signal. */
  close(options?: { readonly signal?: AbortSignal }): Promise<void>;
}
