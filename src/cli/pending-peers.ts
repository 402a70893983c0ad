/** The peers that wait to be let in by any process of this user, and which of them a text means. */
import { TunnelError } from '../error.js';
import { isNodeId, type NodeId, parseNodeId, shortNodeId } from '../session/node-id.js';
import { EVERY_SERVICE, isPeerName, type PeersBook } from '../tunnel/peers-book.js';
import type { Approval } from '../tunnel/status.js';
import { findPeer } from './peer-names.js';
import { decide, readStatus } from './status-client.js';

export interface PendingPeer extends Approval {
  readonly pid: number;
}

/** Of every process that answers. */
export async function pendingPeers(runtime: string): Promise<readonly PendingPeer[]> {
  const processes = await readStatus(runtime);
  return processes.flatMap(({ pid, approvals }) => approvals.map((approval) => ({ ...approval, pid })));
}

/**
 * The node that `text` means: a name of the book, a node ID, or, of those that wait, the short form that
 * is shown or the first eight or more digits. Throws USAGE, or BAD_NODE_ID.
 */
export function whichPeer(text: string, book: PeersBook, pending: readonly PendingPeer[]): NodeId {
  const [, known] = findPeer(book, text) ?? [];
  if (known) return known.nodeId;
  const lower = text.toLowerCase();
  if (isNodeId(lower)) return lower;
  const isPart = /^[0-9a-f]{8,63}$/.test(lower);
  const found = new Set(
    pending
      .map(({ peer }) => peer)
      .filter((peer) => shortNodeId(peer) === lower || (isPart && peer.startsWith(lower))),
  );
  const [first] = found;
  if (found.size === 1 && first !== undefined) return first as NodeId;
  if (found.size > 1) {
    throw new TunnelError('USAGE', `'${text}' is the beginning of ${found.size} node IDs that wait`, {
      hint: 'tunnel peers pending shows them in full',
    });
  }
  if (!isPeerName(text)) return parseNodeId(text);
  throw new TunnelError('USAGE', `'${text}' is not in the peers book, and does not wait to be let in`, {
    hint: 'tunnel peers list shows the names, tunnel peers pending who waits; a node ID can be given in full',
  });
}

/** What those questions ask for, as rights name it. Throws USAGE where it was too much to be shown. */
export function wantedRights(questions: readonly PendingPeer[]): readonly string[] {
  if (questions.some(({ everything }) => everything)) return [EVERY_SERVICE];
  if (questions.some(({ more }) => more > 0)) {
    throw new TunnelError('USAGE', 'it asks for more services than can be shown', {
      hint: 'name those it may reach, or use --all',
    });
  }
  return [
    ...new Set(
      questions.flatMap(({ services }) =>
        services.map((name) => (name.includes('/') ? name : `${name}/tcp`)),
      ),
    ),
  ];
}

/** Answers all questions of that peer for this once. Throws USAGE when it does not wait. */
export async function decideOnce(
  runtime: string,
  pending: readonly PendingPeer[],
  nodeId: NodeId,
  allowed: boolean,
): Promise<void> {
  const questions = pending.filter(({ peer }) => peer === nodeId);
  const answers = await Promise.all(
    questions.map(({ pid, id }) => decide(runtime, pid, { id, allowed, always: false })),
  );
  if (answers.includes(true)) return;
  throw new TunnelError('USAGE', `${shortNodeId(nodeId)} does not wait to be let in`, {
    hint: 'tunnel peers pending shows who does; without --once it is written to the peers book',
  });
}
