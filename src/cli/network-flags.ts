/** The flags of commands that use the network, and the endpoint they describe. */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { join } from 'node:path';
import { TunnelError } from '../error.js';
import type { Congestion } from '../session/engines/iroh.js';
import type { IrohEndpoint } from '../session/engines/iroh-network.js';
import type { Identity } from '../session/identity.js';
import { isSocketAddress } from '../session/ticket.js';
import { formatHostPort } from '../tunnel/spec.js';
import { extraRoots } from './extra-roots.js';
import { Flags } from './oclif.js';
import { settleProxy } from './proxy.js';

export const CONGESTIONS = ['cubic', 'bbr', 'newreno'] as const;
export const VIAS = ['auto', 'iroh', 'webtransport'] as const;
export const RESUME_TIMEOUT = '15m';

export const networkFlags = {
  relay: Flags.string({
    description: 'use this relay instead of the public ones (repeatable)',
    multiple: true,
    multipleNonGreedy: true,
    helpValue: '<url>',
  }),
  'no-relay': Flags.boolean({
    description: 'use no relay and look nothing up on the internet',
    exclusive: ['relay'],
  }),
  lan: Flags.boolean({
    description: 'find peers on the local network (mDNS)',
    default: true,
    allowNo: true,
  }),
  dns: Flags.boolean({
    description: "find peers through iroh's DNS, and be found; never with --no-relay",
    default: true,
    allowNo: true,
  }),
  dht: Flags.boolean({
    description: 'also find peers, and be found, through the public BitTorrent DHT',
  }),
  congestion: Flags.string({
    description: 'congestion control of what is sent',
    options: [...CONGESTIONS],
    default: CONGESTIONS[0],
  }),
  bind: Flags.string({
    description: 'use this local address only, optionally with a UDP port',
    helpValue: '<ip[:port]>',
  }),
};

/** Of the commands that stay, and show what they do. */
export const statsFlags = {
  'share-stats': Flags.boolean({
    description: 'tell a peer what is measured here of the sessions with it',
    default: true,
    allowNo: true,
  }),
};

/** How many bytes a second may pass. */
export const rateFlag = {
  'limit-rate': Flags.string({
    description:
      'bytes a second each way: of everything, of one service (db=500kB/s); of expose also of one peer (peer:alice=2Mbit); repeatable',
    multiple: true,
    multipleNonGreedy: true,
    default: [],
    helpValue: '[<service>=]<rate>',
  }),
};

/** Of the commands that dial. */
export const dialFlags = {
  ...networkFlags,
  via: Flags.string({
    description: 'which way to the peer to take',
    options: [...VIAS],
    default: VIAS[0],
  }),
};

/** How long connections wait for a session that was lost. */
export const resumeFlag = {
  'resume-timeout': Flags.string({
    description: 'how long open connections wait for a lost session',
    default: RESUME_TIMEOUT,
    helpValue: '<time>',
  }),
};

export interface DialFlags extends NetworkFlags {
  readonly via: string;
}

export interface NetworkFlags {
  readonly relay?: readonly string[] | undefined;
  readonly 'no-relay': boolean;
  readonly bind?: string | undefined;
  readonly lan: boolean;
  readonly dns: boolean;
  readonly dht: boolean;
  readonly congestion: string;
}

export interface EndpointOptions {
  /** Where to remember the UDP port. */
  readonly portFile?: string;
  /** Be found on the local network by the node ID. */
  readonly announce?: boolean;
  /** What it shows of itself there, to everybody. */
  readonly lanName?: string | undefined;
  /** Whose guest an endpoint with a key of its own is at relays. */
  readonly vouchedBy?: Identity;
}

/** Throws USAGE for flags that make no sense, else what binding throws. */
export async function bindEndpoint(
  identity: Identity,
  flags: NetworkFlags,
  { portFile, announce = false, lanName, vouchedBy }: EndpointOptions = {},
): Promise<IrohEndpoint> {
  const { bindIroh } = await import('../session/engines/iroh.js');
  const relayRoots = await extraRoots();
  checkRelays(flags.relay);
  const named = flags.relay && flags.relay.length > 0 ? flags.relay : 'default';
  const relay = flags['no-relay'] ? 'none' : named;
  settleProxy(relay, process.env);
  const bindTo = (bind: readonly string[]) =>
    bindIroh({
      identity,
      bind,
      relay,
      addressLookup: flags.dns && !flags['no-relay'],
      // Nothing on the network reaches a loopback address.
      ...(flags.lan && !bind.some(isLoopback) ? { lan: { announce, name: lanName } } : {}),
      // Where there is no relay to name, the addresses are all there is to publish.
      ...(flags.dht ? { dht: { publish: flags['no-relay'] ? 'addresses' : 'relay' } as const } : {}),
      ...(vouchedBy ? { vouchedBy } : {}),
      relayRoots,
      congestion: flags.congestion as Congestion,
    });
  if (flags.bind !== undefined && isSocketAddress(flags.bind)) return bindTo([flags.bind]);
  const host = flags.bind === undefined ? undefined : bindHost(flags.bind);
  if (portFile === undefined) return bindTo(host === undefined ? [] : [formatHostPort(host, 0)]);
  return bindRememberedPort(host, portFile, bindTo);
}

/** The file that remembers which UDP port an identity was last reached on. */
export function portFile(stateFolder: string, identityName: string): string {
  return join(stateFolder, `${identityName}.port`);
}

/** Undefined where none was remembered. */
export async function rememberedPort(file: string): Promise<number | undefined> {
  const port = Number(await readFile(file, 'utf8').catch(() => ''));
  return Number.isInteger(port) && port > 0 && port <= 65535 ? port : undefined;
}

/**
 * Takes the port of the last time when it is free: a ticket's addresses, and what peers remember,
 * stay true across a restart, also where there is nothing to look them up in.
 */
async function bindRememberedPort(
  host: string | undefined,
  file: string,
  bindTo: (bind: readonly string[]) => Promise<IrohEndpoint>,
): Promise<IrohEndpoint> {
  const remembered = await rememberedPort(file);
  const tries: string[][] = [];
  if (remembered !== undefined) {
    if (host !== undefined) tries.push([formatHostPort(host, remembered)]);
    // A machine without IPv6 has no [::] to bind.
    else tries.push([`0.0.0.0:${remembered}`, `[::]:${remembered}`], [`0.0.0.0:${remembered}`]);
  }
  for (const bind of tries) {
    try {
      return await bindTo(bind);
    } catch (error) {
      if (!(error instanceof TunnelError) || (error.code !== 'PORT_IN_USE' && error.code !== 'CANNOT_BIND'))
        throw error;
    }
  }
  const endpoint = await bindTo(host === undefined ? [] : [formatHostPort(host, 0)]);
  const port = endpoint
    .boundAddresses()
    .find((address) => !address.startsWith('[') || host !== undefined)
    ?.replace(/^.*:/, '');
  if (port !== undefined) await rememberPort(file, port);
  return endpoint;
}

async function rememberPort(file: string, port: string): Promise<void> {
  // Only a convenience: a read-only state folder must not keep anyone from exposing.
  await mkdir(join(file, '..'), { recursive: true, mode: 0o700 })
    .then(() => writeFile(file, `${port}\n`, { mode: 0o600 }))
    .catch(() => undefined);
}

/** Throws USAGE. */
export function checkRelays(urls: readonly string[] = []): void {
  for (const url of urls) {
    if (!/^https?:\/\/[^/]/.test(url) || !URL.canParse(url)) {
      throw new TunnelError('USAGE', `'${url}' is no relay URL`, {
        hint: 'example: --relay https://relay.example.org',
      });
    }
    // The engine looks for the brackets in the certificate, finds none, and would try for ever.
    if (/^https:\/\/\[/.test(new URL(url).href)) {
      throw new TunnelError('USAGE', `a relay with TLS cannot be named by an IPv6 address, as in '${url}'`, {
        hint: 'use its name: --relay https://relay.example.org',
      });
    }
  }
}

function isLoopback(address: string): boolean {
  return /^(?:127\.|\[?::1(?:\]|$))/.test(address);
}

/** Why nobody on the local network is looked for, nor finds this node; undefined where they do. */
export function lanOff({ lan, bind }: Pick<NetworkFlags, 'lan' | 'bind'>): string | undefined {
  if (!lan) return '--no-lan';
  return bind !== undefined && isLoopback(bind)
    ? `bound to ${bind}, which nothing on the network reaches`
    : undefined;
}

function bindHost(text: string): string {
  const host = text.replace(/^\[(.*)\]$/, '$1');
  if (isIP(host) === 0) {
    throw new TunnelError('USAGE', `'${text}' is no address to bind to`, {
      hint: 'examples: --bind 192.0.2.7, --bind 192.0.2.7:4433',
    });
  }
  return host;
}
