/** `tunnel status` in words: a table a process. No React in here. */

import { bytes, duration, loss, rate, roundTrip, shortId } from '../tui/format.js';
import { clean, widthOf } from '../tui/text.js';
import type { SessionStatus, StatusSnapshot, TunnelStatus } from '../tunnel/status.js';

/** `silent` are the pids of those that do not answer. */
export function statusLines(
  processes: readonly StatusSnapshot[],
  silent: readonly number[],
): readonly string[] {
  if (processes.length + silent.length === 0) {
    return ['no tunnel is running; start one with: tunnel expose <port>, or tunnel forward <peer> <port>'];
  }
  const tables = [...processes.map(processLines), silentLines(silent)].filter(({ length }) => length > 0);
  return tables.flatMap((lines, index) => (index === 0 ? lines : ['', ...lines]));
}

/** What hangs, or has been stopped. */
export function silentLines(pids: readonly number[]): readonly string[] {
  return pids.map((pid) => `the process ${pid} does not answer`);
}

function processLines(process: StatusSnapshot): readonly string[] {
  const { pid, command, nodeId, identity, totals } = process;
  const now = Date.parse(process.at);
  const up = duration(now - Date.parse(process.startedAt));
  return [
    `${command} ${pid}  ${shortId(nodeId)} (${clean(identity)})  up ${up}  ▲ ${rate(totals.rateOut)}  ▼ ${rate(totals.rateIn)}`,
    ...align([
      ['', 'TUNNEL', 'ROUTE', 'OPEN', 'TOTAL', '▲ SENT', '▼ RECEIVED'],
      ...process.tunnels.map((tunnel) => [
        '',
        tunnel.protocol,
        route(tunnel, process.names),
        String(tunnel.open),
        String(tunnel.total),
        bytes(tunnel.bytesOut),
        bytes(tunnel.bytesIn),
      ]),
    ]),
    ...waiting(process),
    ...relayed(process),
    ...align([
      ['', 'PEER', 'STATE', 'PATH', 'ADDRESS', 'RTT', 'LOSS', 'MTU', 'WINDOW'],
      ...(process.sessions.length === 0 ? [['', 'nobody', '', '', '', '', '', '', '']] : []),
      ...process.sessions.map((session) => ['', ...sessionCells(session, process)]),
    ]),
  ];
}

function waiting({ approvals, names }: StatusSnapshot): readonly string[] {
  return approvals.map(
    ({ peer, services, from }) =>
      `  ‼ ${peerLabel(names, peer)} waits to be let in to ${clean(services.join(', '))}, from ${clean(from)}: tunnel peers pending`,
  );
}

/** A process of an older build tells no names. */
function peerLabel(names: Readonly<Record<string, string>> | undefined, peer: string): string {
  return names && Object.hasOwn(names, peer) ? clean(names[peer] ?? '') : shortId(peer);
}

function route({ local, target, service, peer }: TunnelStatus, names: StatusSnapshot['names']): string {
  if (local === undefined) return `${service} → ${target ?? ''}`;
  return `${local} → ${service} @ ${peerLabel(names, peer ?? '')}`;
}

function sessionCells(session: SessionStatus, { at, names }: StatusSnapshot): readonly string[] {
  const now = Date.parse(at);
  const state = session.approval === undefined ? session.state : 'waiting for approval';
  const { peer, since, path, remote, rttMs, lossRatio, error } = session;
  const known = [
    peerLabel(names, peer),
    `${state} ${duration(now - Date.parse(since))}${error ? `: ${error.message}` : ''}`,
  ];
  if (session.state !== 'connected') return [...known, '', '', '', '', '', ''];
  return [
    ...known,
    path ?? '',
    remote ?? '',
    roundTrip(rttMs ?? 0),
    loss(lossRatio),
    ...packetCells(session),
  ];
}

function packetCells({ mtu, congestionWindow }: SessionStatus): readonly string[] {
  return [mtu === undefined ? '' : `${mtu} B`, congestionWindow === undefined ? '' : bytes(congestionWindow)];
}

/** Why a peer stays on a relay. */
function relayed({ sessions, names }: StatusSnapshot): readonly string[] {
  return sessions.flatMap(({ peer, relayed: why }) =>
    why ? [`  ! ${peerLabel(names, peer)} ${clean(why.message)} (${clean(why.hint)})`] : [],
  );
}

function align(rows: readonly (readonly string[])[]): readonly string[] {
  const safe = rows.map((row) => row.map(clean));
  const widths = (safe[0] ?? []).map((_, column) =>
    Math.max(...safe.map((row) => widthOf(row[column] ?? ''))),
  );
  return safe.map((row) =>
    row
      .map((cell, column) => cell + ' '.repeat((widths[column] ?? 0) - widthOf(cell)))
      .join('  ')
      .trimEnd(),
  );
}

/** What `tunnel status --json` says of a process. */
export function statusJson(snapshot: StatusSnapshot): object {
  const { pid, command, nodeId, identity, startedAt, sessions, tunnels, channels, totals } = snapshot;
  const { approvals, names } = snapshot;
  return { pid, command, nodeId, identity, startedAt, sessions, tunnels, channels, totals, approvals, names };
}
