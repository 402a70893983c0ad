/**
 * Link: the lasting relation with one peer. It keeps one session alive, notices within seconds when
 * the path or the peer is gone, dials beside a session that has gone quiet, and gives a reason for
 * every state. What is asked of it meanwhile waits.
 */
import { TunnelError, type TunnelErrorCode, toTunnelError, WIRE_CODES } from '../error.js';
import { closeError, type PeerSession } from './handshake.js';
import { Heartbeat } from './heartbeat.js';

const FIRST_RETRY_MS = 250;
const MAX_RETRY_MS = 10_000;
/** While connections wait for the session, and the peer was there lately, the next try is never further off. */
const URGENT_RETRY_MS = 1000;
const URGENT_FOR_MS = 5 * 60_000;
/** A session that lived this long was a good one: the next failure starts from the first delay again. */
const STABLE_AFTER_MS = 10_000;
/** A dial that hangs on a dead path does not hear the path come back; another one begins beside it. */
const DIAL_OVERLAP_MS = 1000;
const MAX_DIALS = 6;
/** Asking again would change nothing. */
const FINAL: ReadonlySet<TunnelErrorCode> = new Set(['DENIED', 'VERSION', 'ENGINE_UNAVAILABLE']);

export type LinkState =
  | { readonly state: 'connecting' }
  /** `downMs`: how long there was none before; undefined for the first session. */
  | { readonly state: 'connected'; readonly peer: PeerSession; readonly downMs: number | undefined }
  | {
      readonly state: 'reconnecting';
      /** Why there is no session. */
      readonly error: TunnelError;
      readonly nextTryMs: number;
      /** How long there has been none. */
      readonly downMs: number;
    }
  | { readonly state: 'closed'; readonly error: TunnelError | undefined };

export interface LinkOptions {
  /**
   * Makes an admitted session. Called again and again, also while another call runs; must honour the
   * signal. While a person at the other side is asked (`onPending`), no further call is made beside it.
   */
  dial(signal: AbortSignal, onPending: () => void): Promise<PeerSession>;
  onState(state: LinkState): void;
  /** The session's peer has not answered for so long, and is dialled again beside it; undefined: it answers again. */
  readonly onSilent?: ((peer: PeerSession, silentMs: number | undefined) => void) | undefined;
  /** Whether something waits for the session, or for the peer on it. */
  readonly busy?: () => boolean;
  /** Gives up, with UNREACHABLE, when there was no session for so long. Never unless given. */
  readonly giveUpAfterMs?: number | undefined;
  /** From 0 up to 1; spreads the retries of many clients. */
  readonly random?: () => number;
}

interface LiveEnd {
  readonly error: TunnelError;
  /** How long the peer had said nothing. */
  readonly silentMs?: number;
  /** A session that was made while this one was silent. */
  readonly next?: PeerSession;
}

interface Ended extends LiveEnd {
  readonly connectedMs: number;
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
  #heartbeat: Heartbeat | undefined;
  #ended: { error: TunnelError | undefined } | undefined;
  #endRetry: (() => void) | undefined;
  #dialAgain: (() => void) | undefined;
  #triedAt = 0;
  /** Monotonic; since when there has been no session. */
  #downSince = performance.now();
  #everConnected = false;

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
      // Somebody waits now: a long pause is not for them.
      if (this.#urgent() && performance.now() - this.#triedAt > URGENT_RETRY_MS) this.#endRetry?.();
    });
  }

  /** The sessions there are now: one, or none, or one beside those whose peer is about to end. */
  live(): Iterable<PeerSession> {
    return this.#sessions;
  }

  /** The machine's network changed, or it was asleep: asks the peer at once, or tries again at once. */
  networkChanged(): void {
    this.#heartbeat?.probe();
    this.#dialAgain?.();
    this.#endRetry?.();
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
    let next: PeerSession | undefined;
    let error: TunnelError | undefined;
    this.#options.onState({ state: 'connecting' });
    while (!signal.aborted) {
      const ended = next ? await this.#live(next, signal) : await this.#dialAndLive(signal);
      error = ended.error;
      if (signal.aborted || FINAL.has(error.code)) break;
      next = ended.next;
      if (ended.connectedMs > STABLE_AFTER_MS) delay = FIRST_RETRY_MS;
      if (next) continue;
      const downMs = performance.now() - this.#downSince;
      const { giveUpAfterMs } = this.#options;
      if (giveUpAfterMs !== undefined && downMs >= giveUpAfterMs) {
        error = new TunnelError(
          'UNREACHABLE',
          `no session with the peer for ${Math.round(giveUpAfterMs / 1000)} s: ${error.message}`,
        );
        break;
      }
      const random = 0.75 + 0.5 * (this.#options.random ?? Math.random)();
      const wait = Math.min(Math.round(delay * random), this.#urgent() ? URGENT_RETRY_MS : Infinity);
      const nextTryMs = giveUpAfterMs === undefined ? wait : Math.min(wait, giveUpAfterMs - downMs);
      this.#options.onState({ state: 'reconnecting', error, nextTryMs, downMs });
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

  /** Whether a pause of many seconds would be felt. */
  #urgent(): boolean {
    if (!this.#everConnected || performance.now() - this.#downSince > URGENT_FOR_MS) return false;
    return this.#waiting.size > 0 || (this.#options.busy?.() ?? false);
  }

  /** One session from dialling to its end. */
  async #dialAndLive(signal: AbortSignal): Promise<Ended> {
    let peer: PeerSession;
    try {
      peer = await this.#dialOverlapping(signal);
    } catch (error) {
      return { error: toTunnelError(error, 'UNREACHABLE'), connectedMs: 0 };
    }
    if (signal.aborted) {
      peer.session.close();
      return { error: aborted(), connectedMs: 0 };
    }
    return this.#live(peer, signal);
  }

  /** From a session's handshake to its end, or to one that takes its place. */
  async #live(peer: PeerSession, signal: AbortSignal): Promise<Ended> {
    const connectedAt = performance.now();
    const downMs = this.#everConnected ? connectedAt - this.#downSince : undefined;
    this.#everConnected = true;
    this.#current = peer;
    this.#sessions.add(peer);
    const gone = peer.session.closed.then((info) => {
      this.#sessions.delete(peer);
      return closeError(info);
    });
    const silence = this.#listen(peer, signal);
    this.#options.onState({ state: 'connected', peer, downMs });
    for (const waiter of this.#waiting) waiter.resolve(peer);
    this.#waiting.clear();
    // A peer that is about to end keeps the channels it has until then; new ones wait for the next session.
    const ended = await Promise.race([
      gone.then((error): LiveEnd => ({ error })),
      peer.goingAway.then((error): LiveEnd => ({ error })),
      silence.ended,
    ]);
    silence.stop();
    this.#current = undefined;
    const now = performance.now();
    // A path that fell silent has been down since it was last heard.
    this.#downSince = now - (ended.silentMs ?? 0);
    return { ...ended, connectedMs: now - connectedAt };
  }

  /**
   * Watches for silence. While the peer is suspect another session is dialled beside this one, so that
   * there is one as soon as the path is back, whatever the old one's timers say.
   */
  #listen(peer: PeerSession, outer: AbortSignal) {
    let end!: (ended: LiveEnd) => void;
    const ended = new Promise<LiveEnd>((resolve) => {
      end = resolve;
    });
    let beside: AbortController | undefined;
    const stopDialling = () => {
      beside?.abort();
      beside = undefined;
      outer.removeEventListener('abort', stopDialling);
    };
    const giveUp = (next?: PeerSession) => {
      const { silentMs } = heartbeat;
      const error = new TunnelError('SESSION_LOST', `no answer for ${Math.round(silentMs / 1000)} s`);
      end(next ? { error, silentMs, next } : { error, silentMs });
      peer.session.close(WIRE_CODES.SESSION_LOST, error.message);
    };
    const heartbeat = new Heartbeat(peer, {
      busy: () => this.#options.busy?.() ?? false,
      onSuspect: (suspect) => {
        stopDialling();
        if (outer.aborted) return;
        this.#options.onSilent?.(peer, suspect ? heartbeat.silentMs : undefined);
        if (!suspect) return;
        const dialling = new AbortController();
        beside = dialling;
        outer.addEventListener('abort', stopDialling, { once: true });
        this.#dialOverlapping(dialling.signal).then(
          (next) => {
            if (dialling.signal.aborted) next.session.close(WIRE_CODES.SESSION_LOST, 'not needed any more');
            else giveUp(next);
          },
          () => undefined,
        );
      },
      onDead: () => giveUp(),
    });
    this.#heartbeat = heartbeat;
    return {
      ended,
      stop: () => {
        heartbeat.stop();
        stopDialling();
        if (this.#heartbeat === heartbeat) this.#heartbeat = undefined;
      },
    };
  }

  /** The session of the first dial that comes through, a new one beginning every second. Throws the last one's error. */
  async #dialOverlapping(signal: AbortSignal): Promise<PeerSession> {
    const dials = new Set<AbortController>();
    const stop = () => {
      for (const dial of dials) dial.abort();
    };
    let timer: NodeJS.Timeout | undefined;
    let giveUp: NodeJS.Timeout | undefined;
    let done = false;
    const pending = new Set<AbortController>();
    try {
      return await new Promise<PeerSession>((resolve, reject) => {
        const begin = () => {
          const dial = new AbortController();
          dials.add(dial);
          // The oldest one waits for answers to packets that are long lost.
          if (dials.size > MAX_DIALS) for (const oldest of [...dials].slice(0, 1)) oldest.abort();
          this.#triedAt = performance.now();
          this.#options
            .dial(dial.signal, () => pending.add(dial))
            .then(
              (peer) => {
                // Two may come through: only the first is used.
                if (done) peer.session.close(WIRE_CODES.SESSION_LOST, 'another dial was faster');
                done = true;
                dials.delete(dial);
                resolve(peer);
              },
              (error: unknown) => {
                dials.delete(dial);
                pending.delete(dial);
                const reason = toTunnelError(error, 'UNREACHABLE');
                if (dials.size > 0 && !FINAL.has(reason.code)) return;
                done = true;
                reject(reason);
              },
            );
        };
        signal.addEventListener('abort', stop, { once: true });
        begin();
        if (signal.aborted) stop();
        const { giveUpAfterMs } = this.#options;
        // Dials that hang, with new ones beside them, would go on for ever.
        if (giveUpAfterMs !== undefined && !this.#current) {
          const left = giveUpAfterMs - (performance.now() - this.#downSince);
          const late = () => reject(new TunnelError('UNREACHABLE', 'the peer does not answer'));
          giveUp = setTimeout(late, Math.max(0, left));
        }
        this.#dialAgain = begin;
        timer = setInterval(() => {
          if (this.#urgent() && pending.size === 0) begin();
        }, DIAL_OVERLAP_MS);
      });
    } finally {
      done = true;
      this.#dialAgain = undefined;
      clearInterval(timer);
      clearTimeout(giveUp);
      signal.removeEventListener('abort', stop);
      stop();
    }
  }

  #pause(delayMs: number, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#endRetry = undefined;
        resolve();
      };
      const timer = setTimeout(done, delayMs);
      this.#endRetry = done;
    });
  }
}

function aborted(): TunnelError {
  return new TunnelError('ABORTED', 'the link to the peer was closed');
}
