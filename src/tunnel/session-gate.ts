/**
 * The gate in front of the handshake: how many sessions may be half-open, how many handshakes a second
 * are looked at, how many sessions there may be.
 *
 * Who dials is not known before HELLO, and a flood sends what it likes, so that a peer that belongs here
 * must get through all the same:
 * - where too many are half-open, the oldest of the busiest address is given up for the newest: a
 *   dialler that means it sends HELLO at once;
 * - an address nobody has been admitted from is refused before HELLO once it has used up its share;
 * - from one that somebody has been admitted from, HELLO is read first. A process that was here before
 *   names the 128 random bits by which it is known, and is let through at no charge;
 *   anybody else is refused before a signature is checked.
 */
import { TunnelError } from '../error.js';
import type { Hello } from '../session/hello.js';
import type { NodeId } from '../session/node-id.js';
import type { Session } from '../session/session.js';
import { type Limits, Quota, type Refusals } from './limits.js';
import { TokenBucket } from './token-bucket.js';

/** Addresses whose share is remembered; those that have it whole again are forgotten first. */
const MAX_ADDRESSES = 8192;
/** Addresses from which somebody was admitted; the longest ago is forgotten first. */
const MAX_KNOWN_ADDRESSES = 4096;

export interface GateOptions {
  readonly limits: Limits;
  /** Whether that process has been admitted before and is remembered. */
  isKnown(remote: Hello): boolean;
  /** Something was turned away; called for each one. */
  onRefused(session: Session, error: TunnelError): void;
  readonly now?: () => number;
}

/** One session on its way through the gate. */
export interface Arrival {
  /** Its HELLO is here, its identity not proven yet. Throws LIMIT. */
  heard(remote: Hello): void;
  /** It is who it says it is. From now on it counts as one of that peer's sessions. Throws LIMIT. */
  proven(peer: NodeId): void;
  /** It has been let in. */
  admitted(): void;
  /** It has ended, in whatever way. Idempotent. */
  end(): void;
}

export class SessionGate {
  readonly #options: GateOptions;
  readonly #limits: Limits;
  readonly #now: () => number;
  readonly #sessions: Quota;
  readonly #halfOpen = new Map<string, Set<Waiting>>();
  #halfOpenCount = 0;
  readonly #shares = new Map<string, TokenBucket>();
  readonly #strangers: TokenBucket;
  readonly #known = new Set<string>();
  #lapsed = 0;
  #refused = 0;

  constructor(options: GateOptions) {
    this.#options = options;
    this.#limits = options.limits;
    this.#now = options.now ?? (() => performance.now());
    const { sessions, sessionsPerPeer, handshakes, handshakeBurst } = options.limits;
    this.#sessions = new Quota('sessions', sessionsPerPeer, sessions);
    this.#strangers = new TokenBucket(handshakes, handshakeBurst, this.#now());
  }

  get refusals(): Pick<Refusals, 'halfOpen' | 'handshakes' | 'sessions'> {
    return { halfOpen: this.#lapsed, handshakes: this.#refused, sessions: this.#sessions.refused };
  }

  get halfOpen(): number {
    return this.#halfOpenCount;
  }

  /** Undefined when it was turned away; the session is closed then. */
  arrive(session: Session): Arrival | undefined {
    const address = addressOf(session);
    const isKnownAddress = this.#known.has(address);
    if (!isKnownAddress && !this.#takeShare(address, false)) {
      this.#turnAway(session, tooFast());
      return undefined;
    }
    this.#makeRoom(address);
    const waiting = new Waiting(session, address, this.#limits.helloTimeoutMs, (late) => {
      this.#giveUp(late, new TunnelError('TIMEOUT', 'the peer did not send its HELLO in time'));
    });
    this.#add(waiting);
    let isKnownProcess = false;
    let held: NodeId | undefined;
    return {
      heard: (remote) => {
        this.#remove(waiting);
        isKnownProcess = this.#options.isKnown(remote);
        if (isKnownProcess || !isKnownAddress || this.#takeShare(address, true)) return;
        this.#refused += 1;
        throw tooFast();
      },
      proven: (peer) => {
        this.#sessions.take(peer, isKnownProcess ? this.#limits.sessionReserve : 0);
        held = peer;
      },
      admitted: () => this.#remember(address),
      end: () => {
        this.#remove(waiting);
        if (held !== undefined) this.#sessions.give(held);
        held = undefined;
      },
    };
  }

  #takeShare(address: string, isKnownAddress: boolean): boolean {
    const now = this.#now();
    let share = this.#shares.get(address);
    if (!share) {
      if (this.#shares.size >= MAX_ADDRESSES) this.#forgetShares(now);
      const { handshakesPerAddress, handshakeBurstPerAddress } = this.#limits;
      share = new TokenBucket(handshakesPerAddress, handshakeBurstPerAddress, now);
      this.#shares.set(address, share);
    }
    return share.take(now) && (isKnownAddress || this.#strangers.take(now));
  }

  #forgetShares(now: number): void {
    for (const [address, share] of this.#shares) if (share.isFull(now)) this.#shares.delete(address);
    for (const address of this.#shares.keys()) {
      if (this.#shares.size < MAX_ADDRESSES) return;
      this.#shares.delete(address);
    }
  }

  #remember(address: string): void {
    this.#known.delete(address);
    this.#known.add(address);
    if (this.#known.size <= MAX_KNOWN_ADDRESSES) return;
    for (const oldest of this.#known) {
      this.#known.delete(oldest);
      return;
    }
  }

  // ---- half-open sessions

  #makeRoom(address: string): void {
    const own = this.#halfOpen.get(address);
    if (own && own.size >= this.#limits.halfOpenPerAddress) this.#giveUpOldest(own);
    if (this.#halfOpenCount < this.#limits.halfOpen) return;
    let busiest: Set<Waiting> | undefined;
    for (const waiting of this.#halfOpen.values()) {
      if (!busiest || waiting.size > busiest.size) busiest = waiting;
    }
    if (busiest) this.#giveUpOldest(busiest);
  }

  #giveUpOldest(of: Set<Waiting>): void {
    for (const oldest of of) {
      this.#giveUp(oldest, new TunnelError('LIMIT', 'too many sessions wait for their HELLO'));
      return;
    }
  }

  #giveUp(waiting: Waiting, error: TunnelError): void {
    this.#lapsed += 1;
    this.#remove(waiting);
    waiting.session.close(error.wireCode, error.message);
    this.#options.onRefused(waiting.session, error);
  }

  #turnAway(session: Session, error: TunnelError): void {
    this.#refused += 1;
    session.close(error.wireCode, error.message);
    this.#options.onRefused(session, error);
  }

  #add(waiting: Waiting): void {
    const own = this.#halfOpen.get(waiting.address) ?? new Set();
    own.add(waiting);
    this.#halfOpen.set(waiting.address, own);
    this.#halfOpenCount += 1;
  }

  #remove(waiting: Waiting): void {
    waiting.stop();
    const own = this.#halfOpen.get(waiting.address);
    if (!own?.delete(waiting)) return;
    this.#halfOpenCount -= 1;
    if (own.size === 0) this.#halfOpen.delete(waiting.address);
  }
}

/** A session whose HELLO has not come. */
class Waiting {
  readonly session: Session;
  readonly address: string;
  readonly #timer: NodeJS.Timeout;

  constructor(session: Session, address: string, timeoutMs: number, onLate: (waiting: Waiting) => void) {
    this.session = session;
    this.address = address;
    this.#timer = setTimeout(() => onLate(this), timeoutMs);
    this.#timer.unref();
  }

  stop(): void {
    clearTimeout(this.#timer);
  }
}

/**
 * Where a session comes from, as far as limits go: the IPv4 address, or the /64 of an IPv6 one, since
 * whoever has one address of it has all. Behind a relay everybody has its address; there the key counts.
 */
export function addressOf({ path, remoteId }: Pick<Session, 'path' | 'remoteId'>): string {
  const { kind, remote } = path;
  if (kind === 'iroh-relay' || kind === 'memory' || remote === '') return `${kind} ${remoteId}`;
  const v4 = /^(?:\[::ffff:)?(\d+\.\d+\.\d+\.\d+)\]?(?::\d+)?$/.exec(remote);
  if (v4) return v4[1] as string;
  const v6 = /^\[?([0-9a-f:]+)(?:%[^\]]*)?\]?(?::\d+)?$/i.exec(remote);
  return v6 ? `${networkOf(v6[1] as string)}/64` : remote;
}

function networkOf(address: string): string {
  const [head = '', tail] = address.toLowerCase().split('::');
  const front = head === '' ? [] : head.split(':');
  const back = tail === undefined || tail === '' ? [] : tail.split(':');
  const zeros = tail === undefined ? [] : Array(Math.max(0, 8 - front.length - back.length)).fill('0');
  return [...front, ...zeros, ...back].slice(0, 4).join(':');
}

function tooFast(): TunnelError {
  return new TunnelError('LIMIT', 'too many sessions were dialled lately');
}
