/** What people and scripts are told of tickets. Never a token, nor its hash. */

import { shortNodeId } from '../session/node-id.js';
import { clean } from '../tui/text.js';
import { type TicketRecord, ticketState } from '../tunnel/ticket-records.js';

/** What is in the list as JSON. */
export function ticketJson(record: TicketRecord): object {
  const {
    id,
    label,
    services,
    createdAt,
    expiresAt,
    once,
    pair,
    purpose,
    revokedAt,
    redeemedBy,
    pairedWith,
  } = record;
  return {
    id,
    ...(label === undefined ? {} : { label }),
    services,
    state: ticketState(record, Date.now()),
    once,
    pair,
    madeBy: purpose === undefined ? 'ticket create' : 'expose',
    createdAt,
    ...(expiresAt === undefined ? {} : { expiresAt }),
    ...(revokedAt === undefined ? {} : { revokedAt }),
    ...(redeemedBy === undefined ? {} : { redeemedBy: { peer: redeemedBy.peer, at: redeemedBy.at } }),
    ...(pairedWith === undefined ? {} : { pairedWith: pairedWith.peer }),
  };
}

export function ticketTable(records: readonly TicketRecord[]): readonly (readonly string[])[] {
  return [
    ['ID', 'NAME', 'OPENS', 'STATE', 'EXPIRES', 'KIND', 'USED BY'],
    ...records.map((record) => [
      record.id,
      record.label ?? (record.purpose === undefined ? '' : '(of expose)'),
      opens(record),
      ticketState(record, Date.now()),
      record.expiresAt === undefined ? 'never' : localTime(record.expiresAt),
      [record.once ? 'once' : '', record.pair ? 'pair' : ''].filter(Boolean).join(' '),
      usedBy(record),
    ]),
  ];
}

/** `db, dns/udp`, or `every service`. */
export function opens({ services }: TicketRecord): string {
  return services === 'all' ? 'every service' : services.map((one) => one.replace(/\/tcp$/, '')).join(', ');
}

/** How long and for whom: `until 2026-11-25 15:10, for the first to use it, who is remembered`. */
export function termsOf({ expiresAt, once, pair }: TicketRecord): string {
  const until = expiresAt === undefined ? 'until it is revoked' : `until ${localTime(expiresAt)}`;
  const whom = once ? ', for the first to use it' : '';
  const paired = once ? ', who is remembered' : ', and the first to use it is remembered';
  return `${until}${whom}${pair ? paired : ''}`;
}

/** Columns under each other. */
export function columns(rows: readonly (readonly string[])[]): readonly string[] {
  const safe = rows.map((row) => row.map(clean));
  const widths = (safe[0] ?? []).map((_, column) => Math.max(...safe.map((row) => row[column]?.length ?? 0)));
  return safe.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  );
}

function usedBy({ redeemedBy, pairedWith }: TicketRecord): string {
  const peer = redeemedBy?.peer ?? pairedWith?.peer;
  return peer === undefined ? '' : shortNodeId(peer);
}

/** `2026-11-25 15:10`, on this machine's clock. */
export function localTime(iso: string): string {
  const at = new Date(iso);
  const two = (value: number) => String(value).padStart(2, '0');
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())}`;
}
