/** Who may connect to an `expose`, for people and for scripts: everyone that is let in, and nobody else. */
import type { ServiceInfo } from '../session/hello.js';
import { EVERY_SERVICE, type PeersBook } from '../tunnel/peers-book.js';
import { includesService } from '../tunnel/policy.js';

const MAX_NAMES = 8;

export interface Access {
  readonly ticket: boolean;
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
    ...(access.ticket ? ['whoever has the ticket below, so treat it as a password'] : []),
    ...(access.allow.length > 0 ? [`${list(access.allow)} (--allow)`] : []),
    ...(access.book.length > 0 ? [`${list(access.book)}, to what the peers book lets them reach`] : []),
    'your own machines with this identity',
    access.ask ? 'anyone else whom you let in when asked (--ask)' : 'nobody else',
  ];
  return lines;
}

function list(names: readonly string[]): string {
  const shown = names.slice(0, MAX_NAMES).join(', ');
  return names.length > MAX_NAMES ? `${shown} and ${names.length - MAX_NAMES} more` : shown;
}
