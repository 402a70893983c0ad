/** What the system gives: files, buffers, time, local ports, and what the environment says of proxies. */

import { readdir } from 'node:fs/promises';
import { connect, createServer, isIP } from 'node:net';
import { systemCode, TunnelError } from '../../error.js';
import {
  askForBuffers,
  bindSocket,
  closeSocket,
  SOCKET_BUFFER_BYTES,
  udpSocket,
} from '../../tunnel/udp-socket.js';
import {
  type Environment,
  isHttpProxy,
  PROXY_VARIABLES,
  proxiedRelays,
  proxyOf,
  proxyUrl,
  type Relays,
} from '../proxy.js';
import { within } from '../within.js';
import { type Check, fine, problem, skipped } from './check.js';
import { boundedLookup } from './resolve.js';

/** Below this a busy forward comes to its end: every connection is a file. */
const FEW_DESCRIPTORS = 1024;
/** What Linux gives without being told: enough for some 500 Mbit/s with a busy event loop in between. */
const SMALL_BUFFER = 200 * 1024;
const KIB = 1024;
/** Certificates and tickets that expire do not mind less. */
const CLOCK_TOLERANCE_MS = 60_000;
/** No clock can be before this program. */
const EARLIEST = Date.UTC(2025, 0, 1);

export async function openDescriptors(): Promise<number | undefined> {
  const open = await readdir('/proc/self/fd').catch(() => undefined);
  return open?.length;
}

export function checkDescriptors(limit: number | undefined, open: number | undefined): Check {
  const name = 'open-files';
  if (limit === undefined) return skipped(name, 'the system does not tell the limit');
  const detail = `${limit} at most${open === undefined ? '' : `, ${open} are open now`}; every connection takes one`;
  if (limit >= FEW_DESCRIPTORS) return fine(name, detail);
  const fix = `ulimit -n 65536 before the start; under systemd LimitNOFILE=65536`;
  return problem(name, detail, fix, 'system');
}

export interface Buffers {
  /** Bytes, each way. */
  readonly asked: number;
  readonly given: number;
}

/** What a UDP socket gets. Throws the system's error. */
export async function measureBuffers(): Promise<Buffers> {
  const socket = udpSocket(4);
  try {
    await bindSocket(socket, 0, '127.0.0.1');
    return { asked: SOCKET_BUFFER_BYTES, given: askForBuffers(socket) };
  } finally {
    closeSocket(socket);
  }
}

export function checkBuffers({ asked, given }: Buffers, platform = process.platform): Check {
  const name = 'socket-buffers';
  const detail = `${Math.floor(given / KIB)} KiB of the ${asked / KIB} KiB that are asked for`;
  if (given >= asked) return fine(name, detail);
  const fix =
    platform === 'linux'
      ? 'sudo sysctl -w net.core.rmem_max=7340032 net.core.wmem_max=7340032'
      : platform === 'darwin'
        ? 'sudo sysctl -w kern.ipc.maxsockbuf=8388608'
        : 'raise the limit of socket buffers';
  if (given >= SMALL_BUFFER) return fine(name, `${detail}; bursts of UDP may be dropped`, fix);
  return problem(name, `${detail}: packets will be dropped`, fix, 'system');
}

export interface Clock {
  /** Milliseconds since the epoch. */
  readonly now: number;
  /** How far the wall clock went, and the monotonic one, in the same time. */
  readonly wallMs: number;
  readonly monotonicMs: number;
  /** What another machine said, and what it was here then. */
  readonly remote?: { readonly from: string; readonly aheadMs: number };
}

export function checkClock({ now, wallMs, monotonicMs, remote }: Clock): Check {
  const fix = 'set the clock: sudo timedatectl set-ntp true';
  if (now < EARLIEST) {
    return problem('clock', `it is ${new Date(now).toISOString()} here, which cannot be`, fix, 'system');
  }
  const jumped = wallMs - monotonicMs;
  if (Math.abs(jumped) > 1000) {
    const detail = `the clock jumped by ${(jumped / 1000).toFixed(1)} s while it was looked at`;
    return problem('clock', detail, `find out who sets it; ${fix}`, 'system');
  }
  if (!remote) return fine('clock', 'it runs evenly; there was nobody to compare it with');
  const seconds = Math.round(Math.abs(remote.aheadMs) / 1000);
  if (Math.abs(remote.aheadMs) > CLOCK_TOLERANCE_MS) {
    const detail = `it is ${seconds} s ${remote.aheadMs > 0 ? 'behind' : 'ahead of'} ${remote.from}`;
    return problem('clock', `${detail}: certificates and times of rights are judged wrongly`, fix, 'system');
  }
  return fine('clock', `it runs evenly, and agrees with ${remote.from} to ${Math.max(1, seconds)} s`);
}

export interface LocalPort {
  readonly protocol: 'tcp' | 'udp';
  readonly host: string;
  readonly port: number;
}

/** `15432`, `127.0.0.1:15432`, `[::1]:5353/udp`. Throws USAGE. */
export function parseLocalPort(text: string): LocalPort {
  const match = /^(?:(\[[^\]]+\]|[^:[\]]+):)?(\d{1,5})(\/(?:tcp|udp))?$/.exec(text);
  const host = match?.[1]?.replace(/^\[(.*)\]$/, '$1') ?? '127.0.0.1';
  const port = Number(match?.[2]);
  if (!match || isIP(host) === 0 || !(port >= 1 && port <= 65535)) {
    throw new TunnelError('USAGE', `'${text}' is no local port`, {
      hint: 'examples: --port 15432, --port 0.0.0.0:8080, --port 5353/udp',
    });
  }
  return { protocol: match[3] === '/udp' ? 'udp' : 'tcp', host, port };
}

export async function checkPort({ protocol, host, port }: LocalPort): Promise<Check> {
  const where = `${host.includes(':') ? `[${host}]` : host}:${port}${protocol === 'udp' ? '/udp' : ''}`;
  try {
    await (protocol === 'udp' ? tryUdp(host, port) : tryTcp(host, port));
    return fine('port', `${where} is free`);
  } catch (error) {
    const code = systemCode(error);
    if (code === 'EADDRINUSE') {
      const who = process.platform === 'win32' ? 'netstat -ano' : `ss -l${protocol[0]}np 'sport = :${port}'`;
      return problem(
        'port',
        `${where} is in use by another program`,
        `choose another, or see who has it: ${who}`,
        'port',
      );
    }
    const [why, fix] =
      code === 'EACCES'
        ? ['it is not permitted', 'choose a port above 1023']
        : code === 'EADDRNOTAVAIL'
          ? ['it is no address of this machine', 'choose 127.0.0.1 or an address that ip addr shows']
          : [code ?? (error as Error).message, 'choose another'];
    return problem('port', `${where} cannot be listened on: ${why}`, fix, 'port');
  }
}

/** Of the UDP port that an identity was last reached on. `holder`: who exposes under it now. */
export async function checkLastPort(
  port: number | undefined,
  holder: number | 'stale' | undefined,
): Promise<Check> {
  const name = 'port';
  if (port === undefined)
    return skipped(name, 'none was asked for with --port, and expose remembers none yet');
  const which = `${port}/udp, which expose used last,`;
  if (typeof holder === 'number')
    return fine(name, `${which} is that of the process ${holder}, which exposes`);
  const { ok } = await checkPort({ protocol: 'udp', host: '0.0.0.0', port });
  if (ok) return fine(name, `${which} is free: addresses in earlier tickets stay true`);
  const better = `end it (ss -lunp 'sport = :${port}'), or hand out the ticket of the next expose`;
  return fine(name, `${which} is in use by another program: addresses in earlier tickets lead there`, better);
}

async function tryUdp(host: string, port: number): Promise<void> {
  const socket = udpSocket(host.includes(':') ? 6 : 4);
  try {
    await bindSocket(socket, port, host);
  } finally {
    closeSocket(socket);
  }
}

function tryTcp(host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen({ host, port, exclusive: true }, () => server.close(() => resolve()));
  });
}

export interface ProxyOptions {
  readonly env: Environment;
  readonly relays: Relays;
  /** Resolves when a TCP connection came about; rejects with the system's error. */
  readonly reach: (host: string, port: number) => Promise<void>;
}

export async function checkProxy({ env, relays, reach }: ProxyOptions): Promise<Check> {
  const example = 'http://proxy.example.org:3128';
  const named = PROXY_VARIABLES.filter((variable) => env[variable]).map(
    (variable) => [variable, proxyUrl(env[variable] as string)] as const,
  );
  const broken = named.find(([, url]) => url === undefined);
  if (broken) return problem('proxy', `${broken[0]} is no URL`, `${broken[0]}=${example}`, 'config');
  const [other] = named.flatMap(([variable, url]) => (url && !isHttpProxy(url) ? [{ variable, url }] : []));
  const kind = other && `a proxy of the kind '${other.url.protocol.slice(0, -1)}', which is not used`;
  const proxy = proxyOf(env);
  if (!proxy) {
    if (!other) return fine('proxy', 'none is set');
    return problem(
      'proxy',
      `${other.variable} names ${kind}`,
      `name an HTTP proxy: https_proxy=${example}`,
      'config',
    );
  }
  const { variable, url } = proxy;
  // Not the whole URL: it may hold a password.
  const aside = other ? `; ${other.variable} names ${kind}` : '';
  if (relays === 'none')
    return fine('proxy', `${variable} is set, and nothing uses it without relays${aside}`);
  const through = proxiedRelays(relays, env);
  if (through.length === 0)
    return fine('proxy', `${variable} is set, and no_proxy excludes every relay${aside}`);
  const all = relays === 'default' || through.length === relays.length;
  const detail = `${variable}: relays are reached through ${url.host}${all ? '' : ', also those that no_proxy names, since there is one way for all'}${aside}`;
  try {
    await reach(
      url.hostname.replace(/^\[(.*)\]$/, '$1'),
      Number(url.port || (url.protocol === 'https:' ? 443 : 80)),
    );
    return fine('proxy', detail);
  } catch (error) {
    const why = systemCode(error) ?? (error as Error).message;
    return problem(
      'proxy',
      `${detail}, which does not answer (${why})`,
      `correct ${variable}, or unset it`,
      'network',
    );
  }
}

/** A TCP connection, opened and closed. Rejects with the system's error, or when the time is over. */
export async function reachTcp(host: string, port: number, timeoutMs: number): Promise<void> {
  const socket = connect({ host, port, lookup: boundedLookup(timeoutMs) });
  try {
    const done = new Promise<true>((resolve, reject) => {
      socket.once('connect', () => resolve(true));
      socket.once('error', reject);
    });
    if (!(await within(done, timeoutMs, false))) throw new Error(`no answer within ${timeoutMs / 1000} s`);
  } finally {
    socket.destroy();
  }
}
