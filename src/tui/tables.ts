/** The columns of each pane. */
import type { ChannelState, ChannelStatus, SessionStatus, StatusEvent } from '../tunnel/status.js';
import type { Column, Style } from './columns.js';
import {
  bytes,
  clockDuration,
  duration,
  loss,
  rate,
  rateOrIdle,
  roundTrip,
  sparkline,
  timeOfDay,
} from './format.js';
import type { Of, TunnelRow } from './view.js';

const WARNING: Style = { color: 'yellow', bold: true };
const QUIET: Style = { dim: true };
const NAME: Style = { color: 'cyan' };

export interface TableOptions {
  /** Milliseconds since 1970, of the snapshots shown. */
  readonly now: number;
  /** More than one process is shown, so each row says whose it is. */
  readonly several: boolean;
}

export function tunnelColumns({ now, several }: TableOptions): readonly Column<Of<TunnelRow>>[] {
  return [
    { name: 'state', width: 1, priority: 1, cell: (row) => (isUp(row) ? '●' : '◌'), style: stateStyle },
    ...pidColumn<Of<TunnelRow>>(several),
    { name: 'protocol', width: 3, priority: 3, cell: ({ protocol }) => protocol },
    { name: 'route', width: { most: 44 }, priority: 1, cell: route },
    {
      name: 'peer',
      width: { most: 18 },
      priority: 5,
      cell: ({ who }) => (who === '' ? '' : `@ ${who}`),
      style: () => NAME,
    },
    { name: 'open', width: 9, priority: 2, align: 'right', cell: ({ open }) => `${open} open` },
    { name: 'total', width: 11, priority: 8, align: 'right', cell: ({ total }) => `${total} total` },
    { name: 'out', width: 12, priority: 6, align: 'right', cell: ({ rateOut }) => `▲ ${rate(rateOut)}` },
    { name: 'in', width: 12, priority: 4, align: 'right', cell: ({ rateIn }) => `▼ ${rate(rateIn)}` },
    {
      name: 'history',
      width: { least: 15 },
      priority: 7,
      cell: (row, columns) =>
        isUp(row)
          ? sparkline(
              row.history.in.map((value, second) => value + (row.history.out[second] ?? 0)),
              Math.min(columns, 60),
            )
          : downFor(row, now),
      style: (row) => (isUp(row) ? { color: 'green' } : WARNING),
    },
  ];
}

export function peerColumns({ now, several }: TableOptions): readonly Column<Of<SessionStatus>>[] {
  return [
    {
      name: 'state',
      width: 1,
      priority: 1,
      cell: ({ state }) => (state === 'connected' ? '●' : '◌'),
      style: ({ state }) => (state === 'connected' ? { color: 'green' } : WARNING),
    },
    ...pidColumn<Of<SessionStatus>>(several),
    { name: 'peer', width: { most: 16 }, priority: 1, cell: ({ who }) => who, style: () => NAME },
    { name: 'path', width: { most: 15 }, priority: 2, cell: ({ path }) => path ?? '' },
    {
      name: 'remote',
      width: { most: 46 },
      priority: 9,
      cell: ({ remote }) => remote ?? '',
      style: () => QUIET,
    },
    { name: 'rtt', width: 8, priority: 1, align: 'right', cell: ({ rttMs }) => roundTrip(rttMs ?? 0) },
    {
      name: 'loss',
      width: 10,
      priority: 4,
      align: 'right',
      cell: ({ lossRatio }) => loss(lossRatio),
      style: ({ lossRatio }) => ((lossRatio ?? 0) >= 0.01 ? WARNING : QUIET),
    },
    { name: 'out', width: 12, priority: 6, align: 'right', cell: ({ rateOut }) => `▲ ${rate(rateOut)}` },
    { name: 'in', width: 12, priority: 5, align: 'right', cell: ({ rateIn }) => `▼ ${rate(rateIn)}` },
    {
      name: 'theirs',
      width: 26,
      priority: 10,
      cell: ({ theirs }) =>
        theirs ? `theirs ${roundTrip(theirs.rttMs)}  ${loss(theirs.lossRatio)}` : 'theirs not told',
      style: () => QUIET,
    },
    {
      name: 'since',
      width: 7,
      priority: 7,
      align: 'right',
      cell: ({ since }) => duration(now - Date.parse(since)),
    },
  ];
}

/** Of a peer without a session: why, and what happens next. */
export function downColumns({ now, several }: TableOptions): readonly Column<Of<SessionStatus>>[] {
  return [
    { name: 'state', width: 1, priority: 1, cell: () => '◌', style: () => WARNING },
    ...pidColumn<Of<SessionStatus>>(several),
    { name: 'peer', width: { most: 16 }, priority: 1, cell: ({ who }) => who, style: () => NAME },
    {
      name: 'why',
      width: { least: 10 },
      priority: 1,
      cell: ({ state, since, error, nextTryAt, approval }) => {
        if (approval !== undefined) return `waiting for approval ${duration(now - Date.parse(since))}`;
        return `${state} ${duration(now - Date.parse(since))}${error ? `: ${error.message}` : ''}${nextTry(nextTryAt, now)}`;
      },
      style: () => WARNING,
    },
  ];
}

export function channelColumns({ several }: TableOptions): readonly Column<Of<ChannelStatus>>[] {
  return [
    { name: 'id', width: 6, priority: 1, align: 'right', cell: ({ id }) => String(id) },
    ...pidColumn<Of<ChannelStatus>>(several),
    { name: 'service', width: { most: 24 }, priority: 1, cell: ({ service }) => service, style: () => NAME },
    { name: 'peer', width: { most: 16 }, priority: 5, cell: ({ who }) => who },
    {
      name: 'address',
      width: { most: 24 },
      priority: 8,
      cell: ({ client, target }) => client ?? target ?? '',
      style: () => QUIET,
    },
    { name: 'age', width: 8, priority: 6, cell: ({ durationMs }) => clockDuration(durationMs) },
    { name: 'out', width: 9, priority: 4, align: 'right', cell: ({ bytesOut }) => `▲ ${bytes(bytesOut)}` },
    { name: 'in', width: 9, priority: 3, align: 'right', cell: ({ bytesIn }) => `▼ ${bytes(bytesIn)}` },
    {
      name: 'rate',
      width: 10,
      priority: 2,
      align: 'right',
      cell: ({ rateIn, rateOut }) => rateOrIdle(rateIn + rateOut),
      style: ({ rateIn, rateOut }) => (rateIn + rateOut > 0 ? { color: 'green' } : QUIET),
    },
    {
      name: 'state',
      width: { least: 4 },
      priority: 2,
      cell: ({ state }, columns) => (state.length <= columns ? state : (SHORT_STATES[state] ?? state)),
      style: ({ state }) => (state === 'open' ? {} : { color: 'yellow' }),
    },
  ];
}

export function eventColumns({ several }: TableOptions): readonly Column<Of<StatusEvent>>[] {
  return [
    { name: 'time', width: 8, priority: 2, cell: ({ at }) => timeOfDay(at), style: () => QUIET },
    ...pidColumn<Of<StatusEvent>>(several),
    {
      name: 'level',
      width: 1,
      priority: 1,
      cell: ({ level }) => ({ info: ' ', warn: '!', error: '✖' })[level],
      style: levelStyle,
    },
    {
      name: 'peer',
      width: { most: 16 },
      priority: 3,
      cell: ({ who }) => who,
      style: () => NAME,
    },
    {
      name: 'text',
      width: { least: 10 },
      priority: 1,
      cell: ({ text, count }) => (count > 1 ? `${count}× ${text}` : text),
      style: levelStyle,
    },
  ];
}

/** Where the whole state has no room, what matters of it. */
const SHORT_STATES: Readonly<Partial<Record<ChannelState, string>>> = {
  'half-closed (sent EOS)': 'sent EOS',
  'half-closed (got EOS)': 'got EOS',
};

function pidColumn<Row extends { readonly pid: number }>(several: boolean): readonly Column<Row>[] {
  if (!several) return [];
  return [
    {
      name: 'pid',
      width: { most: 8 },
      priority: 4,
      align: 'right',
      cell: ({ pid }) => String(pid),
      style: () => QUIET,
    },
  ];
}

/** The side that is dialled cannot try. */
function nextTry(at: string | undefined, now: number): string {
  if (at === undefined) return '';
  const wait = Date.parse(at) - now;
  return wait > 500 ? `; next try in ${duration(wait + 500)}` : '; trying now';
}

function route({ local, target, service }: TunnelRow): string {
  return local === undefined ? `${service} → ${target ?? ''}` : `${local} → ${service}`;
}

function isUp({ peer, session }: TunnelRow): boolean {
  return peer === undefined || session?.state === 'connected';
}

function downFor({ session }: TunnelRow, now: number): string {
  return session ? `${session.state} ${duration(now - Date.parse(session.since))}` : 'not connected';
}

function stateStyle(row: TunnelRow): Style {
  return isUp(row) ? { color: 'green' } : WARNING;
}

function levelStyle({ level }: StatusEvent): Style {
  return level === 'info' ? {} : level === 'warn' ? { color: 'yellow' } : { color: 'red', bold: true };
}
