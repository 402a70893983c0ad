/**
 * The peers book as a value: names for node IDs, how each was reached, and what each may reach here.
 * `peers-toml.ts` is its text, `peers-file.ts` the file.
 */
import { TunnelError } from '../error.js';
import type { NodeId } from '../session/node-id.js';
import type { Ticket, WebTransportHint } from '../session/ticket.js';

/** In `allow` and `deny`: every service. */
export const EVERY_SERVICE = '*';
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const MAX_ADDRESSES = 16;

export interface PeerEntry {
  readonly nodeId: NodeId;
  /** `ip:port`, the newest first. */
  readonly addresses: readonly string[];
  readonly relays: readonly string[];
  readonly webtransport: readonly WebTransportHint[];
  /** The capability token of the peer's ticket: a secret. */
  readonly token: string | undefined;
  /** Services of this machine that the peer may reach, and until when (milliseconds since the epoch). */
  readonly allow: ReadonlyMap<string, number | undefined>;
  /** What it may not reach, whatever else lets it in. */
  readonly deny: ReadonlySet<string>;
}

/** By name. */
export type PeersBook = ReadonlyMap<string, PeerEntry>;

export const EMPTY_BOOK: PeersBook = new Map();

export function newEntry(nodeId: NodeId): PeerEntry {
  return {
    nodeId,
    addresses: [],
    relays: [],
    webtransport: [],
    token: undefined,
    allow: new Map(),
    deny: new Set(),
  };
}

/** The entry with what a ticket of the same node says. */
export function withTicket(entry: PeerEntry, { direct, relays, webtransport, token }: Ticket): PeerEntry {
  return {
    ...entry,
    ...withAddresses(entry, { direct, relays }),
    ...(webtransport === undefined ? {} : { webtransport }),
    ...(token === undefined ? {} : { token }),
  };
}

/** The entry with addresses that worked before those it had. */
export function withAddresses(
  entry: PeerEntry,
  { direct, relays }: { readonly direct: readonly string[]; readonly relays: readonly string[] },
): PeerEntry {
  const newest = (news: readonly string[], known: readonly string[]) =>
    [...new Set([...news, ...known])].slice(0, MAX_ADDRESSES);
  return {
    ...entry,
    addresses: newest(direct, entry.addresses),
    relays: newest(relays, entry.relays),
  };
}

/** `services` may have `*`. Allowing takes a denial of the same back. */
export function allowing(
  entry: PeerEntry,
  services: readonly string[],
  expiresAtMs: number | undefined,
): PeerEntry {
  const all = services.includes(EVERY_SERVICE);
  const allow = new Map(all ? [] : entry.allow);
  for (const service of all ? [EVERY_SERVICE] : services) allow.set(service, expiresAtMs);
  const deny = all ? [] : [...entry.deny].filter((one) => !services.some((service) => covers(service, one)));
  return { ...entry, allow, deny: new Set(deny.filter((one) => one !== EVERY_SERVICE)) };
}

export function denying(entry: PeerEntry, services: readonly string[]): PeerEntry {
  if (services.includes(EVERY_SERVICE)) return { ...entry, allow: new Map(), deny: new Set([EVERY_SERVICE]) };
  const allow = [...entry.allow].filter(([one]) => !services.some((service) => covers(service, one)));
  return { ...entry, allow: new Map(allow), deny: new Set([...entry.deny, ...services]) };
}

/** Whether all that `inner` says is within `outer`: `dns` has `dns/udp`. */
function covers(outer: string, inner: string): boolean {
  return outer === inner || inner.startsWith(`${outer}/`);
}

export interface RecordOptions {
  readonly allowed: boolean;
  /** May have `*`. */
  readonly services: readonly string[];
  readonly expiresAtMs?: number | undefined;
  /** For a node that is not in the book yet. */
  readonly name?: string | undefined;
}

/** The book with what was decided about a node, which is put into it where it is not. */
export function recordDecision(book: PeersBook, nodeId: NodeId, options: RecordOptions): PeersBook {
  const { allowed, services, expiresAtMs } = options;
  const [name = options.name ?? freeName(book, nodeId), entry = newEntry(nodeId)] =
    findByNodeId(book, nodeId) ?? [];
  const decided = allowed ? allowing(entry, services, expiresAtMs) : denying(entry, services);
  return new Map(book).set(name, decided);
}

/** `peer-3f9a12cd`: a name for a node that nobody has named. */
export function freeName(book: PeersBook, nodeId: NodeId): string {
  for (let length = 8; ; length += 1) {
    const name = `peer-${nodeId.slice(0, length)}`;
    if (!book.has(name)) return name;
  }
}

export function findByNodeId(book: PeersBook, nodeId: string): readonly [string, PeerEntry] | undefined {
  for (const pair of book) if (pair[1].nodeId === nodeId) return pair;
  return undefined;
}

/** The name of a node, if it has one. */
export function nameOf(book: PeersBook, nodeId: string): string | undefined {
  return findByNodeId(book, nodeId)?.[0];
}

/** A name that can be told from a node ID, a ticket and an option. */
export function isPeerName(text: string): boolean {
  return NAME.test(text) && !/^[0-9a-f]{32,}$/i.test(text);
}

/** Throws USAGE. */
export function checkPeerName(name: string): string {
  if (isPeerName(name)) return name;
  throw new TunnelError('USAGE', `'${name.slice(0, 80)}' is no name for a peer`, {
    hint: "a name is 1 to 64 letters, digits, '.', '_' or '-', and no node ID: alice",
  });
}

/** Throws USAGE where the name is another node's. */
export function checkNameIsFree(book: PeersBook, name: string, nodeId: NodeId): void {
  const known = book.get(name);
  if (known === undefined || known.nodeId === nodeId) return;
  throw new TunnelError('USAGE', `'${name}' is another node in the peers book already`, {
    hint: `choose another name, or first run: tunnel peers remove ${name}`,
  });
}
