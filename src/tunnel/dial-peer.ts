/** One admitted session with a peer: what a link dials again and again, and what one-shot commands dial once. */
import type { KnownAddresses } from '../session/addresses.js';
import { dialHandshake, type PeerSession } from '../session/handshake.js';
import type { ServiceInfo } from '../session/hello.js';
import type { Identity } from '../session/identity.js';
import type { NodeId } from '../session/node-id.js';
import type { Dispatcher } from '../session/rpc-session.js';
import type { SessionPath } from '../session/session.js';
import { connectFirst, type Way } from '../session/way.js';

export interface Dialler {
  readonly identity: Identity;
  readonly peer: NodeId;
  /** How the peer may be reached, the preferred way first. */
  readonly ways: readonly Way[];
  readonly token: string | undefined;
  /** Where the peer can be reached; grows as sessions tell. */
  readonly addresses?: KnownAddresses;
  /** How long connections wait for a session, milliseconds. */
  readonly resumeTimeoutMs?: number;
  /** What this side is going to ask for, where it knows. */
  readonly wants?: readonly ServiceInfo[];
  /** What the peer may call besides `ping`. */
  readonly dispatcher?: Dispatcher | undefined;
}

/** `onPending` is called when a person there is asked. Throws UNREACHABLE, DENIED, VERSION, ABORTED and what else the handshake throws. */
export async function dialPeer(
  dialler: Dialler,
  signal?: AbortSignal,
  onPending?: () => void,
): Promise<PeerSession> {
  const { identity, ways, token, addresses, resumeTimeoutMs, wants, dispatcher } = dialler;
  const session = await connectFirst(ways, signal);
  const peer = await dialHandshake(session, {
    identity,
    tokens: token === undefined ? [] : [token],
    ...(resumeTimeoutMs === undefined ? {} : { resumeTimeoutMs }),
    ...(wants === undefined ? {} : { wants }),
    ...(dispatcher ? { dispatcher } : {}),
    onPending,
    ...(signal ? { signal } : {}),
  });
  if (addresses) remember(peer, addresses);
  return peer;
}

/** What worked comes first the next time, and so does what the peer says of itself. */
function remember(peer: PeerSession, addresses: KnownAddresses): void {
  const learn = ({ kind, remote }: SessionPath) => {
    if (kind === 'iroh-direct') addresses.learn({ direct: [remote], relays: [] });
    else if (kind === 'iroh-relay') addresses.learn({ direct: [], relays: [remote] });
  };
  learn(peer.session.path);
  peer.session.onPathChange(learn);
  peer.onAddresses((hints) => addresses.learn(hints));
}
