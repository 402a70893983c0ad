/** What `tunnel relay` is told, as the relay wants it. */
import { X509Certificate } from 'node:crypto';
import { access, constants, readFile } from 'node:fs/promises';
import { TunnelError } from '../error.js';
import type { RelayServerOptions } from '../session/engines/iroh-relay.js';
import type { NodeId } from '../session/node-id.js';
import { formatHostPort } from '../tunnel/spec.js';
import { extraRoots } from './extra-roots.js';
import { parseListenAddress, reachableHosts } from './listen-address.js';
import { parsePeer } from './peer.js';

const PLAIN_LISTEN = '0.0.0.0:3340';
const TLS_LISTEN = '0.0.0.0:443';
/** Where iroh asks; a relay's URL has no room for another. */
const DISCOVERY_PORT = 7842;
const LETS_ENCRYPT = 'https://acme-v02.api.letsencrypt.org/directory';

export interface RelayFlags {
  readonly listen?: string | undefined;
  readonly cert?: string | undefined;
  readonly key?: string | undefined;
  readonly acme?: readonly string[] | undefined;
  readonly 'acme-email'?: string | undefined;
  readonly 'acme-directory'?: string | undefined;
  readonly http?: string | undefined;
  readonly quic?: string | undefined;
  readonly metrics?: string | undefined;
  readonly rate?: string | undefined;
}

/** Throws USAGE for flags that make no sense, and BAD_CERTIFICATE. ACME keeps its account and certificates in `acmeFolder`. */
export async function relayOptions(flags: RelayFlags, acmeFolder: string): Promise<RelayServerOptions> {
  const tls = await tlsOptions(flags, acmeFolder);
  if (tls === undefined) {
    for (const flag of ['http', 'quic'] as const) {
      if (flags[flag] === undefined) continue;
      throw new TunnelError('USAGE', `--${flag} needs a certificate`, {
        hint: 'add --cert and --key, or --acme <domain>',
      });
    }
  }
  const listen = flags.listen ?? (tls === undefined ? PLAIN_LISTEN : TLS_LISTEN);
  const { host } = parseListenAddress(listen, '--listen');
  const quic = flags.quic ?? formatHostPort(host, DISCOVERY_PORT);
  // Without anything to say on plain HTTP it is not to be reached from outside.
  const http = flags.http ?? '127.0.0.1:0';
  const roots = await extraRoots();
  return {
    listen,
    ...(tls && 'domains' in tls ? { tls: { ...tls, roots } } : tls ? { tls } : {}),
    ...(tls ? { http: checked(http, '--http'), quic: checked(quic, '--quic') } : {}),
    ...(flags.metrics === undefined ? {} : { metrics: checked(flags.metrics, '--metrics') }),
    ...(flags.rate === undefined ? {} : { clientBytesPerSecond: parseRate(flags.rate) }),
  };
}

/**
 * Who may use the relay: node IDs, or tickets for the node IDs in them, and those of a file with one a line
 * (`#` begins a comment). Undefined where neither is given. Throws USAGE, BAD_NODE_ID or BAD_TICKET.
 */
export async function allowedNodes(
  peers: readonly string[] | undefined,
  file: string | undefined,
): Promise<readonly NodeId[] | undefined> {
  if (peers === undefined && file === undefined) return undefined;
  const lines = file === undefined ? [] : (await readList(file)).split('\n');
  const listed = lines.map((line) => line.replace(/#.*/, '').trim()).filter((line) => line !== '');
  return [...(peers ?? []), ...listed].map((peer) => parsePeer(peer).nodeId);
}

async function readList(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    throw new TunnelError('USAGE', `the list of nodes '${file}' cannot be read`, { cause });
  }
}

/** The URL by which nodes know the relay, as far as can be told from here. */
export async function relayUrl(flags: RelayFlags, listen: string): Promise<string> {
  const { host, port } = parseListenAddress(listen, '--listen');
  const name = flags.acme?.[0] ?? (flags.cert === undefined ? undefined : await certificateName(flags.cert));
  const secure = flags.acme !== undefined || flags.cert !== undefined;
  const authority = formatHostPort(name ?? (reachableHosts(host)[0] as string), port);
  // The URL drops the port where it is the scheme's own.
  return new URL(`${secure ? 'https' : 'http'}://${authority}/`).href;
}

async function tlsOptions(flags: RelayFlags, acmeFolder: string): Promise<RelayServerOptions['tls']> {
  const { cert, key, acme } = flags;
  if (acme !== undefined) {
    const email = flags['acme-email'];
    return {
      domains: acme,
      directory: flags['acme-directory'] ?? LETS_ENCRYPT,
      contact: email === undefined ? [] : [email],
      folder: acmeFolder,
    };
  }
  if (cert === undefined || key === undefined) return undefined;
  await Promise.all([readable(cert, 'certificate'), readable(key, 'key')]);
  return { certificate: cert, key };
}

async function readable(file: string, what: string): Promise<void> {
  try {
    await access(file, constants.R_OK);
  } catch (cause) {
    throw new TunnelError('BAD_CERTIFICATE', `the ${what} '${file}' cannot be read`, {
      hint: 'it is a PEM file that the user of this process may read',
      cause,
    });
  }
}

/** The name or IPv4 address that a certificate is for. Undefined for one that says no single one. */
async function certificateName(file: string): Promise<string | undefined> {
  try {
    const names = new X509Certificate(await readFile(file)).subjectAltName?.split(', ') ?? [];
    // Nodes refuse an IPv6 address: see `network-flags.ts`.
    const name = names.find((entry) => /^(DNS:[^*]+|IP Address:[\d.]+)$/.test(entry));
    return name?.replace(/^[^:]*:/, '');
  } catch {
    // It has been read by the relay itself, which knows better.
    return undefined;
  }
}

function checked(text: string, flag: string): string {
  parseListenAddress(text, flag);
  return text;
}

/** `500k`, `10M`, `1G`, or a bare number: bytes a second. */
function parseRate(text: string): number {
  const match = /^(\d+(?:\.\d+)?)([kMG])?$/.exec(text.trim());
  const unit = { k: 1e3, M: 1e6, G: 1e9 }[match?.[2] ?? ''] ?? 1;
  const rate = match ? Math.round(Number(match[1]) * unit) : 0;
  if (rate >= 1 && rate <= 0xffffffff) return rate;
  throw new TunnelError('USAGE', `'${text}' is no rate for --rate`, {
    hint: 'bytes a second, up to 4G; examples: --rate 500k, --rate 10M',
  });
}
