/**
 * How many QUIC handshakes strangers may cost a bound endpoint, before anybody knows who they are. The engine
 * applies it. What is admitted or refused after the handshake is in `src/tunnel/limits.ts`, whose numbers
 * are not above these, so that who dials too often is told so by that gate as long as it can be afforded.
 */
import type { Native } from './iroh-library.js';

export type HandshakeLimits = Native.HandshakeLimits;

export const HANDSHAKES: HandshakeLimits = {
  perSecond: 200,
  burst: 600,
  // Proven addresses have this, and the same again is done in the name of one that is not proven yet.
  perSecondPerAddress: 20,
  burstPerAddress: 150,
  perSecondOfKnown: 50,
  burstOfKnown: 200,
  // Above the time that anybody has to be admitted, so that strangers do not count.
  knownAfterMs: 20_000,
  underWay: 1024,
  timeoutMs: 10_000,
};
