/**
 * A session that stays on a relay: after ten seconds this is said once, with the reason as far as the
 * two sides know their networks, and what would change it.
 */
import type { PeerSession } from '../session/handshake.js';
import type { Dispatcher } from '../session/rpc-session.js';
import type { Report } from './events.js';

/** A direct path comes within seconds or hardly ever. */
const PATIENCE_MS = 10_000;
const FACTS_TIMEOUT_MS = 5000;
const METHOD = 'network.facts';

/** What one side knows of its own network. Absent is unknown. */
export interface NetworkFacts {
  /** Whether UDP gets out and back. */
  readonly udp?: boolean;
  /** The NAT gives every destination another port, so that no peer can be told where to send. */
  readonly symmetricNat?: boolean;
  /** How many addresses it has to be reached at. */
  readonly addresses?: number;
  /** Whether one of them is IPv4, and one IPv6. */
  readonly ipv4?: boolean;
  readonly ipv6?: boolean;
}

/** Must end when the signal fires. */
export type FactsSource = (signal: AbortSignal) => Promise<NetworkFacts>;

export type RelayReason = 'no-udp' | 'no-address' | 'no-common-family' | 'symmetric-nat' | 'unknown';

export interface Relayed {
  readonly reason: RelayReason;
  /** A clause: `UDP does not get out of this network`. */
  readonly message: string;
  readonly hint: string;
}

const PORT_HINT =
  'on either side let one UDP port in: forward it at the router, and start tunnel there with --bind <ip>:<port>';

export function whyRelayed(here: NetworkFacts, there: NetworkFacts): Relayed {
  if (here.udp === false || there.udp === false) {
    const where =
      here.udp === false ? (there.udp === false ? 'either network' : 'this network') : "the peer's network";
    return {
      reason: 'no-udp',
      message: `UDP does not get out of ${where}`,
      hint: 'allow outgoing UDP in the firewall there; or tunnel expose … --webtransport <ip:port> for a direct path over TCP',
    };
  }
  if (here.addresses === 0 || there.addresses === 0) {
    return {
      reason: 'no-address',
      message:
        there.addresses === 0
          ? 'the peer knows of no address of its own'
          : 'this side knows of no address of its own',
      hint: 'check that its network is up, and that --bind does not name an address that others cannot reach',
    };
  }
  const apart = soleFamily(here) !== undefined && soleFamily(there) !== undefined;
  if (apart && soleFamily(here) !== soleFamily(there)) {
    return {
      reason: 'no-common-family',
      message: `this side has ${soleFamily(here)} only, and the peer ${soleFamily(there)} only`,
      hint: 'a direct path takes an address of the same family on both sides',
    };
  }
  if (here.symmetricNat || there.symmetricNat) {
    const where =
      here.symmetricNat && there.symmetricNat
        ? 'both sides are'
        : here.symmetricNat
          ? 'this side is'
          : 'the peer is';
    return {
      reason: 'symmetric-nat',
      message: `${where} behind a NAT that changes the port for every destination (symmetric)`,
      hint: PORT_HINT,
    };
  }
  return {
    reason: 'unknown',
    message: 'packets sent directly do not arrive, and neither side knows why (a firewall, or a NAT)',
    hint: PORT_HINT,
  };
}

function soleFamily({ ipv4, ipv6 }: NetworkFacts): 'IPv4' | 'IPv6' | undefined {
  if (ipv4 && ipv6 === false) return 'IPv4';
  return ipv6 && ipv4 === false ? 'IPv6' : undefined;
}

/** What the peer may ask. */
export function factsMethods(facts: FactsSource | undefined): Dispatcher {
  if (!facts) return {};
  return {
    [METHOD]: async () =>
      Buffer.from(JSON.stringify(await facts(AbortSignal.timeout(FACTS_TIMEOUT_MS)).catch(() => ({})))),
  };
}

/** Asks both sides. Never rejects. */
export async function relayedBecause(
  { rpc }: Pick<PeerSession, 'rpc'>,
  facts: FactsSource | undefined,
): Promise<Relayed> {
  const signal = AbortSignal.timeout(FACTS_TIMEOUT_MS);
  const [here, there] = await Promise.all([
    (facts?.(signal) ?? Promise.resolve({})).catch(() => ({})),
    // An older peer knows no such question.
    rpc.call(METHOD, undefined, { deadlineMs: FACTS_TIMEOUT_MS }).then(decodeFacts, () => ({})),
  ]);
  return whyRelayed(here, there);
}

/** Whatever is no fact is unknown. */
export function decodeFacts(answer: Uint8Array): NetworkFacts {
  let from: Record<string, unknown>;
  try {
    from = Object(JSON.parse(Buffer.from(answer).toString('utf8')));
  } catch {
    return {};
  }
  const { udp, symmetricNat, addresses, ipv4, ipv6 } = from;
  return {
    ...(typeof udp === 'boolean' ? { udp } : {}),
    ...(typeof symmetricNat === 'boolean' ? { symmetricNat } : {}),
    ...(typeof ipv4 === 'boolean' ? { ipv4 } : {}),
    ...(typeof ipv6 === 'boolean' ? { ipv6 } : {}),
    ...(Number.isInteger(addresses) && (addresses as number) >= 0 ? { addresses: addresses as number } : {}),
  };
}

export interface RelayWatchOptions {
  readonly report: Report;
  readonly facts: FactsSource | undefined;
  readonly patienceMs?: number;
}

/** Watches a session until its end. */
export function watchRelayed(
  peer: PeerSession,
  { report, facts, patienceMs = PATIENCE_MS }: RelayWatchOptions,
): void {
  const { session } = peer;
  let timer: NodeJS.Timeout | undefined;
  let isOver = false;
  const isRelayed = () => !isOver && session.path.kind === 'iroh-relay';
  const stop = () => {
    clearTimeout(timer);
    timer = undefined;
  };
  const tell = async () => {
    const { reason, message, hint } = await relayedBecause(peer, facts);
    if (!isRelayed()) return;
    report({
      event: 'notice',
      code: 'relayed',
      peer: peer.peer,
      reason,
      message: `still through a relay: ${message}`,
      hint,
    });
  };
  const look = () => {
    if (!isRelayed()) stop();
    else timer ??= setTimeout(() => void tell(), patienceMs).unref();
  };
  look();
  session.onPathChange(look);
  void session.closed.then(() => {
    isOver = true;
    stop();
  });
}
