/** One admitted session for a command that does its work on it and ends. */
import { TunnelError, toTunnelError } from '../error.js';
import type { PeerSession } from '../session/handshake.js';
import type { Identity } from '../session/identity.js';
import { shortNodeId } from '../session/node-id.js';
import type { Ticket } from '../session/ticket.js';
import type { DialFlags } from './network-flags.js';
import type { Shutdown } from './shutdown.js';
import { Spinner } from './spinner.js';
import type { Ways } from './ways.js';

export interface DialOnceOptions {
  readonly identity: Identity;
  readonly ticket: Ticket;
  readonly flags: DialFlags & { readonly json: boolean };
  /** How long to try, milliseconds. A person at the peer who is asked has all the time that the peer gives. */
  readonly timeoutMs: number;
  readonly shutdown: Shutdown;
}

export interface DialledOnce {
  readonly session: PeerSession;
  readonly ways: Ways;
  /** Says goodbye, and closes what the dial had opened. */
  close(): Promise<void>;
}

/**
 * Throws UNREACHABLE when the time is over, ABORTED on a signal, and what dialling throws; nothing is
 * left open then.
 */
export async function dialOnce(options: DialOnceOptions): Promise<DialledOnce> {
  const { identity, ticket, flags, timeoutMs, shutdown } = options;
  const peer = ticket.nodeId;
  const [{ openWays }, { dialPeer }] = await Promise.all([
    import('./ways.js'),
    import('../tunnel/dial-peer.js'),
  ]);
  const ways = await openWays(identity, ticket, flags);
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), timeoutMs);
  const spinner = new Spinner();
  if (!flags.json) spinner.start(`connecting to ${shortNodeId(peer)}`);
  const onPending = () => {
    clearTimeout(timer);
    if (!flags.json) spinner.start(`waiting for somebody at ${shortNodeId(peer)} to let you in`);
  };
  try {
    const session = await dialPeer(
      { identity, peer, ways: ways.ways, token: ticket.token, addresses: ways.addresses },
      AbortSignal.any([late.signal, shutdown.signal]),
      onPending,
    );
    return {
      session,
      ways,
      close: async () => {
        session.session.close();
        await ways.close();
      },
    };
  } catch (error) {
    await ways.close();
    const { code, message, hint } = toTunnelError(error);
    if (!late.signal.aborted && (code !== 'UNREACHABLE' || hint !== undefined)) throw error;
    const [what, next] = late.signal.aborted
      ? [`no session with ${shortNodeId(peer)} within ${timeoutMs / 1000} s`, '--timeout gives it longer']
      : [`${shortNodeId(peer)} cannot be reached: ${message}`, 'tunnel doctor --peer says where it stops'];
    throw new TunnelError('UNREACHABLE', what, {
      hint: `check that tunnel expose runs there, and that its ticket is the newest one; ${next}`,
      cause: error,
    });
  } finally {
    clearTimeout(timer);
    spinner.stop();
  }
}
