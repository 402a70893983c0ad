/**
 * Datagrams of a speed test: sent at an even pace, counted where they arrive.
 *
 * `type u8 (3) | test u32 | number u32 | sent f64 (milliseconds, the sender's clock) | filling`
 */
import type { Session } from '../session/session.js';
import { MAX_BYTES, MAX_DATAGRAM_BYTES } from './speed-messages.js';

export const SPEED_DATAGRAM = 3;
const HEADER_BYTES = 17;
const TICK_MS = 5;
/** After a pause of the program the pace goes on; what was missed is not sent in one burst. */
const MAX_BURST_BYTES = 64 * 1024;

export interface DatagramSource {
  /** Those that the session took. */
  readonly sent: number;
  /** Those for which its buffer had no room. */
  readonly notSent: number;
  readonly bytes: number;
  stop(): void;
}

export interface DatagramSourceOptions {
  readonly test: number;
  readonly bitsPerSecond: number;
}

/** Starts at once. The path must carry datagrams. */
export function sendDatagrams(
  session: Session,
  { test, bitsPerSecond }: DatagramSourceOptions,
): DatagramSource {
  const size = Math.min(MAX_DATAGRAM_BYTES, session.maxDatagramSize);
  const perMs = bitsPerSecond / 8 / size / 1000;
  let number = 0;
  let sent = 0;
  let missed = 0;
  const startedAt = performance.now();
  const tick = () => {
    const now = performance.now();
    const due = Math.floor((now - startedAt) * perMs) - number - missed;
    const count = Math.min(due, Math.ceil(MAX_BURST_BYTES / size));
    if (count <= 0) return;
    missed += due - count;
    const batch: Buffer[] = [];
    for (let i = 0; i < count; i += 1) batch.push(encodeDatagram(size, test, number + i, now));
    number += count;
    try {
      sent += session.datagrams.send(batch);
    } catch {
      // The path has become narrower, or the session has ended: these are not sent.
    }
    if (sent * size >= MAX_BYTES) clearInterval(timer);
  };
  const timer = setInterval(tick, TICK_MS);
  return {
    get sent() {
      return sent;
    },
    get notSent() {
      return number - sent;
    },
    get bytes() {
      return sent * size;
    },
    stop: () => clearInterval(timer),
  };
}

/** Counts the datagrams of one test. */
export class DatagramSink {
  readonly #test: number;
  #received = 0;
  #bytes = 0;
  #startedAt: number | undefined;
  #lastAt = 0;
  #lastTransit: number | undefined;
  #jitterMs = 0;
  readonly #seen = new SeenNumbers();

  constructor(test: number) {
    this.#test = test;
  }

  get received(): number {
    return this.#received;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Monotonic. */
  get startedAt(): number | undefined {
    return this.#startedAt;
  }

  /** From the first to the last one. */
  get ms(): number {
    return this.#startedAt === undefined ? 0 : this.#lastAt - this.#startedAt;
  }

  /** Smoothed difference between the times that two in turn took (RFC 3550, section 6.4.1). */
  get jitterMs(): number {
    return this.#jitterMs;
  }

  accept(datagram: Buffer, now: number): void {
    if (datagram.length < HEADER_BYTES || datagram.readUInt32BE(1) !== this.#test) return;
    if (!this.#seen.add(datagram.readUInt32BE(5))) return;
    this.#startedAt ??= now;
    this.#lastAt = now;
    this.#received += 1;
    this.#bytes += datagram.length;
    // The clocks differ by a constant, which the difference of two takes away.
    const transit = now - datagram.readDoubleBE(9);
    if (this.#lastTransit !== undefined) {
      this.#jitterMs += (Math.abs(transit - this.#lastTransit) - this.#jitterMs) / 16;
    }
    this.#lastTransit = transit;
  }
}

/** Which of the last few thousand numbers came. One that is older still counts as lost. */
class SeenNumbers {
  static readonly #KEPT = 8192;
  /** By the remainder: the highest of those numbers that came, plus one. */
  readonly #last = new Float64Array(SeenNumbers.#KEPT);

  /** False for one that was there, or is too old to tell. */
  add(number: number): boolean {
    const index = number % SeenNumbers.#KEPT;
    if ((this.#last[index] as number) > number) return false;
    this.#last[index] = number + 1;
    return true;
  }
}

function encodeDatagram(size: number, test: number, number: number, now: number): Buffer {
  const datagram = Buffer.alloc(size);
  datagram[0] = SPEED_DATAGRAM;
  datagram.writeUInt32BE(test, 1);
  datagram.writeUInt32BE(number, 5);
  datagram.writeDoubleBE(now, 9);
  return datagram;
}
