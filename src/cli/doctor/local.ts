/** Every check that needs no peer, begun at once, told in a fixed order. */

import type { IrohEndpoint, NearbyNode } from '../../session/engines/iroh-network.js';
import { Identity } from '../../session/identity.js';
import { isSocketAddress } from '../../session/ticket.js';
import { descriptorLimit } from '../../tunnel/descriptors.js';
import { wait } from '../../tunnel/wait.js';
import { lockHolder } from '../identity-lock.js';
import { bindEndpoint, lanOff, type NetworkFlags, portFile, rememberedPort } from '../network-flags.js';
import type { Paths } from '../paths.js';
import { relayProxy } from '../proxy.js';
import { type Check, failed, skipped } from './check.js';
import { fileChecks } from './files.js';
import { lookAround, ownAddresses } from './look.js';
import {
  checkDns,
  checkFamily,
  checkLan,
  checkLoopback,
  checkMdns,
  checkNat,
  checkPortal,
  checkRelays,
  checkUdpOut,
  dnsHost,
  type Findings,
} from './network.js';
import { multicastRoundTrip, type ProbeError, udpRoundTrip } from './network-probes.js';
import { programChecks } from './program.js';
import { lookUp } from './resolve.js';
import {
  checkBuffers,
  checkClock,
  checkDescriptors,
  checkLastPort,
  checkPort,
  checkProxy,
  type LocalPort,
  measureBuffers,
  openDescriptors,
  reachTcp,
} from './system.js';

/** How long the internet is waited for, in all. */
export const INTERNET_MS = 5000;
/** Nodes of the local network answer within a second or two. */
const LAN_MS = 1500;
const MAX_ADDRESSES = 4;

export interface LocalOptions {
  readonly paths: Paths;
  readonly identityName: string;
  /** Where there is one that can be read: relays with a list let it in. */
  readonly identity: Identity | undefined;
  readonly flags: NetworkFlags;
  readonly ports: readonly LocalPort[];
}

export interface LocalChecks {
  /** None of them rejects. */
  readonly checks: readonly Promise<readonly Check[]>[];
  /** Who has been seen on the local network up to now. */
  readonly nearby: () => readonly NearbyNode[];
  close(): Promise<void>;
}

/** Throws USAGE for flags that make no sense. */
export async function startLocalChecks(options: LocalOptions): Promise<LocalChecks> {
  const { paths, identityName, identity, flags, ports } = options;
  const began = { wall: Date.now(), monotonic: performance.now() };
  // As it was given: binding an endpoint settles it.
  const env = { ...process.env };
  const bound = await bind(flags, identity);
  const endpoint = 'endpoint' in bound ? bound.endpoint : undefined;
  const addresses = ownAddresses();
  const relays = flags['no-relay'] ? 'none' : (flags.relay ?? 'default');
  const proxied = relayProxy(relays, env) !== undefined;
  const looking: Promise<Findings> = endpoint
    ? lookAround(endpoint, { relays, proxied, timeoutMs: INTERNET_MS })
    : Promise.resolve({ waitedMs: 0, relays, report: undefined, homeRelays: [], probes: [], proxied });
  const name = dnsHost(relays);
  const naming = lookUp(name, { timeoutMs: INTERNET_MS });
  const net = (check: (findings: Findings) => readonly Check[]) => looking.then(check);
  const one = async (check: Promise<Check> | Check) => [await check];
  const checks = [
    programChecks(),
    ...fileChecks(paths, identityName).map(one),
    one(openDescriptors().then((open) => checkDescriptors(descriptorLimit(), open))),
    one(measureBuffers().then(checkBuffers, (error: unknown) => failed('socket-buffers', error))),
    net(({ probes }) => {
      const remote = probes.find(({ aheadMs }) => aheadMs !== undefined);
      const wallMs = Date.now() - began.wall;
      const monotonicMs = performance.now() - began.monotonic;
      const ahead =
        remote?.aheadMs === undefined ? {} : { remote: { from: remote.url, aheadMs: remote.aheadMs } };
      return [checkClock({ now: Date.now(), wallMs, monotonicMs, ...ahead })];
    }),
    one(
      checkProxy({
        env,
        relays,
        reach: (host, port) => reachTcp(host, port, INTERNET_MS),
      }),
    ),
    ...(ports.length > 0 ? ports.map((port) => one(checkPort(port))) : [one(lastPort(options))]),
    one(udpRoundTrip('127.0.0.1').then(checkLoopback)),
    one(
      everyAddress(
        addresses.map(({ address }) => address),
        udpRoundTrip,
      ).then(checkLan),
    ),
    net(({ report }) => [checkFamily(4, addresses, report?.publicV4)]),
    net(({ report }) => [checkFamily(6, addresses, report?.publicV6)]),
    one(mdns(flags, endpoint, addresses.length > 0)),
    ...('error' in bound
      ? [one(failed('endpoint', bound.error))]
      : [
          looking.then(async (findings) => [checkDns(await naming, findings)]),
          net((findings) => checkRelays(findings, identity?.nodeId)),
          net((findings) => [checkUdpOut(findings)]),
          net((findings) => [checkNat(findings, addresses)]),
          net(checkPortal),
        ]),
  ];
  return {
    checks,
    nearby: () => endpoint?.nearby ?? [],
    close: async () => endpoint?.close(),
  };
}

/** What keeps from binding is a line like others; flags that make no sense are not. */
async function bind(
  flags: NetworkFlags,
  identity: Identity | undefined,
): Promise<{ readonly endpoint: IrohEndpoint } | { readonly error: unknown }> {
  try {
    const guest = identity ? { vouchedBy: identity } : {};
    return { endpoint: await bindEndpoint(Identity.generate(), flags, guest) };
  } catch (error) {
    if ((error as { readonly code?: string }).code === 'USAGE') throw error;
    return { error };
  }
}

async function everyAddress(
  addresses: readonly string[],
  probe: (address: string) => Promise<ProbeError>,
): Promise<readonly (readonly [string, ProbeError])[]> {
  return Promise.all(
    addresses.slice(0, MAX_ADDRESSES).map(async (address) => [address, await probe(address)] as const),
  );
}

/** The port that expose takes again, unless it is told which to take. */
async function lastPort({ paths, identityName, flags }: LocalOptions): Promise<Check> {
  if (flags.bind !== undefined && isSocketAddress(flags.bind)) return skipped('port', '--bind names it');
  const port = await rememberedPort(portFile(paths.state, identityName));
  return checkLastPort(port, await lockHolder(paths.runtime, identityName));
}

async function mdns(
  flags: NetworkFlags,
  endpoint: IrohEndpoint | undefined,
  isOnNetwork: boolean,
): Promise<Check> {
  const off = lanOff(flags);
  if (!endpoint) return skipped('mdns', 'there is no endpoint to look with');
  if (off !== undefined) return skipped('mdns', off);
  const [ipv4, ipv6] = await Promise.all([multicastRoundTrip(4), multicastRoundTrip(6), wait(LAN_MS)]);
  return checkMdns({
    startError: endpoint.lookupErrors.lan,
    multicast: isOnNetwork ? { ipv4, ipv6 } : undefined,
    nearby: endpoint.nearby,
  });
}
