/** The network around this machine: what is asked of it, and what the answers mean. */

import { isIP } from 'node:net';
import type { HomeRelay, NearbyNode, NetworkReport } from '../../session/engines/iroh-network.js';
import type { NodeId } from '../../session/node-id.js';
import type { Relays } from '../proxy.js';
import { BLAME, type Check, fine, problem, skipped } from './check.js';
import type { ProbeError, RelayProbe } from './network-probes.js';

export interface Address {
  readonly address: string;
  readonly family: 4 | 6;
}

/** What was found within the time. */
export interface Findings {
  /** How long the internet was waited for. */
  readonly waitedMs: number;
  readonly relays: Relays;
  readonly report: NetworkReport | undefined;
  readonly homeRelays: readonly HomeRelay[];
  /** Of the relays that were named, or of the one that was found. */
  readonly probes: readonly RelayProbe[];
  /** Relays are not reached directly. */
  readonly proxied: boolean;
}

const ADDRESSES_SHOWN = 3;
const PORT_FIX = 'forward one UDP port to this machine at the router, and name it: --bind 0.0.0.0:41000';

export function checkFamily(family: 4 | 6, addresses: readonly Address[], seen: string | undefined): Check {
  const name = `ipv${family}` as const;
  const own = addresses.filter((one) => one.family === family).map(({ address }) => address);
  if (own.length === 0) return skipped(name, `no interface has an IPv${family} address that leads anywhere`);
  const more = own.length > ADDRESSES_SHOWN ? ` and ${own.length - ADDRESSES_SHOWN} more` : '';
  const outside = seen === undefined ? '' : `; seen outside as ${seen}`;
  return fine(name, `${own.slice(0, ADDRESSES_SHOWN).join(', ')}${more}${outside}`);
}

const FIREWALL_FIX = "let this machine's firewall pass UDP of local programs: look at sudo nft list ruleset";

export function checkLoopback(error: ProbeError): Check {
  if (error === undefined) return fine('udp-loopback', 'a packet to 127.0.0.1 comes back');
  return problem(
    'udp-loopback',
    `a packet to 127.0.0.1 does not come back: ${error}`,
    FIREWALL_FIX,
    'system',
  );
}

/** `tried`: the machine's own addresses, and what came of each. */
export function checkLan(tried: readonly (readonly [address: string, error: ProbeError])[]): Check {
  const name = 'udp-lan';
  if (tried.length === 0) return skipped(name, 'this machine has no address on a network');
  const bad = tried.filter(([, error]) => error !== undefined);
  const list = (some: typeof tried) => some.map(([address]) => address).join(', ');
  if (bad.length === 0) return fine(name, `packets reach this machine at ${list(tried)}`);
  return problem(
    name,
    `packets do not reach this machine at ${list(bad)}: ${bad[0]?.[1]}`,
    FIREWALL_FIX,
    'system',
  );
}

/** With these the engine asks by IPv6. */
const NO_ROUTE: ReadonlySet<ProbeError> = new Set(['ENETUNREACH', 'EHOSTUNREACH', 'EADDRNOTAVAIL', 'ENODEV']);

export interface MdnsFindings {
  readonly startError: string | undefined;
  /** What came of a packet by each family; undefined where the machine has no address on a network. */
  readonly multicast: { readonly ipv4: ProbeError; readonly ipv6: ProbeError } | undefined;
  readonly nearby: readonly NearbyNode[];
}

export function checkMdns({ startError, multicast, nearby }: MdnsFindings): Check {
  const name = 'mdns';
  if (!multicast) return skipped(name, 'this machine has no address on a network');
  const fix =
    'let UDP 5353 and multicast to 224.0.0.251 and ff02::fb pass; containers need the network of their host';
  if (startError !== undefined) return problem(name, `it cannot be started: ${startError}`, fix, 'network');
  const { ipv4, ipv6 } = multicast;
  if (ipv4 !== undefined && !NO_ROUTE.has(ipv4))
    return problem(name, `multicast does not work by IPv4: ${ipv4}`, fix, 'network');
  if (ipv4 !== undefined && ipv6 !== undefined) {
    const detail = `there is no route for multicast by IPv4 (${ipv4}), and it does not work by IPv6: ${ipv6}`;
    return problem(
      name,
      detail,
      'sudo ip route add 224.0.0.0/4 dev <the interface of the network>',
      'network',
    );
  }
  const shown = nearby.filter((node) => node.name !== undefined).length;
  const seen =
    nearby.length === 0
      ? 'no other node seen'
      : `${nearby.length} other node${nearby.length === 1 ? '' : 's'} seen, ${shown} under a name`;
  return fine(name, `multicast works by IPv${ipv4 === undefined ? 4 : 6}; ${seen}`);
}

export interface DnsFindings {
  /** The name that was looked up; undefined where nothing has to be. */
  readonly host: string | undefined;
  readonly addresses: readonly string[];
  readonly error: string | undefined;
}

/** The name whose look-up matters. */
export function dnsHost(relays: Relays): string | undefined {
  if (relays === 'none') return undefined;
  // Where iroh publishes and looks up node IDs.
  if (relays === 'default') return 'dns.iroh.link';
  return relays.map((url) => new URL(url).hostname).find((host) => isIP(host.replace(/^\[|\]$/g, '')) === 0);
}

export function checkDns({ host, addresses, error }: DnsFindings, findings: Findings): Check {
  if (findings.relays === 'none') return skipped('dns', 'nothing is looked up with --no-relay');
  if (host === undefined) return skipped('dns', 'the relay is named by its address');
  if (error === undefined) return fine('dns', `${host} is ${addresses.slice(0, 2).join(', ')}`);
  if (findings.proxied)
    return skipped('dns', `${host} is not known here (${error}), and the proxy looks it up`);
  if (findings.relays === 'default' && !findings.report?.preferredRelay)
    return skipped('dns', `${host} cannot be looked up (${error}): there seems to be no internet`);
  const fix = `look at /etc/resolv.conf, or name the relay by its address: getent hosts ${host}`;
  return problem('dns', `${host} cannot be looked up (${error})`, fix, 'network');
}

/** `self`: who must be on the list of a relay that has one. */
export function checkRelays(findings: Findings, self: NodeId | undefined): readonly Check[] {
  const { relays, report, homeRelays, waitedMs } = findings;
  if (relays === 'none') return [skipped('relay', '--no-relay')];
  if (relays !== 'default') return relays.map((url) => checkNamed(url, findings, self));
  const url = report?.preferredRelay;
  if (url === undefined) {
    const why = `no public relay answered within ${waitedMs / 1000} s, so there seems to be no internet; the local network works without`;
    return [skipped('relay', why)];
  }
  const home = homeRelays.find((relay) => relay.url === url);
  return [
    home?.denied === undefined
      ? fine('relay', `${url}, ${latency(url, report)}`)
      : denied(url, home.denied, self),
  ];
}

function checkNamed(url: string, findings: Findings, self: NodeId | undefined): Check {
  const { report, homeRelays, probes, proxied, waitedMs } = findings;
  const same = (other: { readonly url: string }) => new URL(other.url).href === new URL(url).href;
  const home = homeRelays.find(same);
  if (home?.denied !== undefined) return denied(url, home.denied, self);
  const known = report?.relays.find(same)?.url;
  if (home?.connected || known !== undefined)
    return fine('relay', `${url}, ${latency(known ?? url, report)}`);
  const probe = probes.find(same);
  if (probe && probe.error === undefined && !proxied)
    return fine('relay', `${url}, ${probe.rttMs?.toFixed(0)} ms with the connection made anew`);
  const why = home?.error ?? probe?.error ?? `no answer within ${waitedMs / 1000} s`;
  const fix = /CERT|certificate|SIGNED/i.test(why)
    ? 'trust its authority: NODE_EXTRA_CA_CERTS=ca.pem'
    : `check that tunnel relay runs there and its port is open: curl ${new URL('/ping', url).href}`;
  return problem('relay', `${url} cannot be reached: ${why}`, fix, 'network');
}

function denied(url: string, why: string, self: NodeId | undefined): Check {
  const fix = `on its machine: tunnel relay … --allow ${self ?? '<the node ID that tunnel id prints>'}`;
  return problem('relay', `${url} does not let this identity in: ${why}`, fix, 'network');
}

function latency(url: string, report: NetworkReport | undefined): string {
  const times = (report?.relays ?? []).filter((one) => one.url === url).map(({ latencyMs }) => latencyMs);
  return times.length === 0 ? 'connected' : `round trip ${Math.min(...times).toFixed(1)} ms`;
}

const NOBODY = 'no relay answered, and nobody else can be asked';

export function checkUdpOut({ relays, report }: Findings): Check {
  const name = 'udp-out';
  if (relays === 'none')
    return skipped(name, 'there is no relay to ask with --no-relay; --peer asks one peer');
  if (!report || report.relays.length === 0) return skipped(name, NOBODY);
  const { udpV4, udpV6, publicV4, publicV6 } = report;
  if (udpV4 || udpV6) {
    const ways = [
      ...(udpV4 ? [`by IPv4${publicV4 === undefined ? '' : ` as ${publicV4}`}`] : []),
      ...(udpV6 ? [`by IPv6${publicV6 === undefined ? '' : ` as ${publicV6}`}`] : []),
    ];
    return fine(name, `packets get to a relay and back ${ways.join(', ')}`);
  }
  if (!report.relays.some(({ url }) => url.startsWith('https:')))
    return skipped(name, 'a relay without a certificate has no UDP to answer with');
  const fix =
    'let UDP out in the firewall; without it everything goes by the relay, or over TCP: tunnel expose … --webtransport <ip:port>';
  return problem(name, 'no UDP packet came back from any relay', fix, 'network');
}

export function checkNat({ relays, report }: Findings, addresses: readonly Address[]): Check {
  const name = 'nat';
  if (relays === 'none') return skipped(name, 'there is no relay to ask with --no-relay');
  if (!report || report.relays.length === 0) return skipped(name, NOBODY);
  const { publicV4, variesByDestinationV4: v4, variesByDestinationV6: v6 } = report;
  if (v4 || v6) {
    const detail = 'it gives every destination another port (symmetric), so two such peers stay on a relay';
    return problem(name, detail, PORT_FIX, 'network');
  }
  const host = publicV4?.replace(/:\d+$/, '');
  if (host !== undefined && addresses.some(({ address }) => address === host))
    return fine(name, 'none: the address outside is the one here');
  if (v4 === undefined && v6 === undefined)
    return skipped(name, 'its kind shows only where two relays answer by UDP');
  return fine(name, 'one port for all destinations: direct paths can be made through it');
}

/** Only where there is one. */
export function checkPortal({ report }: Findings): readonly Check[] {
  if (!report?.captivePortal) return [];
  const detail = 'this network answers in the name of others: it wants you to sign in';
  return [
    {
      ...problem('captive-portal', detail, 'open a web browser and sign in', 'network'),
      exit: BLAME.network,
    },
  ];
}
