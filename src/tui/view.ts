/** What is on the screen, out of the snapshots of one or many processes. */
import type {
  Approval,
  ChannelSort,
  ChannelStatus,
  SessionStatus,
  StatusEvent,
  StatusSnapshot,
  TunnelStatus,
} from '../tunnel/status.js';
import { shortId } from './format.js';

/** A row knows which process it belongs to, and has a key that stays its own while others come and go. */
export type Of<T> = T & {
  readonly pid: number;
  readonly rowKey: string;
  /** What its peer is called: the name in the peers book, or the short node ID. Empty without a peer. */
  readonly who: string;
};

export interface TunnelRow extends Of<TunnelStatus> {
  /** The state of the link it needs; an exposed service needs none. */
  readonly session: SessionStatus | undefined;
}

export interface View {
  readonly now: number;
  readonly processes: readonly StatusSnapshot[];
  readonly tunnels: readonly TunnelRow[];
  readonly peers: readonly Of<SessionStatus>[];
  readonly channels: readonly Of<ChannelStatus>[];
  /** The open channels that the filter lets through, also those beyond the rows. */
  readonly matching: number;
  readonly open: number;
  readonly closed: readonly Of<ChannelStatus>[];
  readonly events: readonly Of<StatusEvent>[];
  readonly approvals: readonly Of<Approval>[];
}

export function viewOf(
  processes: readonly StatusSnapshot[],
  query: { readonly sort: ChannelSort; readonly reverse: boolean; readonly filter: string },
): View {
  const all = <T extends { readonly peer?: string }>(
    rows: (process: StatusSnapshot) => readonly T[],
    key: (row: T) => string | number,
  ) =>
    processes.flatMap((process) =>
      rows(process).map((row) => ({
        // First, because V8 adds to what it has copied ten times as slowly.
        pid: process.pid,
        rowKey: `${process.pid}/${key(row)}`,
        who: who(process, row.peer),
        ...row,
      })),
    );
  const channels = all(
    ({ channels }) => channels,
    ({ id }) => id,
  );
  const events = all(
    ({ events }) => events,
    ({ seq }) => seq,
  );
  const several = processes.length > 1;
  return {
    now: Math.max(0, ...processes.map(({ at }) => Date.parse(at))),
    processes,
    tunnels: processes.flatMap((process) => tunnelRows(process)),
    peers: all(
      ({ sessions }) => sessions,
      ({ key }) => key,
    ),
    // One process has sorted its own.
    channels: several ? channels.sort(order(query)) : channels,
    matching: sum(processes, ({ matching }) => matching),
    open: sum(processes, ({ totals }) => totals.channelsOpen),
    closed: all(
      ({ closed }) => closed,
      ({ id }) => id,
    ),
    events: several ? events.sort((a, b) => (a.at < b.at ? -1 : a.at > b.at ? 1 : a.seq - b.seq)) : events,
    approvals: all(
      ({ approvals }) => approvals,
      ({ id }) => id,
    ),
  };
}

export function sum<T>(rows: readonly T[], value: (row: T) => number): number {
  return rows.reduce((total, row) => total + value(row), 0);
}

/** A process of an older build tells no names. */
function who({ names = {} }: { readonly names?: Readonly<Record<string, string>> }, peer?: string): string {
  if (peer === undefined) return '';
  return (Object.hasOwn(names, peer) ? names[peer] : undefined) ?? shortId(peer);
}

function tunnelRows(process: StatusSnapshot): readonly TunnelRow[] {
  const { pid, tunnels, sessions } = process;
  return tunnels.map((tunnel) => ({
    ...tunnel,
    pid,
    who: who(process, tunnel.peer),
    rowKey: `${pid}/${tunnel.key}`,
    session: tunnel.peer === undefined ? undefined : sessions.find(({ peer }) => peer === tunnel.peer),
  }));
}

function order({ sort, reverse }: { readonly sort: ChannelSort; readonly reverse: boolean }) {
  const sign = reverse ? -1 : 1;
  return (a: ChannelStatus, b: ChannelStatus) => sign * ORDERS[sort](a, b) || b.id - a.id;
}

const ORDERS: Readonly<Record<ChannelSort, (a: ChannelStatus, b: ChannelStatus) => number>> = {
  rate: (a, b) => b.rateIn + b.rateOut - a.rateIn - a.rateOut,
  bytes: (a, b) => b.bytesIn + b.bytesOut - a.bytesIn - a.bytesOut,
  age: (a, b) => b.durationMs - a.durationMs,
  id: (a, b) => b.id - a.id,
  service: (a, b) => a.service.localeCompare(b.service),
  peer: (a, b) => a.peer.localeCompare(b.peer),
};
