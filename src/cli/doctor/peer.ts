/** One layer after the other on the way to a peer, until one holds. */
import { toTunnelError } from '../../error.js';
import type { NearbyNode } from '../../session/engines/iroh-network.js';
import { dialHandshake, type PeerSession } from '../../session/handshake.js';
import type { Identity } from '../../session/identity.js';
import { shortNodeId } from '../../session/node-id.js';
import type { Session } from '../../session/session.js';
import type { Ticket } from '../../session/ticket.js';
import { connectFirst } from '../../session/way.js';
import { type PingSummary, pingPeer } from '../../tunnel/ping.js';
import { relayedBecause } from '../../tunnel/relayed.js';
import { formatServices, listServices } from '../../tunnel/services.js';
import { EXIT_DENIED, EXIT_UNREACHABLE } from '../exit-codes.js';
import type { DialFlags } from '../network-flags.js';
import { openWays, type Ways } from '../ways.js';
import { type Check, failed, fine, problem, skipped } from './check.js';
import { probeQuic, type QuicProbe } from './quic-probe.js';

const MAX_PROBES = 16;
const PING_INTERVAL_MS = 500;

export interface PeerOptions {
  /** Rejects with why it is no peer. */
  readonly resolve: () => Promise<Ticket>;
  readonly identity: Identity;
  readonly flags: DialFlags;
  /** Who was seen on the local network up to now. */
  readonly nearby: () => readonly NearbyNode[];
  /** For the connection, and again for being let in. */
  readonly timeoutMs: number;
  /** What is being waited for, for people. */
  readonly onPhase: (text: string) => void;
}

/** Ends with the first problem. Closes what it opens. Never throws. */
export async function* peerChecks(options: PeerOptions): AsyncGenerator<Check> {
  let ticket: Ticket;
  try {
    ticket = await options.resolve();
  } catch (error) {
    yield failed('peer-id', error);
    return;
  }
  yield fine('peer-id', ticket.nodeId);
  const known = addressesOf(ticket, options);
  const addresses = checkAddresses(known, options.flags);
  yield addresses;
  if (!addresses.ok) return;
  let ways: Ways;
  try {
    ways = await openWays(options.identity, ticket, options.flags);
  } catch (error) {
    yield failed('peer-connection', error);
    return;
  }
  try {
    yield* throughLayers(ticket, known.direct, ways, options);
  } finally {
    await ways.close();
  }
}

async function* throughLayers(
  ticket: Ticket,
  direct: readonly string[],
  ways: Ways,
  { identity, flags, timeoutMs, onPhase }: PeerOptions,
): AsyncGenerator<Check> {
  const label = shortNodeId(ticket.nodeId);
  onPhase(`connecting to ${label}`);
  const dialling = connectFirst(ways.ways, AbortSignal.timeout(timeoutMs)).then(
    (session) => ({ session }),
    (error: unknown) => ({ error }),
  );
  const isUdp = flags.via !== 'webtransport';
  const probes = isUdp ? await Promise.all(direct.slice(0, MAX_PROBES).map(probeQuic)) : [];
  const dialled = await dialling;
  const reach = isUdp
    ? checkReach(probes, 'session' in dialled)
    : skipped('peer-udp', '--via webtransport takes no UDP');
  yield reach;
  if (!('session' in dialled)) {
    if (reach.ok) yield checkDialError(dialled.error, probes, timeoutMs);
    return;
  }
  const { session } = dialled;
  try {
    yield fine('peer-connection', `the peer has proven its key, over ${describePath(session)}`);
    yield* insideSession(session, ticket, ways, { identity, timeoutMs, onPhase });
  } finally {
    session.close();
  }
}

async function* insideSession(
  session: Session,
  ticket: Ticket,
  ways: Ways,
  { identity, timeoutMs, onPhase }: Pick<PeerOptions, 'identity' | 'timeoutMs' | 'onPhase'>,
): AsyncGenerator<Check> {
  const label = shortNodeId(ticket.nodeId);
  let peer: PeerSession;
  let isPending = false;
  onPhase(`asking ${label} to be let in`);
  try {
    peer = await dialHandshake(session, {
      identity,
      tokens: ticket.token === undefined ? [] : [ticket.token],
      signal: AbortSignal.timeout(timeoutMs),
      onPending: () => {
        isPending = true;
        onPhase(`waiting for somebody at ${label} to let you in`);
      },
    });
  } catch (error) {
    yield checkAdmissionError(error, {
      isPending,
      nodeId: identity.nodeId,
      hasToken: ticket.token !== undefined,
    });
    return;
  }
  const { major, minor } = peer.remote;
  yield fine('peer-admission', `let in; it speaks tunnel/${major}.${minor}`);
  try {
    const services = await listServices(peer);
    if (services.length === 0) {
      const fix = `on the peer: tunnel peers allow ${identity.nodeId} <service>`;
      yield { ...problem('peer-services', 'it offers you nothing', fix, 'network'), exit: EXIT_DENIED };
      return;
    }
    yield fine('peer-services', formatServices(services));
  } catch (error) {
    yield failed('peer-services', error);
    return;
  }
  onPhase(`measuring round trips to ${label}`);
  const summary = await pingPeer(peer, {
    intervalMs: PING_INTERVAL_MS,
    timeoutMs,
    onPing: () => undefined,
    onLost: () => undefined,
  });
  const ping = checkPing(summary);
  yield ping;
  if (ping.ok) yield await checkPath(peer, ways, summary.direct);
}

interface Known {
  readonly direct: readonly string[];
  readonly relays: readonly string[];
  readonly webtransport: number;
  readonly isNearby: boolean;
}

function addressesOf({ nodeId, direct, relays, webtransport }: Ticket, { nearby }: PeerOptions): Known {
  const seen = nearby().find((node) => node.nodeId === nodeId);
  return {
    direct: [...new Set([...direct, ...(seen?.hints.direct ?? [])])],
    relays: [...new Set([...relays, ...(seen?.hints.relays ?? [])])],
    webtransport: webtransport?.length ?? 0,
    isNearby: seen !== undefined,
  };
}

export function checkAddresses(
  { direct, relays, webtransport, isNearby }: Known,
  flags: Pick<DialFlags, 'no-relay' | 'dns' | 'dht' | 'relay'>,
): Check {
  const name = 'peer-addresses';
  const asks = [
    ...(flags['no-relay'] || !flags.dns ? [] : ["iroh's DNS"]),
    ...(flags.dht ? ['the DHT'] : []),
    ...((flags.relay?.length ?? 0) > 0 ? ['the relay that was named'] : []),
  ];
  const has = [
    ...(direct.length > 0 ? [direct.join(', ')] : []),
    ...(relays.length > 0 ? [`by relay ${relays.join(', ')}`] : []),
    ...(webtransport > 0 ? ['WebTransport'] : []),
    ...(isNearby ? ['seen on the local network'] : []),
  ];
  if (has.length > 0) return fine(name, has.join('; '));
  if (asks.length > 0) return fine(name, `none here; ${asks.join(' and ')} may know where it is`);
  const fix =
    'use the ticket that tunnel expose prints there, or let it be looked up: without --no-relay and --no-dns';
  return problem(
    name,
    'nothing says where it is: no address, no relay, and it is not on this network',
    fix,
    'network',
  );
}

export function checkReach(probes: readonly QuicProbe[], connected: boolean): Check {
  const name = 'peer-udp';
  if (probes.length === 0) return skipped(name, 'no address of it is known to send to');
  const words = {
    answers: 'answers',
    refused: 'nobody listens',
    silent: 'no answer',
    unroutable: 'no way there',
  };
  const detail = probes
    .map(({ address, result, error }) => `${address} ${words[result]}${error ? ` (${error})` : ''}`)
    .join(', ');
  if (connected || probes.some(({ result }) => result === 'answers')) return fine(name, detail);
  const isOff = probes.every(({ result }) => result === 'refused');
  const fix = isOff
    ? 'start tunnel expose there; if it runs, use the newest ticket that it prints'
    : 'check that its machine is on and that no firewall on the way drops UDP; use the newest ticket';
  return problem(name, detail, fix, 'network');
}

export function checkDialError(error: unknown, probes: readonly QuicProbe[], timeoutMs: number): Check {
  const name = 'peer-connection';
  const { code, message } = toTunnelError(error);
  if (code === 'VERSION') return failed(name, error);
  const answers = probes.filter(({ result }) => result === 'answers').map(({ address }) => address);
  const why = code === 'ABORTED' ? `no connection within ${timeoutMs / 1000} s` : message;
  const fix =
    answers.length > 0
      ? 'the node there has another key: compare with what tunnel id prints on it'
      : 'check that tunnel expose runs there and has a relay in common with this side; use the newest ticket';
  const where =
    answers.length > 0 ? `something answers at ${answers.join(', ')}, and it is not this peer: ` : '';
  return problem(name, `${where}${why}`, fix, 'network');
}

interface Admission {
  readonly isPending: boolean;
  /** Of this side. */
  readonly nodeId: string;
  readonly hasToken: boolean;
}

export function checkAdmissionError(error: unknown, { isPending, nodeId, hasToken }: Admission): Check {
  const name = 'peer-admission';
  const { code, message } = toTunnelError(error);
  const allow = `on the peer: tunnel peers allow ${nodeId}`;
  if (isPending && code !== 'DENIED') {
    const detail = 'somebody there was asked to let you in and has not decided';
    return { ...problem(name, detail, allow, 'network'), exit: EXIT_UNREACHABLE };
  }
  if (code !== 'DENIED') return failed(name, error);
  const token = hasToken ? 'use the newest ticket, or ' : 'use a ticket, or ';
  return {
    ...problem(name, `it does not let you in: ${message}`, `${token}${allow}`, 'network'),
    exit: EXIT_DENIED,
  };
}

export function checkPing({ sent, received, rttMs, error }: PingSummary): Check {
  const name = 'peer-ping';
  if (rttMs)
    return fine(
      name,
      `${received} of ${sent} answered; ${rttMs.min} / ${rttMs.p50} / ${rttMs.max} ms (min, p50, max)`,
    );
  if (error) return failed(name, error);
  return problem(name, `none of ${sent} was answered`, 'its program hangs: start it anew', 'network');
}

async function checkPath(peer: PeerSession, ways: Ways, direct: boolean): Promise<Check> {
  const where = describePath(peer.session);
  if (direct) return fine('peer-path', `direct, ${where}`);
  const { message, hint } = await relayedBecause(peer, ways.facts);
  return problem('peer-path', `through a relay, ${where}: ${message}`, hint, 'network');
}

function describePath({ path }: Session): string {
  return `${path.kind}, ${path.remote}, ${path.rttMs.toFixed(1)} ms`;
}
