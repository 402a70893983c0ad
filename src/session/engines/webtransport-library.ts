/**
 * The only importer of `@fails-components/webtransport` 1.6: loads it without a sound, and reaches what it
 * has no public name for. Where that is not there, `changed` says so: the engine does not run without it.
 */
import type { ClientHttp2Session, Http2Session } from 'node:http2';
import type { Server } from 'node:net';
import type * as Library from '@fails-components/webtransport';
import { TunnelError } from '../../error.js';
import type { WebTransportLike, WebTransportLink } from './webtransport-link.js';

const HTTP3_PACKAGE: string = '@fails-components/webtransport-transport-http3-quiche';
/** HTTP/2's own windows below that, bytes: Node's 64 KiB would be 1.3 MB/s at 50 ms. */
const HTTP2_WINDOW = 8 * 1024 * 1024;

export interface NativeSession {
  readonly capsParser?: { parseData(data: Buffer): void };
  readonly stream?: { readonly session?: Http2Session };
  readonly jsobj?: WebTransportLike & StreamReceiver;
}

interface StreamReceiver {
  readonly state: string;
  onStream(event: object): void;
}

export interface HasVisitor {
  onHttpWTSessionVisitor(event: { readonly session: NativeSession }): void;
}

export interface HttpServerInternals extends HasVisitor {
  readonly transportInt?: { readonly serverInt?: Server };
}

export interface HttpClientInternals extends HasVisitor {
  readonly transportInt?: { readonly clientInt?: ClientHttp2Session };
  onClientConnected(event: { readonly success: boolean }): void;
  onClientWebTransportSupport(event: object): void;
}

/** The module. */
export type WebTransportLibrary = typeof Library;

interface Loaded {
  readonly library: WebTransportLibrary;
  /** Whether the native part is there. */
  readonly http3: boolean;
}

let loading: Promise<Loaded> | undefined;

export async function loadLibrary(): Promise<Loaded> {
  loading ??= importQuietly();
  try {
    return await loading;
  } catch (error) {
    loading = undefined;
    throw new TunnelError('ENGINE_UNAVAILABLE', 'the WebTransport library cannot be loaded', {
      hint: "run 'npm ci' again",
      cause: error,
    });
  }
}

/** What the library prints when it finds no native part. */
const NOISE: ReadonlySet<unknown> = new Set([
  'Problem loading http3-quiche transport',
  'Did you install @fails-components/webtransport-transport-http3-quiche?',
  'http3 loader:',
]);

async function importQuietly(): Promise<Loaded> {
  const terminal = globalThis.console;
  const { log, error } = terminal;
  const filtered =
    (print: typeof log) =>
    (...parts: unknown[]) => {
      if (!NOISE.has(parts[0])) print.apply(terminal, parts);
    };
  // For good: two of its modules look for the native part, each for itself, and only one can be waited for.
  Object.assign(terminal, { log: filtered(log), error: filtered(error) });
  const library = await import('@fails-components/webtransport');
  const http3 = await import(HTTP3_PACKAGE).then(
    () => true,
    () => false,
  );
  await library.quicheLoaded;
  return { library, http3 };
}

/** Errors that a peer's bytes raise in the library end that connection, not the process. */
export function guardParser(server: HasVisitor, onSession: (native: NativeSession) => void): void {
  const visit = server.onHttpWTSessionVisitor.bind(server);
  server.onHttpWTSessionVisitor = (event) => {
    const parser = event.session.capsParser;
    if (parser) {
      const parse = parser.parseData.bind(parser);
      parser.parseData = (data) => {
        try {
          parse(data);
        } catch {
          event.session.stream?.session?.destroy();
        }
      };
    }
    visit(event);
    const receiver = event.session.jsobj;
    if (receiver) {
      const take = receiver.onStream.bind(receiver);
      receiver.onStream = (stream) => {
        // It would reset such a stream, and throw in the next tick, where nobody can catch it.
        if (receiver.state === 'closed' || receiver.state === 'failed')
          throw new Error('a stream after the end');
        take(stream);
      };
    }
    onSession(event.session);
  };
}

export function changed(): TunnelError {
  return new TunnelError('ENGINE_UNAVAILABLE', 'this version of the WebTransport library is not known', {
    hint: "run 'npm ci' to get the one that is",
  });
}

export function ignore(): void {}

// ---- connections

export function http2Link(http2: Http2Session, remote: string, destroySocket: () => void): WebTransportLink {
  return {
    path: { kind: 'webtransport-h2', remote },
    closed: new Promise((resolve) => {
      http2.once('close', () => resolve());
    }),
    destroy: () => {
      // Closed before it is destroyed: the library pings each second whatever is not closed, and would throw.
      if (!http2.closed) http2.close();
      http2.destroy();
      destroySocket();
    },
  };
}

export function http3Link(webTransport: WebTransportLike, remote: string): WebTransportLink {
  return {
    path: { kind: 'webtransport-h3', remote },
    closed: webTransport.closed.then(ignore, ignore),
    destroy: () => webTransport.close(),
  };
}

export function widen(http2: Http2Session): void {
  if (http2.destroyed) return;
  http2.settings({ initialWindowSize: HTTP2_WINDOW });
  http2.setLocalWindowSize(HTTP2_WINDOW);
}
