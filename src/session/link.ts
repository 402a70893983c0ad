/**
 * Link: the lasting relation with one peer. It keeps one session alive, dials again with backoff
 * when that dies, and gives a reason for every state. What is asked of it meanwhile waits.
 */
import { TunnelError, type TunnelErrorCode, toTunnelError } from '../error.js';
import { closeError, type PeerSession } from './handshake.js';

const FIRST_RETRY_MS = 250;
const MAX_RETRY_MS = 10_000;
/** A session that lived this long was a good one: the next failure starts from the first delay again. */
const STABLE_AFTER_MS = 10_000;
/** Asking again would change nothing. */
const FINAL: ReadonlySet<TunnelErrorCode> = new Set(['DENIED', 'VERSION', 'ENGINE_UNAVAILABLE']);

export type LinkState =
  | { readonly state: 'connecting' }
  | { readonly state: 'connected'; readonly peer: PeerSession }
  | { readonly state: 'reconnecting'; readonly error: TunnelError; readonly nextTryMs: number }
  | { readonly state: 'closed'; readonly error: TunnelError | undefined };

export interface LinkOptions {
  /** Makes an admitted session. Called again and again; must honour the signal. */
  dial(signal: AbortSignal): Promise<PeerSession>;
  onState(state: LinkState): void;
  /** From 0 up to 1; spreads the retries of many clients. */
  readonly random?: () => number;
}

export class Link {
  readonly #options: LinkOptions;
  readonly #controller = new AbortController();
  readonly #waiting = new Set<{
    resolve: (peer: PeerSession) => void;
    reject: (error: TunnelError) => void;
  }>();
  /** Resolves when the link has ended: undefined after `close`, the error where it gave up. */
  readonly closed: Promise<TunnelError | undefined>;
  /** The current one, and those whose peer said that it is about to end. */
  readonly #sessions = new Set<PeerSession>();
  #current: PeerSession | undefined;
  #ended: { error: TunnelError | undefined } | undefined;
  #endRetry: (() => void) | undefined;

  constructor(options: LinkOptions) {
    this.#options = options;
    this.closed = this.#run();
  }

  /** The live session, at once or when there is one. Throws when the link ends, or the signal fires, before. */
  async session(signal?: AbortSignal): Promise<PeerSession> {
    if (this.#controller.signal.aborted) throw aborted();
    if (this.#current) return this.#current;
    if (this.#ended) throw this.#ended.error ?? aborted();
    if (signal?.aborted) throw aborted();
    return new Promise<PeerSession>((resolve, reject) => {
      const onAbort = () => {
        this.#waiting.delete(waiter);
        reject(aborted());
      };
      const waiter = {
        resolve: (peer: PeerSession) => {
          signal?.removeEventListener('abort', onAbort);
          resolve(peer);
        },
        reject: (error: TunnelError) => {
          signal?.removeEventListener('abort', onAbort);
          reject(error);
        },
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      this.#waiting.add(waiter);
    });
  }

  /** Ends the link and its session. Idempotent. */
  async close(closeCode = 0, reason = ''): Promise<void> {
    for (const { session } of this.#sessions) session.close(closeCode, reason);
    this.#controller.abort();
    this.#endRetry?.();
    await this.closed;
  }

  async #run(): Promise<TunnelError | undefined> {
    // The constructor must have returned before anyone is told anything.
    await null;
    const { signal } = this.#controller;
    let delay = FIRST_RETRY_MS;
    let error: TunnelError | undefined;
    this.#options.onState({ state: 'connecting' });
    while (!signal.aborted) {
      const ended = await this.#live(signal);
      error = ended.error;
      if (signal.aborted || FINAL.has(error.code)) break;
      if (ended.connectedMs > STABLE_AFTER_MS) delay = FIRST_RETRY_MS;
      const nextTryMs = Math.round(delay * (0.75 + 0.5 * (this.#options.random ?? Math.random)()));
      this.#options.onState({ state: 'reconnecting', error, nextTryMs });
      await this.#pause(nextTryMs, signal);
      delay = Math.min(delay * 2, MAX_RETRY_MS);
    }
    const final = signal.aborted ? undefined : error;
    this.#ended = { error: final };
    for (const waiter of this.#waiting) waiter.reject(final ?? aborted());
    this.#waiting.clear();
    this.#options.onState({ state: 'closed', error: final });
    return final;
  }

  /** One session from dialling to its end; answers why it ended, and how long it had been up. */
  async #live(signal: AbortSignal): Promise<{ error: TunnelError; connectedMs: number }> {
    let peer: PeerSession;
    try {
      peer = await this.#options.dial(signal);
    } catch (error) {
      return { error: toTunnelError(error, 'UNREACHABLE'), connectedMs: 0 };
    }
    if (signal.aborted) {
      peer.session.close();
      return { error: aborted(), connectedMs: 0 };
    }
    const connectedAt = performance.now();
    this.#current = peer;
    this.#options.onState({ state: 'connected', peer });
    for (const waiter of this.#waiting) waiter.resolve(peer);
    this.#waiting.clear();
    this.#sessions.add(peer);
    const gone = peer.session.closed.then((info) => {
      this.#sessions.delete(peer);
      return closeError(info);
    });
    // A peer that is about to end keeps the channels it has until then; new ones wait for the next session.
    const error = await Promise.race([gone, peer.goingAway]);
    this.#current = undefined;
    return { error, connectedMs: performance.now() - connectedAt };
  }

  #pause(delayMs: number, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, delayMs);
      this.#endRetry = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

function aborted(): TunnelError {
  return new TunnelError('ABORTED', 'the link to the peer was closed');
}
