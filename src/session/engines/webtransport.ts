/**
 * The `webtransport` engine: sessions over W3C WebTransport, on HTTP/2 over TLS, or on HTTP/3 where the
 * library's native part is installed. For networks that let nothing but HTTPS through.
 *
 * What the HTTP/2 side of `@fails-components/webtransport` gets wrong (1.6.8; pinned in
 * test/contract/webtransport-defects.test.ts) is worked around here and in `webtransport-library.ts`:
 * - Credit for streams is never given back, and the first stream a server opens loses data: one stream,
 *   opened by the dialler, carries everything; the session's streams are our own (`mux-session.ts`).
 * - Windows that may grow deadlock: `WINDOWS` are at their limit from the start.
 * - It reads on whether or not anyone takes the data: the mux's credits are what bounds memory.
 * - A certificate that a CA vouches for passes whatever its hash: `pinCertificate`.
 * - A session that is destroyed while it connects lets its socket connect, and throws then: `pinCertificate`.
 * - What a peer sends can throw in its event handlers, which would end the process: `guardParser`.
 * - A server's close waits for its connections for ever: `ConnectionGuard`.
 * - It prints when it is imported: `importQuietly`.
 */
import { randomBytes } from 'node:crypto';
import type { ClientHttp2Session } from 'node:http2';
import { isIP } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { systemCode, TunnelError, type TunnelErrorCode, toTunnelError } from '../../error.js';
import type { Identity } from '../identity.js';
import type { NodeId } from '../node-id.js';
import { AsyncQueue } from '../queue.js';
import type { AddressHints, Endpoint, Session } from '../session.js';
import { makeCertificate, type ShortCertificate } from './webtransport-certificate.js';
import { ConnectionGuard, remoteOf } from './webtransport-guard.js';
import {
  changed,
  guardParser,
  type HasVisitor,
  type HttpClientInternals,
  type HttpServerInternals,
  http2Link,
  http3Link,
  ignore,
  loadLibrary,
  type NativeSession,
  type WebTransportLibrary,
  widen,
} from './webtransport-library.js';
import {
  establish,
  type WebTransportLike,
  type WebTransportLink,
  watchStreams,
} from './webtransport-link.js';

const PATH = '/tunnel';
/** From the first packet to a session, proofs and all. */
const HANDSHAKE_TIMEOUT_MS = 10_000;
/** How long a try by HTTP/3 may take before HTTP/2 has its turn; the same for a listener's UDP socket. */
const HTTP3_TIMEOUT_MS = 3_000;
/** The library's own timeouts throw where they are overtaken. Ours come first, and clear them. */
const NEVER_MS = 3_600_000;

const WINDOW = 8 * 1024 * 1024;
/** A server counts its receive window from the limit but announces the initial one: equal, they agree. */
const WINDOWS = {
  initialStreamFlowControlWindow: WINDOW,
  streamFlowControlWindowSizeLimit: WINDOW,
  initialSessionFlowControlWindow: WINDOW,
  sessionFlowControlWindowSizeLimit: WINDOW,
};

export interface ListenOptions {
  readonly identity: Identity;
  /** `ip:port`, IPv6 in brackets; port 0 for any. */
  readonly listen: string;
  /** Milliseconds; for tests. */
  readonly handshakeTimeoutMs?: number;
}

export interface WebTransportListener extends Endpoint {
  /** SHA-256 of the listener's certificate, 64 hex digits. It lasts as long as the listener. */
  readonly certificateHash: string;
  /** `ip:port` as bound. */
  readonly address: string;
}

export interface DialOptions {
  readonly identity: Identity;
  readonly nodeId: NodeId;
  /** `host:port`, IPv6 in brackets. */
  readonly address: string;
  /** As `WebTransportListener.certificateHash`. */
  readonly certificateHash: string;
  readonly signal?: AbortSignal;
  /** Milliseconds; for tests. */
  readonly handshakeTimeoutMs?: number;
}

/** A session on WebTransport. */
export interface WebTransportSession extends Session {
  /** True: its datagrams share the stream, where none is lost and each waits for what was sent before it. */
  readonly reliableDatagrams: boolean;
}

/** Throws ENGINE_UNAVAILABLE, PORT_IN_USE or CANNOT_BIND. */
export async function listenWebTransport(options: ListenOptions): Promise<WebTransportListener> {
  const { host, port } = splitAddress(options.listen, 'CANNOT_BIND');
  if (isIP(host) === 0) throw new TunnelError('CANNOT_BIND', `'${options.listen}' is not ip:port`);
  const { library, http3 } = await loadLibrary();
  const listener = new Listener(options, makeCertificate());
  await listener.start(library, host, port);
  if (http3) await listener.startHttp3(library);
  return listener;
}

/**
 * Dials one address. Throws ENGINE_UNAVAILABLE; UNREACHABLE where nobody, another certificate or another
 * node answers; DENIED where a proof fails; ABORTED when the signal fires.
 */
export async function dialWebTransport(options: DialOptions): Promise<WebTransportSession> {
  splitAddress(options.address, 'UNREACHABLE');
  if (!/^[0-9a-f]{64}$/.test(options.certificateHash)) {
    throw new TunnelError('UNREACHABLE', 'the certificate hash is not 64 hex digits');
  }
  const { library, http3 } = await loadLibrary();
  return within(options.signal, options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS, async (ended) => {
    const byHttp3 = http3 ? await dialHttp3(library, options, ended) : undefined;
    const { webTransport, link } = byHttp3 ?? (await dialHttp2(library, options, ended));
    watchStreams(webTransport, link);
    const pair = await webTransport.createBidirectionalStream();
    const { identity, nodeId: expected, certificateHash } = options;
    const session = await establish(pair, link, { role: 'dialler', identity, expected, certificateHash });
    if (ended.aborted) link.destroy();
    return session;
  });
}

type HttpServer = InstanceType<WebTransportLibrary['HttpServer']>;
type HttpServerInit = ConstructorParameters<WebTransportLibrary['HttpServer']>[0];

interface Dialled {
  readonly webTransport: WebTransportLike;
  readonly link: WebTransportLink;
}

// ---- dialling

async function dialHttp2(
  library: WebTransportLibrary,
  { address, certificateHash }: DialOptions,
  ended: AbortSignal,
): Promise<Dialled> {
  const webTransport = new library.WebTransport(`https://${address}${PATH}`, {
    forceReliable: true,
    // None at all: whether it matches is decided in `pinCertificate`, and nowhere else.
    serverCertificateHashes: [],
    quicConnectTimeout: NEVER_MS,
    webTransportConnectTimeout: NEVER_MS,
    initialBidirectionalSendStreams: 1,
    initialUnidirectionalSendStreams: 1,
    ...WINDOWS,
  } as object);
  for (const promise of [webTransport.ready, webTransport.closed]) promise.catch(ignore);
  const client = webTransport.sessionint.parentobj as unknown as HttpClientInternals;
  const http2 = client.transportInt?.clientInt;
  if (!http2?.socket) throw changed();
  const pinned = pinCertificate(http2, certificateHash);
  guardParser(client, ignore);
  let cause: unknown;
  http2.on('error', (error) => {
    cause ??= error;
  });
  http2.once('connect', () => widen(http2));
  const link = http2Link(http2, address, pinned.destroy);
  void link.closed.then(() => {
    // Nothing in the library waits for this: without it, its timers and promises would stay.
    client.onClientConnected({ success: false });
    client.onClientWebTransportSupport({});
  });
  if (ended.aborted) link.destroy();
  ended.addEventListener('abort', () => link.destroy(), { once: true });
  try {
    await webTransport.ready;
  } catch (error) {
    link.destroy();
    const why = pinned.matches === false ? 'another certificate' : (systemCode(cause) ?? 'no answer');
    throw new TunnelError('UNREACHABLE', `no WebTransport at ${address}: ${why}`, { cause: cause ?? error });
  }
  if (pinned.matches !== true) {
    link.destroy();
    throw changed();
  }
  return { webTransport: webTransport as unknown as WebTransportLike, link };
}

/**
 * Compares the certificate before HTTP/2 has sent its first byte. The library would not look at the hash
 * of a certificate that a CA vouches for; here it is told of no hash, and `authorized` is ours to set.
 */
function pinCertificate(http2: ClientHttp2Session, hash: string) {
  const pinned = {
    /** Undefined before the certificate has been seen. */
    matches: undefined as boolean | undefined,
    /** Also while it is connecting, where the session would let it, and the library throw when it is. */
    destroy: () => socket.destroy(),
  };
  const see = function (this: TLSSocket) {
    const seen = this.getPeerX509Certificate()?.fingerprint256.replaceAll(':', '').toLowerCase();
    pinned.matches = seen === hash;
    this.authorized = pinned.matches;
    if (pinned.matches) return;
    // Without a session, HTTP/2 is not begun. The library still asks the session for its socket, to see
    // that it is not authorized; a destroyed one has none, and that would throw.
    http2.destroy();
    Object.defineProperty(http2, 'socket', { value: this });
  };
  // The session's `socket` stands for the true one, and refuses to be destroyed; this answers that one.
  const socket = http2.socket.prependOnceListener('secureConnect', see);
  return pinned;
}

/** Undefined where HTTP/3 does not get through. Its native part checks the hash, and nothing but the hash. */
async function dialHttp3(
  library: WebTransportLibrary,
  { address, certificateHash }: DialOptions,
  ended: AbortSignal,
): Promise<Dialled | undefined> {
  try {
    const webTransport = new library.WebTransport(`https://${address}${PATH}`, {
      requireUnreliable: true,
      serverCertificateHashes: [{ algorithm: 'sha-256', value: Buffer.from(certificateHash, 'hex') }],
      quicConnectTimeout: HTTP3_TIMEOUT_MS,
    });
    for (const promise of [webTransport.ready, webTransport.closed]) promise.catch(ignore);
    const link = http3Link(webTransport as unknown as WebTransportLike, address);
    ended.addEventListener('abort', () => link.destroy(), { once: true });
    await webTransport.ready;
    return { webTransport: webTransport as unknown as WebTransportLike, link };
  } catch {
    return undefined;
  }
}

// ---- listening

class Listener implements WebTransportListener {
  readonly nodeId: NodeId;
  readonly certificateHash: string;
  readonly incoming = new AsyncQueue<Session>();
  readonly #options: ListenOptions;
  readonly #certificate: ShortCertificate;
  readonly #servers: HttpServer[] = [];
  readonly #sessions = new Set<Session>();
  readonly #links = new Set<WebTransportLink>();
  #address = '';
  #port = 0;
  #guard: ConnectionGuard | undefined;
  #closing: Promise<void> | undefined;

  constructor(options: ListenOptions, certificate: ShortCertificate) {
    this.nodeId = options.identity.nodeId;
    this.certificateHash = certificate.hash;
    this.#options = options;
    this.#certificate = certificate;
  }

  get address(): string {
    return this.#address;
  }

  async start(library: WebTransportLibrary, host: string, port: number): Promise<void> {
    const server = new library.Http2Server(this.#serverOptions(host, port));
    try {
      await this.#run(server);
    } catch (error) {
      const code = systemCode(error) === 'EADDRINUSE' ? 'PORT_IN_USE' : 'CANNOT_BIND';
      const why = systemCode(error) ?? String(error);
      throw new TunnelError(code, `cannot listen on ${this.#options.listen} (${why})`, { cause: error });
    }
    const tcp = (server as unknown as HttpServerInternals).transportInt?.serverInt;
    const bound = tcp?.address();
    if (!tcp || !bound || typeof bound === 'string') throw changed();
    this.#address = remoteOf({ remoteAddress: bound.address, remotePort: bound.port });
    this.#port = bound.port;
    this.#guard = new ConnectionGuard(tcp, this.#options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS);
    tcp.on('session', widen);
  }

  /** On the UDP port of the same number. Whoever cannot have that is still reached by HTTP/2. */
  async startHttp3(library: WebTransportLibrary): Promise<void> {
    const { host } = splitAddress(this.#address, 'CANNOT_BIND');
    const server = new library.Http3Server(this.#serverOptions(host, this.#port));
    await within(undefined, HTTP3_TIMEOUT_MS, () => this.#run(server)).catch(ignore);
  }

  async connect(_nodeId: NodeId, _hints: AddressHints): Promise<Session> {
    throw new TunnelError('UNSUPPORTED', 'WebTransport needs the hash of a certificate to dial', {
      hint: 'use dialWebTransport',
    });
  }

  addresses(): AddressHints {
    return { direct: [this.#address], relays: [] };
  }

  boundAddresses(): readonly string[] {
    return [this.#address];
  }

  async networkChange(): Promise<void> {}

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.incoming.end();
    for (const server of this.#servers) server.stopServer();
    const held = [...this.#links];
    for (const session of this.#sessions) session.close();
    await Promise.all(held.map(({ closed }) => closed));
    this.#guard?.destroyAll();
    await Promise.all(this.#servers.map(({ closed }) => closed));
  }

  async #run(server: HttpServer): Promise<void> {
    // With a handler for requests, paths and WebSockets are decided on here.
    server.setRequestCallback(async ({ header }: { header: Readonly<Record<string, unknown>> }) => {
      const wanted = header[':protocol'] === 'webtransport' && header[':path'] === PATH;
      return { status: wanted && !this.#closing ? 200 : 404, path: PATH };
    });
    guardParser(server as unknown as HasVisitor, (native) => this.#onSession(native));
    server.startServer();
    await server.ready;
    this.#servers.push(server);
  }

  #serverOptions(host: string, port: number): HttpServerInit {
    return {
      host,
      port,
      secret: randomBytes(16).toString('hex'),
      cert: this.#certificate.certificate,
      privKey: this.#certificate.privateKey,
      initialBidirectionalStreams: 1,
      initialUnidirectionalStreams: 1,
      ...WINDOWS,
    } as object as HttpServerInit;
  }

  #onSession(native: NativeSession): void {
    const webTransport = native.jsobj;
    if (!webTransport) return;
    for (const promise of [webTransport.ready, webTransport.closed]) promise.catch(ignore);
    const http2 = native.stream?.session;
    if (native.stream && !http2) return;
    const remote = http2 ? remoteOf(http2.socket) : '';
    const link = http2
      ? http2Link(http2, remote, () => this.#guard?.destroy(remote))
      : http3Link(webTransport, remote);
    watchStreams(webTransport, link, (pair) => {
      const { identity } = this.#options;
      const { certificateHash } = this;
      establish(pair, link, { role: 'acceptor', identity, certificateHash }).then(
        (session) => this.#onProven(session, link, remote),
        ignore,
      );
    });
  }

  #onProven(session: Session, link: WebTransportLink, remote: string): void {
    this.#guard?.proven(remote);
    this.#sessions.add(session);
    this.#links.add(link);
    void session.closed.then(() => this.#sessions.delete(session));
    void link.closed.then(() => this.#links.delete(link));
    if (this.#closing || !this.incoming.push(session)) session.close();
  }
}

// ---- helpers

/** Runs `work`, which is to give up when its signal fires, no longer than `timeoutMs` or the caller's signal. */
async function within<T>(
  signal: AbortSignal | undefined,
  timeoutMs: number,
  work: (ended: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  const given = new Promise<never>((_resolve, reject) => {
    controller.signal.addEventListener('abort', () => reject(controller.signal.reason), { once: true });
  });
  given.catch(ignore);
  const onAbort = () => controller.abort(new TunnelError('ABORTED', 'dialling was cancelled'));
  const onLate = () =>
    controller.abort(new TunnelError('UNREACHABLE', `no answer within ${timeoutMs / 1000} s`));
  const timer = setTimeout(onLate, timeoutMs);
  if (signal?.aborted) onAbort();
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    if (controller.signal.aborted) throw controller.signal.reason;
    const working = work(controller.signal);
    working.catch(ignore);
    return await Promise.race([given, working]);
  } catch (error) {
    throw toTunnelError(error, 'UNREACHABLE');
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
  }
}

function splitAddress(address: string, code: TunnelErrorCode): { host: string; port: number } {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^\s:/@?#[\]]+)):(\d{1,5})$/.exec(address);
  const port = Number(match?.[3]);
  if (!match || port > 65_535) throw new TunnelError(code, `'${address}' is not host:port`);
  return { host: (match[1] ?? match[2]) as string, port };
}
