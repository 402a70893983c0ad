/** Datagrams that came before the call that opens their flow: QUIC sends them first. Held briefly, in bounds. */

const HOLD_MS = 1000;
const MAX_HELD = 1024;
const MAX_HELD_BYTES = 1024 * 1024;

interface Held {
  readonly since: number;
  readonly datagrams: Buffer[];
}

export class EarlyDatagrams {
  /** By flow, in the order in which they began. */
  readonly #held = new Map<number, Held>();
  #count = 0;
  #bytes = 0;

  /** False where there is no room. */
  hold(flow: number, datagram: Buffer, now: number): boolean {
    if (this.#count >= MAX_HELD || this.#bytes + datagram.length > MAX_HELD_BYTES) return false;
    const held = this.#held.get(flow);
    if (held) held.datagrams.push(datagram);
    else this.#held.set(flow, { since: now, datagrams: [datagram] });
    this.#count += 1;
    this.#bytes += datagram.length;
    return true;
  }

  /** Those of a flow, which is open now. */
  take(flow: number): readonly Buffer[] {
    const held = this.#held.get(flow);
    if (!held) return [];
    this.#held.delete(flow);
    this.#count -= held.datagrams.length;
    for (const { length } of held.datagrams) this.#bytes -= length;
    return held.datagrams;
  }

  /** Drops what has waited too long; answers how many. */
  expire(now: number): number {
    let dropped = 0;
    for (const [flow, { since }] of this.#held) {
      if (now - since < HOLD_MS) break;
      dropped += this.take(flow).length;
    }
    return dropped;
  }
}
