/** One admitted session with a peer: what a link dials again and again, and what one-shot commands dial once. */
import { dialHandshake, type PeerSession } from '../session/handshake.js';
import type { Identity } from '../session/identity.js';
import type { NodeId } from '../session/node-id.js';
import type { Dispatcher } from '../session/rpc-session.js';
import { connectFirst, type Way } from '../session/way.js';

export interface Dialler {
  readonly identity: Identity;
  readonly peer: NodeId;
  /** How the peer may be reached, the preferred way first. */
  readonly ways: readonly Way[];
  readonly token: string | undefined;
  /** What the peer may call here. */
  readonly methods?: Dispatcher | undefined;
}

/** Throws UNREACHABLE, DENIED, VERSION, ABORTED and what else the handshake throws. */
export async function dialPeer(dialler: Dialler, signal?: AbortSignal): Promise<PeerSession> {
  const { identity, ways, token, methods } = dialler;
  const session = await connectFirst(ways, signal);
  return dialHandshake(session, {
    identity,
    tokens: token === undefined ? [] : [token],
    dispatcher: methods,
    ...(signal ? { signal } : {}),
  });
}
