/**
 * From a library's WebTransport session to one of ours: takes its one stream, proves the node IDs on it,
 * puts the mux there, and sees to it that the connection below goes when the session has ended.
 */
import type { Identity } from '../identity.js';
import { PairStream, type StreamPair } from '../mux-pair-stream.js';
import { MuxSession } from '../mux-session.js';
import type { NodeId } from '../node-id.js';
import type { SessionPath } from '../session.js';
import { proveIdentities } from './webtransport-proof.js';

/** How long the side that ends a session waits for the other one to have taken its last frames. */
const LINGER_MS = 2_000;

/** The parts of a W3C WebTransport session that are used. */
export interface WebTransportLike {
  readonly ready: Promise<unknown>;
  readonly closed: Promise<unknown>;
  readonly incomingBidirectionalStreams: ReadableStream<StreamPair>;
  readonly incomingUnidirectionalStreams: ReadableStream<unknown>;
  readonly datagrams: { readonly readable: ReadableStream<Uint8Array> };
  createBidirectionalStream(): Promise<StreamPair>;
  close(): void;
}

/** The connection that one session has for itself. */
export interface WebTransportLink {
  readonly path: Pick<SessionPath, 'kind' | 'remote'>;
  /** Resolves when nothing of it is open any more. */
  readonly closed: Promise<void>;
  /** At once, without a word. Idempotent. */
  destroy(): void;
}

export interface EstablishOptions {
  readonly role: 'dialler' | 'acceptor';
  readonly identity: Identity;
  readonly expected?: NodeId;
  readonly certificateHash: string;
}

/** Throws as `proveIdentities`; the link is destroyed then, after the peer could hear of it. */
export async function establish(
  pair: StreamPair,
  link: WebTransportLink,
  options: EstablishOptions,
): Promise<MuxSession> {
  const stream = new PairStream(pair);
  void link.closed.then(() => stream.fail());
  try {
    const { remoteId, rest, exportKeyingMaterial } = await proveIdentities(stream, options);
    const session = new MuxSession(stream, {
      remoteId,
      role: options.role,
      path: link.path,
      exportKeyingMaterial,
      rest: rest(),
    });
    // The side that closed has to wait for the other's end: a connection that goes too early takes the
    // last frames with it. The other side has nothing more to say.
    void session.closed.then(({ by }) => release(link, by === 'local' ? stream.readEnded : stream.flushed));
    return session;
  } catch (error) {
    stream.finish();
    stream.stop(0);
    if (options.role === 'dialler') link.destroy();
    else void release(link, stream.readEnded);
    throw error;
  }
}

async function release(link: WebTransportLink, done: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, LINGER_MS);
    timer.unref();
  });
  await Promise.race([done, link.closed, late]);
  clearTimeout(timer);
  link.destroy();
}

/**
 * Passes on the first stream the peer opens, where there may be one, and ends the link for any other: the
 * library would keep what comes on a stream, or as a datagram, without a bound.
 */
export function watchStreams(
  webTransport: WebTransportLike,
  link: WebTransportLink,
  first?: (pair: StreamPair) => void,
): void {
  let take = first;
  void forEach(webTransport.incomingBidirectionalStreams, (pair) => {
    if (take) take(pair);
    else link.destroy();
    take = undefined;
  });
  void forEach(webTransport.incomingUnidirectionalStreams, () => link.destroy());
  void forEach(webTransport.datagrams.readable, () => undefined);
}

async function forEach<T>(stream: ReadableStream<T>, use: (item: T) => void): Promise<void> {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      use(value);
    }
  } catch {
    // It ended with its session, which is told elsewhere.
  }
}
