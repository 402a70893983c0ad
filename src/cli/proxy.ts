/** The HTTP proxy that the environment names, for what iroh reaches by HTTP: relays and look-ups. */
import { BlockList, isIP } from 'node:net';

export type Environment = Readonly<Record<string, string | undefined>>;

/** What relays are used: the public ones, none, or these URLs. */
export type Relays = 'default' | 'none' | readonly string[];

export interface Proxy {
  /** The variable that names it. */
  readonly variable: string;
  /** May hold a password. */
  readonly url: URL;
}

/**
 * The first that can be used counts. A relay is reached by CONNECT whatever its own scheme, and that is
 * what proxies for HTTPS are for.
 */
export const PROXY_VARIABLES = [
  ...['https_proxy', 'HTTPS_PROXY', 'http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'],
] as const;
/** Those that iroh itself reads. */
const READ_BY_IROH = ['HTTP_PROXY', 'http_proxy', 'HTTPS_PROXY', 'https_proxy'] as const;
/** The parent of all the public ones' names. */
const PUBLIC_RELAYS = 'https://relay.n0.iroh.link/';

/** What a variable holds, as a URL: without a scheme it is an HTTP proxy. Undefined for what is none. */
export function proxyUrl(text: string): URL | undefined {
  const url = /^[a-z][a-z0-9+.-]*:\/\//i.test(text) ? text : `http://${text}`;
  return URL.canParse(url) ? new URL(url) : undefined;
}

export function isHttpProxy({ protocol }: URL): boolean {
  return protocol === 'http:' || protocol === 'https:';
}

/** The proxy, whatever it is used for. */
export function proxyOf(env: Environment): Proxy | undefined {
  for (const variable of PROXY_VARIABLES) {
    const url = env[variable] ? proxyUrl(env[variable]) : undefined;
    if (url && isHttpProxy(url)) return { variable, url };
  }
  return undefined;
}

/** Those relays that `no_proxy` does not name. */
export function proxiedRelays(relays: Relays, env: Environment): readonly string[] {
  const urls = relays === 'none' ? [] : relays === 'default' ? [PUBLIC_RELAYS] : relays;
  const excluded = env.no_proxy || env.NO_PROXY || '';
  return urls.filter((url) => !isExcluded(new URL(url), excluded));
}

/**
 * The proxy that relays are reached through. iroh takes one for all of them, so it is left out only where
 * all are excluded.
 */
export function relayProxy(relays: Relays, env: Environment): Proxy | undefined {
  return proxiedRelays(relays, env).length === 0 ? undefined : proxyOf(env);
}

/**
 * Whether `no_proxy` excludes a URL, as curl reads it: names with all that ends in them, addresses and
 * networks, each with a port or without, and `*` for everything.
 */
export function isExcluded(url: URL, noProxy: string): boolean {
  const host = url.hostname.replace(/^\[|\]$|\.$/g, '').toLowerCase();
  const port = url.port || (url.protocol === 'https:' ? '443' : '80');
  return noProxy
    .toLowerCase()
    .split(/[\s,]+/)
    .some((entry) => entry === '*' || (entry !== '' && matches(entry, host, port)));
}

function matches(entry: string, host: string, port: string): boolean {
  const { name, only } = splitPort(entry);
  if (only !== undefined && only !== port) return false;
  const family = isIP(host);
  if (family !== 0) return holds(name, host, family);
  const domain = name.replace(/^\*?\.|\.$/g, '');
  return host === domain || host.endsWith(`.${domain}`);
}

/** `host:port`, `[IPv6]:port`; an IPv6 address without brackets has no port. */
function splitPort(entry: string): { readonly name: string; readonly only?: string } {
  const found = /^(?:\[(.*)\]|([^:]*))(?::(\d+))?$/.exec(entry);
  if (!found) return { name: entry };
  const [, bracketed, plain, only] = found;
  return { name: bracketed ?? plain ?? '', ...(only === undefined ? {} : { only }) };
}

/** Whether an address is one, or in a network such as `10.0.0.0/8`. */
function holds(entry: string, address: string, family: number): boolean {
  const [network = '', prefix = family === 4 ? '32' : '128'] = entry.split('/');
  const bits = Number(prefix);
  if (
    isIP(network) !== family ||
    !(Number.isInteger(bits) && bits >= 0 && bits <= (family === 4 ? 32 : 128))
  ) {
    return false;
  }
  const list = new BlockList();
  const kind = family === 4 ? 'ipv4' : 'ipv6';
  list.addSubnet(network, bits, kind);
  return list.check(address, kind);
}

/**
 * Leaves in the environment what makes iroh do so: it reads variables in an order of its own and knows no
 * `NO_PROXY`. To be called before an endpoint is bound.
 */
export function settleProxy(relays: Relays, env: Record<string, string | undefined>): void {
  const proxy = proxyOf(env);
  if (!proxy) return;
  const { href } = proxy.url;
  const used = relayProxy(relays, env) !== undefined;
  const wanted: Environment = {
    ...(used ? { HTTPS_PROXY: href } : {}),
    // iroh does not read it, but its look-ups' HTTP library does, and that one knows NO_PROXY.
    ALL_PROXY: href,
  };
  // The second endpoint of a process finds it settled: nothing may be written while the first one reads.
  for (const variable of [...READ_BY_IROH, 'ALL_PROXY']) {
    const value = wanted[variable];
    if (env[variable] === value) continue;
    if (value === undefined) delete env[variable];
    else env[variable] = value;
  }
}
