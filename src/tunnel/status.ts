/**
 * The shape of what a running tunnel shows of itself: immutable snapshots, what they are sampled from,
 * and how a view gets them. Types only, so that a view depends on nothing else.
 *
 * Bytes are integers, rates bytes per second, times ISO-8601 where they are strings and milliseconds
 * where the name says so. `in` is from the peer, `out` is to the peer.
 */
import type { PeerSession } from '../session/handshake.js';

/** The version of the snapshot and of the status socket; it changes when a field changes its meaning. */
export type StatusVersion = 1;

export interface Traffic {
  readonly bytesIn: number;
  readonly bytesOut: number;
  /** Smoothed over about two seconds. */
  readonly rateIn: number;
  readonly rateOut: number;
}

/** Bytes per second of each of the last 60 s, the oldest first; shorter in the first minute. */
export interface History {
  readonly in: readonly number[];
  readonly out: readonly number[];
}

export interface TunnelStatus extends Traffic {
  readonly key: string;
  readonly protocol: string;
  /** `127.0.0.1:15432` as bound; a forward's. */
  readonly local?: string;
  /** `127.0.0.1:5432`; an expose's. */
  readonly target?: string;
  readonly service: string;
  /** The peer that has the service; a forward's. */
  readonly peer?: string;
  readonly open: number;
  readonly total: number;
  readonly history: History;
}

/** What the peer says of the same sessions, by `stats.watch`. In and out are as the peer sees them. */
export interface PeerFigures extends Traffic {
  readonly channels: number;
  readonly path: string;
  readonly rttMs: number;
  /** Packets it sent that were lost, 0 to 1, lately. */
  readonly lossRatio?: number;
}

export interface SessionStatus extends Traffic {
  /** A peer's first row keeps its own when the session becomes another one, or there is none. */
  readonly key: string;
  readonly peer: string;
  readonly state: 'connecting' | 'connected' | 'reconnecting' | 'closed';
  /** When it came into this state. */
  readonly since: string;
  readonly path?: string;
  /** The peer's `ip:port`, or the relay's URL. */
  readonly remote?: string;
  readonly rttMs?: number;
  /** Packets sent that were lost, 0 to 1, lately; absent where the path does not tell. */
  readonly lossRatio?: number;
  /** Of `remote`; absent where that is a name. */
  readonly family?: 'IPv4' | 'IPv6';
  /** Largest packet, bytes; this and the next are absent where the engine does not tell. */
  readonly mtu?: number;
  /** Bytes that may be under way. */
  readonly congestionWindow?: number;
  /** Why it stays on a relay, once that is a while. */
  readonly relayed?: { readonly reason: string; readonly message: string; readonly hint: string };
  /** Open channels with this peer. */
  readonly channels: number;
  /** Why it is not connected. */
  readonly error?: { readonly code: string; readonly message: string };
  readonly nextTryAt?: string;
  /** A person there is asked whether to let this side in. */
  readonly approval?: 'pending';
  readonly theirs?: PeerFigures;
}

export type ChannelState =
  | 'opening'
  | 'open'
  | 'half-closed (sent EOS)'
  | 'half-closed (got EOS)'
  | 'closing'
  | 'detached'
  | 'closed';

export interface ChannelStatus extends Traffic {
  readonly id: number;
  readonly tunnel: string;
  readonly peer: string;
  readonly service: string;
  readonly protocol: string;
  readonly path: string;
  readonly state: ChannelState;
  /** The local application's address, where it came in here. */
  readonly client?: string;
  /** Where it came in. */
  readonly local?: string;
  /** What was dialled here. */
  readonly target?: string;
  readonly durationMs: number;
  /** Bytes sent that the far application has not taken yet. */
  readonly unackedBytes: number;
  /** Bytes. */
  readonly window: number;
  readonly epoch?: number;
  readonly resumes?: number;
  /** Datagrams dropped; of UDP flows. */
  readonly drops?: number;
  /** Why it closed: `eos`, `reset`, …; only of a closed one. */
  readonly reason?: string;
}

export interface Totals extends Traffic {
  readonly channelsOpen: number;
  readonly channelsTotal: number;
}

export interface StatusEvent {
  /** Counts up in one process. */
  readonly seq: number;
  readonly at: string;
  readonly level: 'info' | 'warn' | 'error';
  readonly peer?: string;
  readonly text: string;
  /** How many alike this one stands for. */
  readonly count: number;
}

/** A peer that waits to be let in. */
export interface Approval {
  /** Which question; of this process. */
  readonly id: number;
  readonly peer: string;
  /** What it asks for, the first few: `db`, `dns/udp`. */
  readonly services: readonly string[];
  /** It does not say what it wants, so this is all there is. */
  readonly everything: boolean;
  /** How many services are not among those. */
  readonly more: number;
  /** Where it comes from: `ip:port`, or the relay's URL. */
  readonly from: string;
  readonly since: string;
  /** When it is sent away if nobody decides. */
  readonly until: string;
}

/** Where an expose can be reached: what its tickets say besides the token. */
export interface Reach {
  readonly direct: readonly string[];
  readonly relays: readonly string[];
  readonly webtransport?:
    | readonly { readonly address: string; readonly certificateHash: string }[]
    | undefined;
}

export interface StatusSnapshot {
  readonly version: StatusVersion;
  readonly at: string;
  readonly pid: number;
  readonly command: string;
  readonly nodeId: string;
  readonly identity: string;
  readonly startedAt: string;
  readonly tunnels: readonly TunnelStatus[];
  readonly sessions: readonly SessionStatus[];
  /** Those the query asked for, in its order. */
  readonly channels: readonly ChannelStatus[];
  /** How many open ones the query's filter lets through. */
  readonly matching: number;
  /** The last few that ended, the newest last. */
  readonly closed: readonly ChannelStatus[];
  readonly totals: Totals;
  readonly history: History;
  /** The last ones, the newest last. */
  readonly events: readonly StatusEvent[];
  readonly approvals: readonly Approval[];
  /** Of an expose. */
  readonly reach?: Reach;
  /** What the peers book calls the peers that occur here, by node ID. */
  readonly names: Readonly<Record<string, string>>;
  /** Set once the process has been told to end: until when it waits for its open channels. */
  readonly stoppingUntil?: string;
  /** Set by who reads it from another process that has sent nothing newer for so long, milliseconds. */
  readonly silentMs?: number;
}

export type ChannelSort = 'rate' | 'bytes' | 'age' | 'id' | 'service' | 'peer';

export interface ChannelQuery {
  readonly sort: ChannelSort;
  /** Turns the order of `sort` round. */
  readonly reverse: boolean;
  /** Text that service, peer, address, protocol or state contains; empty lets all through. */
  readonly filter: string;
  /** At most this many rows. */
  readonly limit: number;
}

/** One open channel's counters, read when it is sampled. */
export interface ChannelFigures {
  readonly id: number;
  readonly peer: string;
  readonly service: string;
  readonly protocol: string;
  readonly path: string;
  readonly state: ChannelState;
  readonly client?: string | undefined;
  readonly local?: string | undefined;
  readonly target?: string | undefined;
  readonly bytesIn: number;
  readonly bytesOut: number;
  readonly unackedBytes: number;
  readonly window: number;
  readonly ageMs: number;
  readonly epoch?: number | undefined;
  readonly resumes?: number | undefined;
  readonly drops?: number | undefined;
}

/** What a model is sampled from: the running expose or forward. */
export interface StatusSource {
  channel(id: number): ChannelFigures | undefined;
  sessions(): Iterable<PeerSession>;
  /** Of an expose. */
  readonly reach?: (() => Reach) | undefined;
  /** Resets the channel; false when there is none of that id. */
  resetChannel(id: number): boolean;
  /** Who waits to be let in, the longest first. */
  approvals?(): readonly Approval[];
}

/** Where a view gets its snapshots: one for each process it shows. */
export interface StatusFeed {
  /** The same array until something changed. */
  current(): readonly StatusSnapshot[];
  /** Calls back at most four times a second. Answers what ends it. */
  subscribe(listener: () => void): () => void;
  /** Which channels the coming snapshots are to have. */
  ask(query: ChannelQuery): void;
}

export interface Decision {
  /** The approval's. */
  readonly id: number;
  readonly allowed: boolean;
  /** Written to the peers book. */
  readonly always: boolean;
}

/** What a view may ask a process to do. */
export interface StatusActions {
  /** Answers false when the channel was gone. Throws when the process cannot be asked. */
  resetChannel(pid: number, id: number): Promise<boolean>;
  /**
   * Lets a waiting peer in, or not: this once, or always. Answers false when it does not wait any more.
   * Throws when the process cannot be asked, or cannot write it down.
   */
  decide(pid: number, decision: Decision): Promise<boolean>;
}
