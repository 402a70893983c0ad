/**
 * The two grammars of the command line: what `expose` offers and where `forward` listens.
 * `test/unit/spec.test.ts` holds the table of both.
 */
import { isIP } from 'node:net';
import { basename } from 'node:path';
import { TunnelError } from '../error.js';

export type Protocol = 'tcp' | 'udp';

/** Where an exposed service is. `udp` has no unix form. */
export type Target =
  | { readonly kind: 'socket'; readonly protocol: Protocol; readonly host: string; readonly port: number }
  | { readonly kind: 'unix'; readonly protocol: 'tcp'; readonly path: string };

export interface Service {
  readonly name: string;
  readonly target: Target;
}

/** Where a forward listens. */
export type Local =
  | { readonly kind: 'socket'; readonly host: string; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string };

export interface ForwardSpec {
  readonly local: Local;
  readonly protocol: Protocol;
  readonly service: string;
}

const TARGET_EXAMPLES =
  '8080, web=localhost:3000, db=tcp:10.0.0.5:5432, dns=udp:53, docker=unix:/run/docker.sock';
const SPEC_EXAMPLES = '5432, 15432:db, 0.0.0.0:8080:web, 5353:dns/udp, unix:/tmp/db.sock:db';
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const HOST_NAME = /^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})$/;
/** What a unix socket address holds on Linux, less its end; macOS takes 103. */
const MAX_UNIX_PATH_BYTES = 107;

/** `[name=][tcp:|udp:][host:]port`, `[name=]unix:/path`. Throws USAGE naming the token. */
export function parseTarget(text: string): Service {
  const fail = (problem: string) => usage(`target '${text}' ${problem}`, `examples: ${TARGET_EXAMPLES}`);
  const equals = text.indexOf('=');
  const named = equals >= 0 && !text.startsWith('unix:');
  const name = named ? text.slice(0, equals) : undefined;
  const rest = named ? text.slice(equals + 1) : text;
  if (name !== undefined && !NAME.test(name)) {
    throw fail(`has the name '${name}'; a name is 1 to 64 letters, digits, '.', '_' or '-'`);
  }
  if (rest.startsWith('unix:')) {
    const path = parseUnixPath(rest.slice('unix:'.length), fail);
    const given = name ?? basename(path);
    if (!NAME.test(given)) throw fail('needs a name, since its path gives no usable one: name=unix:/path');
    return { name: given, target: { kind: 'unix', protocol: 'tcp', path } };
  }
  const { protocol, address } = parseProtocol(rest, fail);
  const { host, port } = parseHostPort(address, fail);
  if (host === '*') throw fail("has the host '*', which is only for listening");
  if (port === 0) throw fail('has port 0; a target needs a port from 1 to 65535');
  return {
    name: name ?? String(port),
    target: { kind: 'socket', protocol, host: host ?? '127.0.0.1', port },
  };
}

/** `[[bind:]localport:]service[/udp]`, `unix:/path:service`. Throws USAGE naming the token. */
export function parseForwardSpec(text: string): ForwardSpec {
  const fail = (problem: string) => usage(`spec '${text}' ${problem}`, `examples: ${SPEC_EXAMPLES}`);
  const slash = /^(.*)\/([^/:]*)$/.exec(text);
  const isUnix = text.startsWith('unix:');
  const suffix = !isUnix && slash ? slash[2] : undefined;
  if (suffix !== undefined && suffix !== 'udp' && suffix !== 'tcp') {
    throw fail(`ends in '/${suffix}'; only /udp and /tcp are known`);
  }
  const body = suffix === undefined ? text : (slash?.[1] ?? '');
  const colon = body.lastIndexOf(':');
  const service = body.slice(colon + 1);
  if (!NAME.test(service)) {
    throw fail(`asks for the service '${service}'; a name is 1 to 64 letters, digits, '.', '_' or '-'`);
  }
  if (isUnix) {
    if (colon < 'unix:'.length) throw fail('names no service: unix:/path:service');
    return {
      local: { kind: 'unix', path: parseUnixPath(body.slice('unix:'.length, colon), fail) },
      protocol: 'tcp',
      service,
    };
  }
  const protocol = suffix ?? 'tcp';
  if (colon < 0) {
    if (!/^\d+$/.test(service))
      throw fail(`names no local port: 15432:${service}, or 0:${service} for a free one`);
    return {
      local: { kind: 'socket', host: '127.0.0.1', port: parsePort(service, fail) },
      protocol,
      service,
    };
  }
  const { host, port } = parseHostPort(body.slice(0, colon), fail);
  return {
    local: { kind: 'socket', host: host === '*' ? '::' : (host ?? '127.0.0.1'), port },
    protocol,
    service,
  };
}

/** A service as rights name it: `db`, whatever its protocol, or `dns/udp`. */
export function isServiceRight(text: string): boolean {
  return NAME.test(text.replace(/\/(?:tcp|udp)$/, ''));
}

/** Throws USAGE for a name offered twice under one protocol. */
export function parseTargets(texts: readonly string[]): readonly Service[] {
  const services = texts.map(parseTarget);
  const seen = new Map<string, string>();
  for (const [index, { name, target }] of services.entries()) {
    const key = `${target.protocol} ${name}`;
    const other = seen.get(key);
    if (other !== undefined) {
      throw usage(
        `targets '${other}' and '${texts[index]}' are both named '${name}'`,
        `name one of them: ${name}-2=${texts[index]?.replace(/^[A-Za-z0-9._-]+=/, '')}`,
      );
    }
    seen.set(key, texts[index] as string);
  }
  return services;
}

/** Throws USAGE for two specs that listen on one port or path. */
export function parseForwardSpecs(texts: readonly string[]): readonly ForwardSpec[] {
  const specs = texts.map(parseForwardSpec);
  const seen = new Map<string, string>();
  for (const [index, { local, protocol }] of specs.entries()) {
    if (local.kind === 'socket' && local.port === 0) continue;
    const key = `${protocol} ${formatLocal(local)}`;
    const other = seen.get(key);
    if (other !== undefined) {
      throw usage(
        `specs '${other}' and '${texts[index]}' both listen on ${formatLocal(local)}`,
        'give one of them another local port: 15432:db',
      );
    }
    seen.set(key, texts[index] as string);
  }
  return specs;
}

export function isSameSpec(one: ForwardSpec, other: ForwardSpec): boolean {
  const isSame = one.protocol === other.protocol && one.service === other.service;
  return isSame && formatLocal(one.local) === formatLocal(other.local);
}

/** A service as a spec names it: `db`, `dns/udp`. */
export function formatService(name: string, protocol: string): string {
  return protocol === 'udp' ? `${name}/udp` : name;
}

export function formatForwardSpec({ local, service, protocol }: ForwardSpec): string {
  return `${formatLocal(local)}:${formatService(service, protocol)}`;
}

export function formatTarget(target: Target): string {
  return target.kind === 'unix' ? `unix:${target.path}` : formatHostPort(target.host, target.port);
}

export function formatLocal(local: Local): string {
  return local.kind === 'unix' ? `unix:${local.path}` : formatHostPort(local.host, local.port);
}

export function formatHostPort(host: string, port: number): string {
  return isIP(host) === 6 ? `[${host}]:${port}` : `${host}:${port}`;
}

type Fail = (problem: string) => TunnelError;

function parseProtocol(text: string, fail: Fail): { protocol: Protocol; address: string } {
  const word = /^([A-Za-z]+):/.exec(text)?.[1];
  if (word === 'tcp' || word === 'udp') return { protocol: word, address: text.slice(word.length + 1) };
  // `word:port` is a host name; `word:host:port` can only have meant a protocol.
  if (word !== undefined && /^[A-Za-z]+:.*:/.test(text) && !text.startsWith('[')) {
    throw fail(`has the protocol '${word}'; tcp, udp and unix are known`);
  }
  return { protocol: 'tcp', address: text };
}

function parseHostPort(text: string, fail: Fail): { host: string | undefined; port: number } {
  const match = /^(?:(?:\[([^\]]*)\]|([^:[\]]*)):)?([^:[\]]*)$/.exec(text);
  if (!match) throw fail('is not understood; an IPv6 address goes in brackets: [::1]:8080');
  const [, ip6, name, portText] = match;
  if (ip6 !== undefined && isIP(ip6) !== 6) throw fail(`has '${ip6}' in brackets, which is no IPv6 address`);
  if (name !== undefined && name !== '*' && isIP(name) !== 4 && !isHostName(name)) {
    throw fail(`has the host '${name}', which is neither an address nor a host name`);
  }
  return { host: ip6 ?? name, port: parsePort(portText ?? '', fail) };
}

/** Digits and dots alone were meant as an IPv4 address: `256.0.0.1` is no name to look up. */
function isHostName(text: string): boolean {
  return HOST_NAME.test(text) && !/^[\d.]+$/.test(text);
}

function parsePort(text: string, fail: Fail): number {
  if (!/^\d{1,9}$/.test(text)) throw fail(`has '${text}' where a port belongs`);
  const port = Number(text);
  if (port > 65535) throw fail(`has port ${text}; ports go up to 65535`);
  return port;
}

function parseUnixPath(path: string, fail: Fail): string {
  if (!path.startsWith('/')) throw fail('needs an absolute path behind unix:');
  if (Buffer.byteLength(path) > MAX_UNIX_PATH_BYTES) {
    throw fail(
      `has a path of ${Buffer.byteLength(path)} bytes; unix sockets take at most ${MAX_UNIX_PATH_BYTES}`,
    );
  }
  if (/\p{Cc}/u.test(path)) throw fail('has a control character in its path');
  return path;
}

function usage(message: string, hint: string): TunnelError {
  return new TunnelError('USAGE', message, { hint });
}
