/** What happens to the packets of a UDP flow: passed on, or dropped for a reason that is counted. */

export type DropReason =
  /** More than fits in the largest number of fragments on this path. */
  | 'too-big'
  /** A send buffer was full: of the session, or of the socket to the target or the application. */
  | 'queue-full'
  /** There was no session, or the one there is has been silent. */
  | 'no-path'
  /** Some fragments came, not all in time. */
  | 'reassembly-timeout'
  /** Too many packets were incomplete at once. */
  | 'reassembly-full'
  /** For a flow that is not, or no longer, open here. */
  | 'no-flow'
  /** The peer's policy refused the flow. */
  | 'denied'
  /** The peer could not open the flow for another reason: no such name, a limit. */
  | 'refused'
  /** Above `--limit-rate`. */
  | 'rate-limit'
  /** The system would not send it to the target or the application. */
  | 'socket'
  /** Came faster than it was read, and found the system's receive buffer of the socket full. Linux only. */
  | 'receive-buffer'
  /** Fragments, not packets: of a packet that is complete or given up already. */
  | 'duplicate'
  /** Datagrams, not packets: malformed, or at odds with another fragment of the same packet. */
  | 'inconsistent';

export type Drops = Readonly<Partial<Record<DropReason, number>>>;

/** As reported. `in` is from the peer to the socket here, `out` from the socket here to the peer. */
export interface FlowTotals {
  readonly packetsIn: number;
  readonly packetsOut: number;
  /** Payload. */
  readonly bytesIn: number;
  readonly bytesOut: number;
  /** What this side dropped. */
  readonly dropped: Drops;
}

export class FlowCounters implements FlowTotals {
  packetsIn = 0;
  packetsOut = 0;
  bytesIn = 0;
  bytesOut = 0;
  /** Packets of which anything came from the peer, whatever became of them. */
  seen = 0;
  readonly #dropped = new Map<DropReason, number>();

  drop(reason: DropReason, count = 1): void {
    if (count > 0) this.#dropped.set(reason, (this.#dropped.get(reason) ?? 0) + count);
  }

  get dropped(): Drops {
    return Object.fromEntries(this.#dropped);
  }

  add(other: FlowTotals): void {
    this.packetsIn += other.packetsIn;
    this.packetsOut += other.packetsOut;
    this.bytesIn += other.bytesIn;
    this.bytesOut += other.bytesOut;
    for (const [reason, count] of Object.entries(other.dropped)) this.drop(reason as DropReason, count);
  }

  totals(): FlowTotals {
    const { packetsIn, packetsOut, bytesIn, bytesOut, dropped } = this;
    return { packetsIn, packetsOut, bytesIn, bytesOut, dropped };
  }
}
