/**
 * HELLO: what each side says first on the control stream. JSON, because it is small, rare, and grows
 * by optional fields; checked field by field, because it is the one message strangers may send.
 */
import { TunnelError } from '../error.js';
import { MAX_CONTROL_BYTES } from './frame.js';
import { isNodeId, type NodeId } from './node-id.js';

/** The major version is also in the ALPN; it is said here so that an error can name both. */
export const MAJOR_VERSION = 1;
/** Minor version of protocol `tunnel/1`. */
export const MINOR_VERSION = 0;
/** Optional parts of the protocol this build knows. A peer may require them; it may not require others. */
export const SUPPORTED_FEATURES: readonly string[] = [];
const MAX_LIST = 256;
const TEXT = /^[\x20-\x7e]{1,128}$/;

export interface ServiceInfo {
  readonly name: string;
  readonly protocol: 'tcp' | 'udp';
}

export interface Hello {
  readonly major: number;
  readonly minor: number;
  /** Random per process: tells a restarted peer from one that was only out of reach. 32 hex digits. */
  readonly instanceId: string;
  readonly identity: NodeId;
  /** Base64url: the identity's signature over this session's key material. Absent when the endpoint's own key is the identity. */
  readonly proof?: string;
  /** Capability tokens, base64url. Dialler only. */
  readonly tokens?: readonly string[];
  /** What the dialler is going to ask for; absent where it does not know. */
  readonly wants?: readonly ServiceInfo[];
  readonly supported: readonly string[];
  readonly required: readonly string[];
  /** How long the sender's channels wait for a session, milliseconds. Dialler only. */
  readonly resumeTimeoutMs?: number;
  /** IP addresses of the sender's machine itself. */
  readonly hosts?: readonly string[];
  /** What the receiver of this HELLO may reach. Acceptor only; absent where the list is too long to send. */
  readonly services?: readonly ServiceInfo[];
}

export function encodeHello(hello: Hello): Buffer {
  const body = Buffer.from(JSON.stringify(hello), 'utf8');
  if (body.length <= MAX_CONTROL_BYTES) return body;
  const { services: _, wants: __, ...rest } = hello;
  return Buffer.from(JSON.stringify(rest), 'utf8');
}

/** Throws PROTOCOL for anything that is not a HELLO. Fields it does not know are ignored. */
export function decodeHello(body: Buffer): Hello {
  let value: unknown;
  try {
    value = JSON.parse(body.toString('utf8'));
  } catch (error) {
    throw malformed('it is not JSON', error);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw malformed('it is no object');
  const {
    major,
    minor,
    instanceId,
    identity,
    proof,
    tokens,
    supported,
    required,
    services,
    wants,
    resumeTimeoutMs,
    hosts,
  } = value as Record<string, unknown>;
  if (typeof major !== 'number' || !Number.isInteger(major) || major < 0) throw malformed('major');
  if (typeof minor !== 'number' || !Number.isInteger(minor) || minor < 0) throw malformed('minor');
  if (typeof instanceId !== 'string' || !/^[0-9a-f]{32}$/.test(instanceId)) throw malformed('instanceId');
  if (typeof identity !== 'string' || !isNodeId(identity)) throw malformed('identity');
  if (proof !== undefined && typeof proof !== 'string') throw malformed('proof');
  if (resumeTimeoutMs !== undefined && !(typeof resumeTimeoutMs === 'number' && resumeTimeoutMs >= 0))
    throw malformed('resumeTimeoutMs');
  return {
    major,
    minor,
    instanceId,
    identity,
    ...(proof === undefined ? {} : { proof }),
    ...(tokens === undefined ? {} : { tokens: textList(tokens, 'tokens') }),
    supported: textList(supported, 'supported'),
    required: textList(required, 'required'),
    ...(services === undefined ? {} : { services: decodeServices(services) }),
    ...(wants === undefined ? {} : { wants: decodeWants(wants) }),
    ...(resumeTimeoutMs === undefined ? {} : { resumeTimeoutMs }),
    ...(hosts === undefined ? {} : { hosts: textList(hosts, 'hosts') }),
  };
}

function textList(value: unknown, field: string): readonly string[] {
  if (!Array.isArray(value) || value.length > MAX_LIST) throw malformed(field);
  if (!value.every((item): item is string => typeof item === 'string' && TEXT.test(item)))
    throw malformed(field);
  return value;
}

/** Strangers say it, and people are shown it. */
function decodeWants(value: unknown): readonly ServiceInfo[] {
  const wants = decodeServices(value);
  if (wants.length > MAX_LIST) throw malformed('wants');
  return wants;
}

/** Throws PROTOCOL. */
export function decodeServices(value: unknown): readonly ServiceInfo[] {
  if (!Array.isArray(value)) throw malformed('services');
  return value.map((item: unknown) => {
    const { name, protocol } = (item ?? {}) as Record<string, unknown>;
    if (typeof name !== 'string' || !TEXT.test(name) || (protocol !== 'tcp' && protocol !== 'udp'))
      throw malformed('services');
    return { name, protocol };
  });
}

function malformed(what: string, cause?: unknown): TunnelError {
  return new TunnelError('PROTOCOL', `the peer sent a malformed HELLO (${what})`, { cause });
}
