/** What a running tunnel reports: the JSON events of the command line are these, with a time. */
import type { TunnelError, TunnelErrorCode } from '../error.js';
import type { NodeId } from '../session/node-id.js';
import type { Drops, FlowTotals } from './flow-counters.js';
import type { Protocol } from './spec.js';

export type SessionState = 'connecting' | 'connected' | 'reconnecting' | 'closed';

/**
 * `expired`: nobody decided in time. `withdrawn`: the peer went away.
 */
export type ApprovalDecision = 'pending' | 'allowed' | 'denied' | 'expired' | 'withdrawn';

export type TunnelEvent =
  | {
      readonly event: 'listening';
      readonly protocol: Protocol;
      readonly local: string;
      readonly peer: NodeId;
      readonly service: string;
    }
  | {
      readonly event: 'session';
      readonly peer: NodeId;
      readonly state: SessionState;
      readonly path?: string;
      readonly rttMs?: number;
      readonly error?: { readonly code: TunnelErrorCode; readonly message: string };
      /** Milliseconds until the next try; only while `reconnecting`. */
      readonly nextTryMs?: number;
      /** Milliseconds without a session; while `reconnecting`, and once `connected` again. */
      readonly downMs?: number;
      /** Connections that wait for the session; only while `reconnecting`. */
      readonly waiting?: number;
      /** What is reached through it; of a forward. */
      readonly services?: readonly string[];
      /** A person at the peer is asked whether to let this side in; only while `connecting`. */
      readonly approval?: 'pending';
    }
  /** A peer asks to be let in, and what became of that. */
  | {
      readonly event: 'approval';
      /** Which question; of this process. */
      readonly id: number;
      readonly peer: NodeId;
      readonly services: readonly string[];
      readonly decision: ApprovalDecision;
      /** Where it comes from: `ip:port`, or the relay's URL. */
      readonly from: string;
    }
  /** A session is back, and every connection that waited for it has gone on or ended. */
  | {
      readonly event: 'resume';
      readonly peer: NodeId;
      readonly services?: readonly string[];
      readonly downMs: number;
      readonly resumed: number;
      readonly lost: number;
    }
  | {
      readonly event: 'path';
      readonly peer: NodeId;
      readonly path: string;
      readonly previous: string;
      readonly rttMs: number;
      /** `ip:port`, or the relay's URL; with the same `path` it is this that has changed. */
      readonly remote: string;
      /** The one before is gone (`closed`), or this one is better (`preferred`). */
      readonly reason: string;
    }
  | {
      readonly event: 'channel.open';
      readonly id: number;
      readonly peer: NodeId;
      readonly service: string;
      readonly protocol: Protocol;
      readonly path: string;
    }
  | {
      readonly event: 'channel.close';
      readonly id: number;
      readonly peer: NodeId;
      readonly service: string;
      readonly protocol: Protocol;
      readonly path: string;
      readonly reason: string;
      /** Bytes received from the peer. */
      readonly bytesIn: number;
      /** Bytes sent to the peer. */
      readonly bytesOut: number;
      readonly durationMs: number;
      /** UDP only, as are the next four: packets from the peer that were passed on. */
      readonly packetsIn?: number;
      /** Packets sent to the peer. */
      readonly packetsOut?: number;
      /** Packets dropped on this side, either way, by reason. */
      readonly dropped?: Drops;
      /** Packets that the peer sent and that did not arrive here; absent where the peer could not be asked. */
      readonly lostIn?: number;
      /** Packets that were sent to the peer and did not arrive there. */
      readonly lostOut?: number;
    }
  /** UDP of one service since the start, at the end of the program. Without `service`: what belonged to none. */
  | ({
      readonly event: 'udp.totals';
      readonly peer?: NodeId;
      readonly service?: string;
      readonly flows: number;
    } & FlowTotals)
  /** A config file was read again, and runs. */
  | {
      readonly event: 'reload';
      readonly file: string;
      /** What is new, gone, and otherwise than before: `expose db`, `forward 127.0.0.1:15432:db @ alice`. */
      readonly added: readonly string[];
      readonly removed: readonly string[];
      readonly changed: readonly string[];
      /** Keys that say something else now, which counts only after a restart. */
      readonly restart: readonly string[];
    }
  /** Something to know that is no error. */
  | {
      readonly event: 'notice';
      readonly code:
        | 'small-socket-buffers'
        | 'udp-not-on-datagrams'
        | 'ticket-not-saved'
        | 'public'
        | 'relayed';
      /** Of `relayed`: `no-udp`, `no-address`, `symmetric-nat` or `unknown`. */
      readonly reason?: string;
      readonly peer?: NodeId;
      readonly message: string;
      readonly hint?: string;
    }
  /** Something failed that did not end the program. */
  | {
      readonly event: 'error';
      readonly code: TunnelErrorCode;
      readonly message: string;
      readonly hint?: string;
    };

export type Report = (event: TunnelEvent) => void;

export function errorEvent(error: TunnelError): TunnelEvent {
  return {
    event: 'error',
    code: error.code,
    message: error.message,
    ...(error.hint === undefined ? {} : { hint: error.hint }),
  };
}
