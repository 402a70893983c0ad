/** Puts a peer that a ticket let in into the peers book, so that it needs no ticket later. */
import type { NodeId } from '../session/node-id.js';
import { EVERY_SERVICE, findByNodeId, freeName, newEntry, type PeersBook } from './peers-book.js';
import type { ServiceSet } from './policy.js';

/** The book with the peer in it, who may reach `services`. What it was denied stays denied. */
export function paired(book: PeersBook, peer: NodeId, services: ServiceSet): PeersBook {
  const [name, entry] = findByNodeId(book, peer) ?? [freeName(book, peer), newEntry(peer)];
  const allow = new Map(entry.allow);
  for (const service of services === 'all' ? [EVERY_SERVICE] : services) allow.set(service, undefined);
  return new Map(book).set(name, { ...entry, allow });
}
