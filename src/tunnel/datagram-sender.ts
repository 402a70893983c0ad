/**
 * Sends the packets of flows on one session: those of one turn of the event loop in one batch, in
 * fragments where a datagram is too small for them. Keeps nothing for later: what cannot go now is
 * dropped and counted.
 */
import { TunnelError } from '../error.js';
import type { Session } from '../session/session.js';
import type { Flow } from './flow.js';
import type { DropReason } from './flow-counters.js';
import { encodeFragments, encodeWhole, fragmentCount, WHOLE_HEADER_BYTES } from './fragment.js';

/** A batch goes at once when it is this large. */
const MAX_BATCH = 512;
const MAX_BATCH_BYTES = 512 * 1024;
/** Nothing heard from the peer for this long, and for some round trips, while packets were sent. */
const SILENT_MS = 1000;
const SILENT_ROUND_TRIPS = 4;
const CHECK_EVERY_MS = 100;

export class DatagramSender {
  readonly #session: Session;
  #flows: Flow[] = [];
  #payloads: Uint8Array[] = [];
  #bytes = 0;
  #scheduled = false;
  #lastCheckAt = Number.NEGATIVE_INFINITY;
  #heardBytes = -1;
  /** When the oldest packet was sent that nothing has been heard since. */
  #unansweredSince: number | undefined;
  #silent = false;

  constructor(session: Session) {
    this.#session = session;
  }

  /** The payload must not change before the next turn of the event loop. */
  send(flow: Flow, payload: Uint8Array): void {
    this.#flows.push(flow);
    this.#payloads.push(payload);
    this.#bytes += payload.length;
    if (this.#flows.length >= MAX_BATCH || this.#bytes >= MAX_BATCH_BYTES) {
      this.#flush();
      return;
    }
    if (this.#scheduled) return;
    this.#scheduled = true;
    // Behind the poll phase, which reads up to 32 packets of each socket.
    setImmediate(() => {
      this.#scheduled = false;
      this.#flush();
    });
  }

  #flush(): void {
    const flows = this.#flows;
    if (flows.length === 0) return;
    const payloads = this.#payloads;
    this.#flows = [];
    this.#payloads = [];
    this.#bytes = 0;
    // One goes out all the same now and then: its acknowledgement is what says that the path is back.
    const probing = this.#isSilent();
    const count = probing ? probing.packets : flows.length;
    const sent = this.#sendBatch(flows, payloads, count);
    if (sent) this.#unansweredSince ??= performance.now();
    for (let i = count; i < flows.length; i += 1) (flows[i] as Flow).counters.drop('no-path');
  }

  /** Answers whether anything was sent. */
  #sendBatch(flows: readonly Flow[], payloads: readonly Uint8Array[], count: number, again = true): boolean {
    const max = this.#session.datagrams.maxDatagramSize;
    const datagrams: Uint8Array[] = [];
    /** Where each packet begins among the datagrams; -1 for one that is too big. */
    const starts: number[] = [];
    for (let i = 0; i < count; i += 1) {
      const payload = payloads[i] as Uint8Array;
      const flow = flows[i] as Flow;
      if (payload.length + WHOLE_HEADER_BYTES <= max) {
        starts.push(datagrams.length);
        datagrams.push(encodeWhole(flow.id, payload));
        continue;
      }
      const pieces = fragmentCount(payload.length, max);
      starts.push(pieces === undefined ? -1 : datagrams.length);
      if (pieces === undefined) continue;
      const packet = flow.takePacketNumber();
      datagrams.push(...encodeFragments(flow.id, payload, { packet, count: pieces }));
    }
    let taken = 0;
    let reason: DropReason = 'queue-full';
    try {
      if (max > 0) taken = this.#session.datagrams.send(datagrams);
      else reason = 'no-path';
    } catch (error) {
      // The path may have changed since its size was read. Nothing of the batch was sent then.
      if (error instanceof TunnelError && error.code === 'TOO_LARGE' && again) {
        return this.#sendBatch(flows, payloads, count, false);
      }
      reason = 'no-path';
    }
    for (let i = 0; i < count; i += 1) {
      const { counters } = flows[i] as Flow;
      const start = starts[i] as number;
      if (start < 0) counters.drop(max > 0 ? 'too-big' : 'no-path');
      else if (start < taken) {
        // Also one whose last fragments found no room: the other side sees it and counts it.
        counters.packetsOut += 1;
        counters.bytesOut += (payloads[i] as Uint8Array).length;
      } else counters.drop(reason);
    }
    return taken > 0;
  }

  /**
   * A session outlives a cut by seconds, and would keep what it is given and send it as one burst when
   * the path is back. Every datagram is acknowledged, so a peer that is silent has no path.
   * Answers how many packets may go all the same; undefined for all.
   */
  #isSilent(): { packets: number } | undefined {
    // There it is the stream that is full, and it sends nothing twice.
    if (this.#session.reliableDatagrams) return undefined;
    const now = performance.now();
    if (now - this.#lastCheckAt < CHECK_EVERY_MS) return this.#silent ? { packets: 0 } : undefined;
    this.#lastCheckAt = now;
    const { bytesReceived, rttMs } = this.#session.stats();
    if (bytesReceived !== this.#heardBytes) {
      this.#heardBytes = bytesReceived;
      this.#unansweredSince = undefined;
      this.#silent = false;
      return undefined;
    }
    const since = this.#unansweredSince;
    this.#silent = since !== undefined && now - since > Math.max(SILENT_MS, rttMs * SILENT_ROUND_TRIPS);
    return this.#silent ? { packets: 1 } : undefined;
  }
}
