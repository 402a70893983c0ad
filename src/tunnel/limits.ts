/**
 * How much one peer, and all of them together, may have here at once. Every number a stranger or a
 * peer can run into is in this file; docs/security.md, "Limits", says the same in words.
 */
import { TunnelError } from '../error.js';

export interface Limits {
  /** Sessions dialled by strangers whose HELLO has not come: of one address, and of all. The oldest goes first. */
  readonly halfOpenPerAddress: number;
  readonly halfOpen: number;
  /** Milliseconds from a session's beginning until its HELLO must be complete. */
  readonly helloTimeoutMs: number;
  /** Handshakes a second of one address, and how many may come at once. */
  readonly handshakesPerAddress: number;
  readonly handshakeBurstPerAddress: number;
  /** Of all addresses nobody has been admitted from. */
  readonly handshakes: number;
  readonly handshakeBurst: number;
  /** Sessions of one identity, of all, and beyond those for processes that were here before. */
  readonly sessionsPerPeer: number;
  readonly sessions: number;
  readonly sessionReserve: number;
  /** Processes of one identity that are remembered after their session is gone. */
  readonly processesPerPeer: number;
  /** Open channels of one identity, over all its sessions, and of all. */
  readonly channelsPerPeer: number;
  readonly channels: number;
  /** UDP flows of one identity, over all its processes, and of all: each has a file descriptor. */
  readonly flowsPerPeer: number;
  readonly flows: number;
  /** Questions that wait for a person: of one peer, from one address (a new key costs nothing), and of all. */
  readonly approvalsPerPeer: number;
  readonly approvalsPerAddress: number;
  readonly approvals: number;
}

export const LIMITS: Limits = {
  halfOpenPerAddress: 64,
  halfOpen: 512,
  helloTimeoutMs: 15_000,
  handshakesPerAddress: 20,
  handshakeBurstPerAddress: 100,
  handshakes: 200,
  handshakeBurst: 400,
  sessionsPerPeer: 128,
  sessions: 4096,
  sessionReserve: 512,
  processesPerPeer: 256,
  channelsPerPeer: 4096,
  channels: 16_384,
  flowsPerPeer: 4096,
  flows: 8192,
  approvalsPerPeer: 4,
  approvalsPerAddress: 16,
  approvals: 64,
};

/** What was turned away since the start, by what it ran into. */
export interface Refusals {
  /** Half-open sessions that were given up for newer ones, or said no HELLO in time. */
  readonly halfOpen: number;
  readonly handshakes: number;
  readonly sessions: number;
  readonly channels: number;
  readonly flows: number;
}

/** Counts what peers have of one thing, and refuses what goes beyond. */
export class Quota {
  readonly #what: string;
  readonly #perPeer: number;
  readonly #total: number;
  readonly #held = new Map<string, number>();
  #size = 0;
  #refused = 0;

  /** `what` in the plural, as people say it: `connections`. */
  constructor(what: string, perPeer: number, total: number) {
    this.#what = what;
    this.#perPeer = perPeer;
    this.#total = total;
  }

  /** How many are held now. */
  get size(): number {
    return this.#size;
  }

  get refused(): number {
    return this.#refused;
  }

  heldBy(peer: string): number {
    return this.#held.get(peer) ?? 0;
  }

  /** Whether it is the peer's own number that is reached. */
  isPeerFull(peer: string): boolean {
    return this.heldBy(peer) >= this.#perPeer;
  }

  /** Throws LIMIT. `reserve` is how many more of all there may be. */
  take(peer: string, reserve = 0): void {
    const held = this.heldBy(peer);
    if (this.isPeerFull(peer)) this.#refuse(`one peer may have ${this.#perPeer} ${this.#what}`);
    if (this.#size >= this.#total + reserve) this.#refuse(`there are ${this.#size} ${this.#what} already`);
    this.#held.set(peer, held + 1);
    this.#size += 1;
  }

  give(peer: string): void {
    const left = this.heldBy(peer) - 1;
    if (left < 0) return;
    this.#size -= 1;
    if (left > 0) this.#held.set(peer, left);
    else this.#held.delete(peer);
  }

  #refuse(why: string): never {
    this.#refused += 1;
    throw new TunnelError('LIMIT', `too many ${this.#what}: ${why}`);
  }
}
