/**
 * `stats.watch`: each side may follow what the other measures of their sessions. A peer is told of its
 * own traffic only, once a second, and a side that wants to tell nothing has no such method.
 */
import { TunnelError } from '../error.js';
import { printable } from '../session/frame.js';
import type { PeerSession } from '../session/handshake.js';
import type { Dispatcher } from '../session/rpc-session.js';
import type { PeerFigures } from './status.js';
import type { StatusModel } from './status-model.js';
import { wait } from './wait.js';

const METHOD = 'stats.watch';
const INTERVAL_MS = 1000;
const MAX_PATH_NAME = 32;
/** An expose with thousands of peers asks only so many of them. */
const MAX_WATCHED = 64;

/** The method as this side serves it to `peer`. */
export function statsMethods(model: StatusModel, peer: string): Dispatcher {
  return {
    [METHOD]: async function* (_payload, { signal }) {
      while (!signal.aborted) {
        const figures = model.peerFigures(peer);
        if (figures) yield Buffer.from(JSON.stringify(figures), 'utf8');
        await wait(INTERVAL_MS, { signal, keepAlive: false });
      }
    },
  };
}

/** Asks the peers of a model for as long as someone looks at it. */
export class PeerWatch {
  readonly #model: StatusModel;
  readonly #calls = new Map<PeerSession, AbortController>();
  /** Those that do not tell are not asked again. */
  readonly #silent = new WeakSet<PeerSession>();
  readonly #timer: NodeJS.Timeout;

  constructor(model: StatusModel) {
    this.#model = model;
    this.#timer = setInterval(() => this.#look(), INTERVAL_MS);
    this.#timer.unref();
  }

  close(): void {
    clearInterval(this.#timer);
    for (const call of this.#calls.values()) call.abort();
  }

  #look(): void {
    const wanted = new Set(this.#model.watched ? this.#model.liveSessions().slice(-MAX_WATCHED) : []);
    for (const [session, call] of this.#calls) if (!wanted.has(session)) call.abort();
    for (const session of wanted) {
      if (!this.#calls.has(session) && !this.#silent.has(session)) void this.#follow(session);
    }
  }

  async #follow(session: PeerSession): Promise<void> {
    const call = new AbortController();
    this.#calls.set(session, call);
    try {
      const items = session.rpc.streamingCall(METHOD, undefined, { signal: call.signal });
      for await (const item of items) this.#model.peerSays(session, decodeFigures(item));
      this.#silent.add(session);
    } catch {
      // Left by this side, refused, not known to an older peer, or malformed: nothing to show, nothing to tell.
      if (!call.signal.aborted) this.#silent.add(session);
    } finally {
      this.#calls.delete(session);
      this.#model.peerSays(session, undefined);
    }
  }
}

/** Throws PROTOCOL for anything but figures. */
export function decodeFigures(item: Uint8Array): PeerFigures {
  let from: Record<string, unknown>;
  try {
    from = Object(JSON.parse(Buffer.from(item).toString('utf8')));
  } catch (error) {
    throw new TunnelError('PROTOCOL', 'the peer sent malformed figures', { cause: error });
  }
  const number = (key: string): number => {
    const value = from[key];
    if (typeof value === 'number' && Number.isFinite(value) && value >= 0) return value;
    throw new TunnelError('PROTOCOL', `the peer sent figures without '${key}'`);
  };
  return {
    bytesIn: number('bytesIn'),
    bytesOut: number('bytesOut'),
    rateIn: number('rateIn'),
    rateOut: number('rateOut'),
    channels: number('channels'),
    rttMs: number('rttMs'),
    path: printable(String(from.path).slice(0, MAX_PATH_NAME)),
    ...(from.lossRatio === undefined ? {} : { lossRatio: Math.min(1, number('lossRatio')) }),
  };
}
