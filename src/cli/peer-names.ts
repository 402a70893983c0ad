/** Peers on the command line and in what is printed: by the name the peers book has for them. */
import { join } from 'node:path';
import { TunnelError } from '../error.js';
import { isNodeId, parseNodeId, shortNodeId } from '../session/node-id.js';
import { isTicket, type Ticket } from '../session/ticket.js';
import { findByNodeId, isPeerName, nameOf, type PeerEntry, type PeersBook } from '../tunnel/peers-book.js';
import { PeersFile } from '../tunnel/peers-file.js';
import type { Paths } from './paths.js';
import { parsePeer } from './peer.js';

export function peersFile(paths: Paths): PeersFile {
  return new PeersFile(join(paths.config, 'peers.toml'));
}

/** What lines call peers. Empty until a book is given. */
export class PeerNames {
  #nameOf: (nodeId: string) => string | undefined = () => undefined;

  /** `nameOf` is asked anew each time. */
  from(nameOf: (nodeId: string) => string | undefined): void {
    this.#nameOf = nameOf;
  }

  nameOf(nodeId: string): string | undefined {
    return this.#nameOf(nodeId);
  }

  /** The name, or the short node ID. */
  label(nodeId: string): string {
    return this.#nameOf(nodeId) ?? shortNodeId(nodeId);
  }
}

/** For names only: a book that cannot be read must not keep from what does not need it. */
export async function loadNames(names: PeerNames, file: PeersFile): Promise<void> {
  const book = await file.read().catch(() => undefined);
  if (book) names.from((nodeId) => nameOf(book, nodeId));
}

/**
 * How to reach a peer written as a ticket, a node ID or a name. Throws BAD_TICKET, BAD_NODE_ID, and
 * BAD_STATE where the book is needed and cannot be read.
 */
export async function resolvePeer(text: string, file: PeersFile): Promise<Ticket> {
  return isForBook(text) ? peerIn(await file.read(), text) : parsePeer(text);
}

/** A ticket says all there is by itself. */
function isForBook(text: string): boolean {
  return isPeerName(text) || isNodeId(text.toLowerCase());
}

/** As `resolvePeer`, with the book at hand. */
export function peerIn(book: PeersBook, text: string): Ticket {
  if (!isForBook(text)) return parsePeer(text);
  const [, entry] = findPeer(book, text) ?? [];
  if (entry) return ticketOf(entry);
  if (!isPeerName(text)) return parsePeer(text);
  throw unknownPeer(text);
}

/** By name, or by node ID. */
export function findPeer(book: PeersBook, text: string): readonly [string, PeerEntry] | undefined {
  const named = book.get(text);
  return named ? [text, named] : findByNodeId(book, text.toLowerCase());
}

/** As `findPeer`. Throws USAGE when it is not in the book. */
export function requirePeer(book: PeersBook, text: string): readonly [string, PeerEntry] {
  const found = findPeer(book, text);
  if (found) return found;
  if (!isPeerName(text)) parseNodeId(text);
  throw new TunnelError('USAGE', `'${text}' is not in the peers book`, {
    hint: 'tunnel peers list shows who is; tunnel peers add <name> <ticket or node ID> adds one',
  });
}

function ticketOf({ nodeId, addresses, relays, webtransport, token }: PeerEntry): Ticket {
  return { nodeId, direct: addresses, relays, webtransport, token };
}

function unknownPeer(text: string): TunnelError {
  return new TunnelError('BAD_NODE_ID', `'${text}' is no ticket, no node ID, and no name in the peers book`, {
    hint: `tunnel peers list shows the names; tunnel peers add ${text} <ticket or node ID> adds this one`,
  });
}

/** What the help says of an argument that is a peer. */
export const PEER_ARGUMENT = 'a ticket, a node ID, or a name from the peers book';

export function looksLikeTicket(text: string): boolean {
  return isTicket(text.trim());
}
