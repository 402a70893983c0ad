/** Reports a session that is there, every change of its path, and a relay that it stays on. */
import type { PeerSession } from '../session/handshake.js';
import type { Report } from './events.js';
import { type FactsSource, watchRelayed } from './relayed.js';
import { roundRtt } from './round-trips.js';

export interface ConnectedOptions {
  /** Of a session that takes another one's place. */
  readonly back?: { readonly downMs?: number; readonly services?: readonly string[] };
  /** What is known of the network here. */
  readonly facts?: FactsSource | undefined;
}

export function reportConnected(
  peer: PeerSession,
  report: Report,
  { back = {}, facts }: ConnectedOptions = {},
): void {
  const { kind, rttMs } = peer.session.path;
  report({
    event: 'session',
    peer: peer.peer,
    state: 'connected',
    path: kind,
    rttMs: roundRtt(rttMs),
    ...back,
  });
  peer.session.onPathChange((path, previous, reason) => {
    report({
      event: 'path',
      peer: peer.peer,
      path: path.kind,
      previous: previous.kind,
      rttMs: roundRtt(path.rttMs),
      remote: path.remote,
      reason,
    });
  });
  watchRelayed(peer, { report, facts });
}
