/** Who may connect to an `expose`, for people and for scripts: everyone that is let in, and nobody else. */
import type { ServiceInfo } from '../session/hello.js';
import { EVERY_SERVICE, type PeersBook } from '../tunnel/peers-book.js';
import { includesService } from '../tunnel/policy.js';
import type { TicketRecord } from '../tunnel/ticket-records.js';
import { localTime } from './ticket-text.js';

const MAX_NAMES = 8;

export interface Access {
  /** The ticket that is printed; undefined where it only carries addresses. */
  readonly ticket: TicketRecord | undefined;
  readonly public: boolean;
  readonly ask: boolean;
  /** By name where they have one. */
  readonly allow: readonly string[];
  /** Peers that the book lets reach a service of these. */
  readonly book: readonly string[];
}

/** The names of the peers that the book lets reach any of `services` now. */
export function peersByBook(
  book: PeersBook,
  services: readonly ServiceInfo[],
  now = Date.now(),
): readonly string[] {
  const holds = (set: Iterable<string>, service: ServiceInfo) => {
    const names = new Set(set);
    return includesService(names.has(EVERY_SERVICE) ? 'all' : names, service);
  };
  return [...book]
    .filter(([, { allow, deny }]) => {
      const valid = [...allow]
        .filter(([, until]) => until === undefined || now < until)
        .map(([name]) => name);
      return services.some((service) => holds(valid, service) && !holds(deny, service));
    })
    .map(([name]) => name);
}

/** One thing a line. */
export function accessLines(access: Access): readonly string[] {
  if (access.public) {
    return [
      'ANYONE who learns the node ID, without a ticket and unasked (--public), but whom the peers book denies',
    ];
  }
  const lines = [
    ...(access.ticket ? [ticketLine(access.ticket)] : []),
    ...(access.allow.length > 0 ? [`${list(access.allow)} (--allow)`] : []),
    ...(access.book.length > 0 ? [`${list(access.book)}, to what the peers book lets them reach`] : []),
    'your own machines with this identity',
    'whoever has a ticket of yours for it (tunnel ticket list)',
    access.ask ? 'anyone else whom you let in when asked (--ask)' : 'nobody else',
  ];
  return lines;
}

function ticketLine({ once, pair, expiresAt }: TicketRecord): string {
  const whom = once ? 'the first to use the ticket below' : 'whoever has the ticket below';
  const until = expiresAt === undefined ? '' : ` until ${localTime(expiresAt)}`;
  return `${whom}${until}, so treat it as a password${pair ? '; the first to use it is remembered' : ''}`;
}

/** As scripts are told. */
export function accessJson({ ticket, ...access }: Access): object {
  return { ticket: ticket !== undefined, ...access };
}

function list(names: readonly string[]): string {
  const shown = names.slice(0, MAX_NAMES).join(', ');
  return names.length > MAX_NAMES ? `${shown} and ${names.length - MAX_NAMES} more` : shown;
}
