/** One UDP flow: what both of its ends have in common. */
import { FlowCounters } from './flow-counters.js';
import { decodeBody } from './fragment.js';
import type { Lanes } from './pace.js';
import { Reassembler, type ReassemblyBudget } from './reassembly.js';

export interface FlowOptions {
  readonly id: number;
  readonly service: string;
  /** Milliseconds after the last packet either way. */
  readonly idleMs: number;
  readonly budget: ReassemblyBudget;
  /** The limits of bytes a second it comes under. */
  readonly lanes?: Lanes | undefined;
}

export class Flow {
  readonly id: number;
  readonly service: string;
  readonly idleMs: number;
  readonly counters = new FlowCounters();
  readonly openedAt = performance.now();
  lastActiveAt = this.openedAt;
  readonly #budget: ReassemblyBudget;
  readonly #lanes: Lanes | undefined;
  /** Most flows never carry a packet that is larger than a datagram. */
  #reassembler: Reassembler | undefined;
  #nextPacket = 0;

  constructor({ id, service, idleMs, budget, lanes }: FlowOptions) {
    this.id = id;
    this.service = service;
    this.idleMs = idleMs;
    this.#budget = budget;
    this.#lanes = lanes;
  }

  /** Takes a datagram of this flow; answers the packet that is complete now. */
  accept(datagram: Buffer, now: number): Buffer | undefined {
    this.lastActiveAt = now;
    const body = decodeBody(datagram);
    if (body === undefined) {
      this.counters.drop('inconsistent');
      return undefined;
    }
    if (Buffer.isBuffer(body)) {
      this.counters.seen += 1;
      return body;
    }
    this.#reassembler ??= new Reassembler(this.#budget, this.counters);
    return this.#reassembler.add(body, now);
  }

  /** Whether a packet from the peer (`in`) or to it (`out`) is within the limits; one that is not is counted as dropped. */
  mayPass(direction: keyof Lanes, bytes: number): boolean {
    if (this.#lanes === undefined || this.#lanes[direction].take(bytes)) return true;
    this.counters.drop('rate-limit');
    return false;
  }

  /** Gives up incomplete packets that began before `since`. */
  expireFragments(since: number): void {
    this.#reassembler?.expire(since);
  }

  /** The number of the next packet that has to be sent in fragments. */
  takePacketNumber(): number {
    const packet = this.#nextPacket;
    this.#nextPacket = (packet + 1) & 0xffff;
    return packet;
  }

  /** Frees what incomplete packets hold. */
  release(): void {
    this.#reassembler?.close();
  }
}
