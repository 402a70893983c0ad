/** Reports a session that is there, and every change of its path. */
import type { PeerSession } from '../session/handshake.js';
import type { Report } from './events.js';

export function reportConnected(
  peer: PeerSession,
  report: Report,
  back: { readonly downMs?: number; readonly services?: readonly string[] } = {},
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
  peer.session.onPathChange((path, previous) => {
    if (path.kind === previous.kind) return;
    report({
      event: 'path',
      peer: peer.peer,
      path: path.kind,
      previous: previous.kind,
      rttMs: roundRtt(path.rttMs),
    });
  });
}

/** Microseconds are noise above a millisecond and news below. */
function roundRtt(rttMs: number): number {
  return Math.round(rttMs * 1000) / 1000;
}
