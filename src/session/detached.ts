/**
 * Channels of this process that wait for a session, of all peers: each for a bounded time, all of them
 * within bounds of number and memory.
 */
import { TunnelError } from '../error.js';
import type { Channel } from './channel.js';

/** For one peer's process. */
const MAX_DETACHED_PER_PEER = 4096;
/** Of all waiting channels together: what their replay buffers and the sockets beside them hold. */
const MAX_DETACHED_BYTES = 256 * 1024 * 1024;
/** Of those of one peer's process: it must not take the room of all others. */
const MAX_DETACHED_BYTES_PER_PEER = MAX_DETACHED_BYTES / 2;
export const RESUME_TIMEOUT_MS = 15 * 60_000;
/** A socket may hand over one more read before it sees that its channel waits. */
const LATE_READ_BYTES = 64 * 1024;

interface Waiting {
  readonly group: object;
  readonly bytes: number;
  readonly timer: NodeJS.Timeout;
}

export interface DetachedLimits {
  readonly maxBytes?: number;
  readonly maxBytesPerPeer?: number;
  readonly maxPerPeer?: number;
}

export class DetachedChannels {
  readonly #maxBytes: number;
  readonly #maxBytesPerPeer: number;
  readonly #maxPerPeer: number;
  readonly #waiting = new Map<Channel, Waiting>();
  readonly #groups = new Map<object, { count: number; bytes: number }>();
  #bytes = 0;

  constructor(limits: DetachedLimits = {}) {
    this.#maxBytes = limits.maxBytes ?? MAX_DETACHED_BYTES;
    this.#maxBytesPerPeer = limits.maxBytesPerPeer ?? Math.min(this.#maxBytes, MAX_DETACHED_BYTES_PER_PEER);
    this.#maxPerPeer = limits.maxPerPeer ?? MAX_DETACHED_PER_PEER;
  }

  /** How many wait for the peer that `group` stands for. */
  count(group: object): number {
    return this.#groups.get(group)?.count ?? 0;
  }

  /** Bytes that waiting channels may hold. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Fails the channel when it is not taken out within `timeoutMs`, and at once where it goes beyond a bound. */
  add(channel: Channel, group: object, timeoutMs: number): void {
    if (this.#waiting.has(channel)) return;
    const bytes = channel.heldBytes + LATE_READ_BYTES;
    const held = this.#groups.get(group) ?? { count: 0, bytes: 0 };
    if (this.count(group) >= this.#maxPerPeer) {
      channel.abort(tooMany(`more than ${this.#maxPerPeer} connections wait for the peer`));
      return;
    }
    if (held.bytes + bytes > this.#maxBytesPerPeer) {
      channel.abort(
        tooMany(`the connections that wait for the peer hold more than ${mebibytes(this.#maxBytesPerPeer)}`),
      );
      return;
    }
    if (this.#bytes + bytes > this.#maxBytes) {
      channel.abort(
        tooMany(`the connections that wait for a session hold more than ${mebibytes(this.#maxBytes)}`),
      );
      return;
    }
    const timer = setTimeout(() => {
      channel.abort(
        new TunnelError('RESUME_EXPIRED', `no session came back within ${Math.round(timeoutMs / 1000)} s`),
      );
    }, timeoutMs);
    timer.unref();
    this.#bytes += bytes;
    held.count += 1;
    held.bytes += bytes;
    this.#groups.set(group, held);
    this.#waiting.set(channel, { group, bytes, timer });
  }

  /** It goes on, or is over. */
  remove(channel: Channel): void {
    const waiting = this.#waiting.get(channel);
    if (!waiting) return;
    const { group, bytes, timer } = waiting;
    clearTimeout(timer);
    this.#waiting.delete(channel);
    this.#bytes -= bytes;
    const held = this.#groups.get(group);
    if (!held) return;
    held.count -= 1;
    held.bytes -= bytes;
    if (held.count === 0) this.#groups.delete(group);
  }
}

function tooMany(message: string): TunnelError {
  return new TunnelError('RESUME_LIMIT', message);
}

function mebibytes(bytes: number): string {
  return `${Math.round(bytes / 1024 / 1024)} MiB`;
}
