/** One admitted session with a peer: what a link dials again and again, and what one-shot commands dial once. */
import { dialHandshake, type PeerSession } from '../session/handshake.js';
import type { Identity } from '../session/identity.js';
import type { NodeId } from '../session/node-id.js';
import type { AddressHints, Endpoint } from '../session/session.js';

export interface PeerAddress {
  /** The peer to reach, and where it may be found. */
  readonly peer: NodeId;
  readonly hints: AddressHints;
  readonly token: string | undefined;
}

export interface Dialler extends PeerAddress {
  readonly endpoint: Endpoint;
  readonly identity: Identity;
}

/** Throws UNREACHABLE, DENIED, VERSION, ABORTED and what else the handshake throws. */
export async function dialPeer(dialler: Dialler, signal?: AbortSignal): Promise<PeerSession> {
  const { endpoint, identity, peer, hints, token } = dialler;
  const session = await endpoint.connect(peer, hints, signal ? { signal } : {});
  return dialHandshake(session, {
    identity,
    delegated: endpoint.nodeId !== identity.nodeId,
    tokens: token === undefined ? [] : [token],
    ...(signal ? { signal } : {}),
  });
}
