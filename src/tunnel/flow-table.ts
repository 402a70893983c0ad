/** The flows of one peer, by number: bounded, and looked through now and then for what has expired. */
import type { Flow } from './flow.js';

/** Flows of one peer. */
export const MAX_FLOWS = 1024;
export const DEFAULT_IDLE_MS = 120_000;
/** A packet whose fragments have not all come after this long never will be complete. */
export const REASSEMBLY_TIMEOUT_MS = 2000;
/** Memory for incomplete packets of all flows of one side of a process. */
export const REASSEMBLY_BYTES = 32 * 1024 * 1024;

export class FlowTable<F extends Flow> {
  readonly #flows = new Map<number, F>();
  readonly #maxFlows: number;

  constructor(maxFlows = MAX_FLOWS) {
    this.#maxFlows = maxFlows;
  }

  get size(): number {
    return this.#flows.size;
  }

  get isFull(): boolean {
    return this.#flows.size >= this.#maxFlows;
  }

  get(id: number): F | undefined {
    return this.#flows.get(id);
  }

  add(flow: F): void {
    this.#flows.set(flow.id, flow);
  }

  /** False when it was not there. */
  delete(flow: F): boolean {
    return this.#flows.get(flow.id) === flow && this.#flows.delete(flow.id);
  }

  values(): IterableIterator<F> {
    return this.#flows.values();
  }

  /** The one that has been idle longest. Looks at all: they are at most `MAX_FLOWS`, and it is asked for new flows only. */
  oldest(): F | undefined {
    let oldest: F | undefined;
    for (const flow of this.#flows.values()) {
      if (oldest === undefined || flow.lastActiveAt < oldest.lastActiveAt) oldest = flow;
    }
    return oldest;
  }

  /** Gives up late fragments; answers the flows whose idle time is over. */
  sweep(now: number): readonly F[] {
    const idle: F[] = [];
    for (const flow of this.#flows.values()) {
      flow.expireFragments(now - REASSEMBLY_TIMEOUT_MS);
      if (now - flow.lastActiveAt >= flow.idleMs) idle.push(flow);
    }
    return idle;
  }
}

/** How often to look, for flows that idle out after `idleMs`. */
export function sweepIntervalMs(idleMs: number): number {
  return Math.max(20, Math.min(500, idleMs / 4));
}
