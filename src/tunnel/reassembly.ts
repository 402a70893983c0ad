/** Puts the fragmented packets of one flow together again: several at once, in any order, in bounded memory. */
import type { FlowCounters } from './flow-counters.js';
import type { Fragment } from './fragment.js';

/** Incomplete packets of one flow; the oldest makes room. */
const MAX_SLOTS = 32;
/** Packets that were completed or given up lately: their stray fragments must not begin a new one. */
const REMEMBERED = 128;

interface Slot {
  readonly buffer: Buffer;
  readonly count: number;
  /** One bit a fragment. */
  readonly seen: Uint32Array;
  missing: number;
  readonly startedAt: number;
}

/** Bytes for incomplete packets, shared by many flows. */
export class ReassemblyBudget {
  #left: number;

  constructor(bytes: number) {
    this.#left = bytes;
  }

  take(bytes: number): boolean {
    if (bytes > this.#left) return false;
    this.#left -= bytes;
    return true;
  }

  give(bytes: number): void {
    this.#left += bytes;
  }

  get left(): number {
    return this.#left;
  }
}

export class Reassembler {
  readonly #budget: ReassemblyBudget;
  readonly #counters: FlowCounters;
  /** By packet number, the oldest first. */
  readonly #slots = new Map<number, Slot>();
  readonly #done = new Set<number>();

  constructor(budget: ReassemblyBudget, counters: FlowCounters) {
    this.#budget = budget;
    this.#counters = counters;
  }

  /** Answers the packet that this fragment completes. */
  add(fragment: Fragment, now: number): Buffer | undefined {
    const { packet, index, count, total, offset, piece } = fragment;
    if (this.#done.has(packet)) {
      this.#counters.drop('duplicate');
      return undefined;
    }
    const slot = this.#slots.get(packet) ?? this.#begin(packet, count, total, now);
    if (!slot) return undefined;
    if (slot.count !== count || slot.buffer.length !== total) {
      this.#counters.drop('inconsistent');
      return undefined;
    }
    const word = index >> 5;
    const bit = 1 << (index & 31);
    if ((slot.seen[word] as number) & bit) {
      this.#counters.drop('duplicate');
      return undefined;
    }
    slot.seen[word] = (slot.seen[word] as number) | bit;
    slot.buffer.set(piece, offset);
    slot.missing -= 1;
    if (slot.missing > 0) return undefined;
    this.#finish(packet, slot);
    return slot.buffer;
  }

  /** Gives up what began before `since`. */
  expire(since: number): void {
    for (const [packet, slot] of this.#slots) {
      if (slot.startedAt >= since) return;
      this.#giveUp(packet, slot, 'reassembly-timeout');
    }
  }

  /** Gives everything up: the flow ends. Incomplete packets count as late. */
  close(): void {
    this.expire(Number.POSITIVE_INFINITY);
  }

  #begin(packet: number, count: number, total: number, now: number): Slot | undefined {
    this.#counters.seen += 1;
    if (this.#slots.size >= MAX_SLOTS) this.#dropOldest();
    if (!this.#budget.take(total)) {
      this.#counters.drop('reassembly-full');
      this.#remember(packet);
      return undefined;
    }
    const slot = {
      buffer: Buffer.allocUnsafeSlow(total),
      count,
      seen: new Uint32Array(8),
      missing: count,
      startedAt: now,
    };
    this.#slots.set(packet, slot);
    return slot;
  }

  #dropOldest(): void {
    for (const [packet, slot] of this.#slots) {
      this.#giveUp(packet, slot, 'reassembly-full');
      return;
    }
  }

  #giveUp(packet: number, slot: Slot, reason: 'reassembly-timeout' | 'reassembly-full'): void {
    this.#counters.drop(reason);
    this.#finish(packet, slot);
  }

  #finish(packet: number, slot: Slot): void {
    this.#slots.delete(packet);
    this.#budget.give(slot.buffer.length);
    this.#remember(packet);
  }

  #remember(packet: number): void {
    this.#done.add(packet);
    if (this.#done.size <= REMEMBERED) return;
    for (const oldest of this.#done) {
      this.#done.delete(oldest);
      return;
    }
  }
}
