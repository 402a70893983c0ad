/**
 * UDP of one peer on the dialling side: local sockets, their flows, and the session they use now.
 *
 * A flow is opened by a call, and its packets follow at once: the peer holds what comes before the
 * call. After a reconnect every flow is opened again under its number, and the peer goes on with the
 * socket it has for it.
 */
import { TunnelError, type TunnelErrorCode, toTunnelError } from '../error.js';
import type { PeerSession } from '../session/handshake.js';
import type { NodeId } from '../session/node-id.js';
import type { Dispatcher } from '../session/rpc-session.js';
import { DatagramSender } from './datagram-sender.js';
import { FlowCloser } from './flow-closer.js';
import { FlowCounters } from './flow-counters.js';
import {
  decodeFlowCounts,
  encodeFlowCounts,
  encodeFlowOpen,
  FLOW_CLOSE,
  FLOW_OPEN,
  type FlowCount,
} from './flow-messages.js';
import { DEFAULT_IDLE_MS, FlowTable, REASSEMBLY_BYTES, sweepIntervalMs } from './flow-table.js';
import { flowOf } from './fragment.js';
import type { Lanes } from './pace.js';
import { ReassemblyBudget } from './reassembly.js';
import { type ServiceTotal, ServiceTotals } from './service-totals.js';
import { formatHostPort, type Local } from './spec.js';
import { EntryFlow, sourceKey, UdpEntry } from './udp-entry.js';
import { type FlowEnd, UdpReport, type UdpReportOptions } from './udp-report.js';

/** Calls of `flow.open` under way. The peer serves 1,024 calls at once, of all kinds. */
const MAX_OPENING = 256;
const OPEN_DEADLINE_MS = 15_000;
/** After a refusal, packets are dropped this long before the peer is asked again. */
const RETRY_REFUSED_MS = 2000;

/** Flow numbers are unique in this process, whatever peer they are for. */
let lastFlowId = 0;

export interface UdpEntriesOptions extends UdpReportOptions {
  readonly peer: NodeId;
  /** Milliseconds after the last packet either way. */
  readonly idleMs?: number;
  readonly maxFlows?: number;
  /** The limits of bytes a second that a flow comes under. */
  readonly lanes?: (service: string) => Lanes | undefined;
  /** Something went wrong that is worth telling. */
  onError(error: TunnelError): void;
}

interface Current {
  readonly peer: PeerSession;
  readonly sender: DatagramSender;
  readonly closer: FlowCloser;
}

type ReportEnd = (reason: FlowEnd, theirs: FlowCount | undefined) => void;

export class UdpEntries {
  /** What the peer may call. */
  readonly dispatcher: Dispatcher;
  readonly #options: UdpEntriesOptions;
  readonly #report: UdpReport;
  readonly #entries: UdpEntry[] = [];
  readonly #flows: FlowTable<EntryFlow>;
  readonly #ends = new Map<EntryFlow, ReportEnd>();
  readonly #toOpen = new Set<EntryFlow>();
  readonly #budget = new ReassemblyBudget(REASSEMBLY_BYTES);
  readonly #totals = new ServiceTotals();
  /** Of no flow that is known here. */
  readonly #unassigned = new FlowCounters();
  readonly #idleMs: number;
  readonly #sweep: NodeJS.Timeout;
  /** The one there is, also where no UDP needs it. */
  #session: PeerSession | undefined;
  #current: Current | undefined;
  /** Of the process that knows the flows. */
  #instanceId: string | undefined;
  #opening = 0;
  #closed = false;

  constructor(options: UdpEntriesOptions) {
    this.#options = options;
    this.#report = new UdpReport(options);
    this.#flows = new FlowTable(options.maxFlows);
    this.#idleMs = options.idleMs ?? DEFAULT_IDLE_MS;
    this.dispatcher = { [FLOW_CLOSE]: (payload) => this.#onClosedByPeer(payload) };
    this.#sweep = setInterval(() => this.#onSweep(), sweepIntervalMs(this.#idleMs));
    this.#sweep.unref();
  }

  /** Listens for one service. Throws PORT_IN_USE or CANNOT_BIND. */
  async listen(local: Local, service: string): Promise<UdpEntry> {
    const entry = await UdpEntry.listen(local, service, {
      packet: (from, payload, source) => this.#onPacket(from, payload, source),
      failed: (error) => this.#options.onError(error),
      buffers: (bytes) => this.#report.socketBuffers(bytes),
    });
    this.#entries.push(entry);
    if (this.#session && !this.#current) this.#use(this.#session);
    return entry;
  }

  /** Listens no longer there: its flows end now. */
  async unlisten(entry: UdpEntry): Promise<void> {
    const at = this.#entries.indexOf(entry);
    if (at < 0) return;
    this.#entries.splice(at, 1);
    // Before its flows have been told of, so that none begins again.
    this.#totals.of(entry.service).counters.drop('receive-buffer', entry.systemDrops);
    entry.close();
    const ends = [...this.#flows.values()].filter((flow) => flow.entry === entry);
    await Promise.all(ends.map((flow) => this.#end(flow, 'shutdown')));
  }

  /** A session with the peer, which is used from now on until it ends or the next one comes. */
  session(peer: PeerSession): void {
    void this.#receive(peer);
    this.#session = peer;
    void peer.session.closed.then(() => {
      if (this.#session === peer) this.#session = undefined;
    });
    if (this.#entries.length > 0) this.#use(peer);
  }

  #use(peer: PeerSession): void {
    if (this.#closed) return;
    const { instanceId } = peer.remote;
    if (this.#instanceId !== undefined && this.#instanceId !== instanceId) {
      for (const flow of [...this.#flows.values()]) this.#end(flow, 'peer-restarted');
    }
    this.#instanceId = instanceId;
    const current = { peer, sender: new DatagramSender(peer.session), closer: new FlowCloser(peer.rpc) };
    this.#current = current;
    this.#report.session(peer);
    void peer.session.closed.then(() => {
      if (this.#current === current) this.#current = undefined;
    });
    for (const flow of this.#flows.values()) {
      if (flow.state !== 'refused') this.#ask(flow);
    }
  }

  get openFlows(): number {
    return this.#flows.size;
  }

  /** Counters of every service up to now. */
  totals(): readonly ServiceTotal[] {
    const totals = this.#totals.snapshot(this.#flows.values());
    for (const entry of this.#entries) {
      const total = totals.find(({ service }) => service === entry.service);
      total?.counters.drop('receive-buffer', entry.systemDrops);
    }
    return totals;
  }

  /** Ends every flow, tells the peer, and reports the totals. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearInterval(this.#sweep);
    await Promise.all([...this.#flows.values()].map((flow) => this.#end(flow, 'shutdown')));
    const totals = this.totals();
    if (this.#entries.length === 0 && totals.length === 0) return;
    for (const entry of this.#entries) entry.close();
    for (const { service, flows, counters } of totals) {
      this.#report.totals(this.#options.peer, service, flows, counters);
    }
    if (Object.keys(this.#unassigned.dropped).length > 0) {
      this.#report.totals(this.#options.peer, undefined, 0, this.#unassigned);
    }
  }

  // ---- from the application

  #onPacket(entry: UdpEntry, payload: Buffer, source: { address: string; port: number }): void {
    const flow = entry.flows.get(sourceKey(source.address, source.port)) ?? this.#begin(entry, source);
    if (!flow) return;
    const current = this.#current;
    if (!current) {
      flow.counters.drop('no-path');
      return;
    }
    const now = performance.now();
    flow.lastActiveAt = now;
    if (flow.state === 'refused') {
      if (now < flow.retryAt) {
        flow.counters.drop(flow.refusal);
        return;
      }
      this.#ask(flow);
    }
    if (!flow.mayPass('out', payload.length)) return;
    // Ahead of the call that opens the flow, the peer could only drop it.
    if (flow.state === 'new') flow.hold(payload);
    else current.sender.send(flow, payload);
  }

  /** Undefined where there can be no flow now; the packet is counted then. */
  #begin(entry: UdpEntry, { address, port }: { address: string; port: number }): EntryFlow | undefined {
    const { service } = entry;
    const current = this.#current;
    // Numbers are not used again, so after 2^32 flows this process opens no more.
    if (!current || this.#closed || lastFlowId >= 0xffff_ffff) {
      this.#totals.of(service).counters.drop('no-path');
      return undefined;
    }
    lastFlowId += 1;
    if (this.#flows.isFull) {
      const oldest = this.#flows.oldest();
      if (oldest) void this.#end(oldest, 'evicted');
    }
    const flow = new EntryFlow({
      id: lastFlowId,
      service,
      idleMs: this.#idleMs,
      budget: this.#budget,
      lanes: this.#options.lanes?.(service),
      entry,
      address,
      port,
    });
    this.#flows.add(flow);
    entry.flows.set(flow.key, flow);
    this.#ends.set(
      flow,
      this.#report.opened(flow, current.peer, { local: entry.local, client: formatHostPort(address, port) }),
    );
    this.#ask(flow);
    return flow;
  }

  // ---- opening

  #ask(flow: EntryFlow): void {
    flow.state = 'new';
    this.#toOpen.add(flow);
    this.#pump();
  }

  #pump(): void {
    const current = this.#current;
    if (!current) return;
    for (const flow of this.#toOpen) {
      if (this.#opening >= MAX_OPENING) return;
      this.#toOpen.delete(flow);
      void this.#open(flow, current);
    }
  }

  async #open(flow: EntryFlow, current: Current): Promise<void> {
    flow.state = 'opening';
    this.#opening += 1;
    // What makes room there has to come before what needs it.
    current.closer.flush();
    try {
      const { id, service, idleMs } = flow;
      const body = encodeFlowOpen({ flow: id, resume: flow.wasOpen, idleMs, service });
      const answer = current.peer.rpc.call(FLOW_OPEN, body, { deadlineMs: OPEN_DEADLINE_MS });
      for (const payload of flow.takeHeld()) current.sender.send(flow, payload);
      await answer;
      flow.wasOpen = true;
      if (this.#current === current && flow.state === 'opening') flow.state = 'open';
    } catch (error) {
      if (this.#current === current && this.#ends.has(flow)) this.#onRefused(flow, toTunnelError(error));
    } finally {
      this.#opening -= 1;
      this.#pump();
    }
  }

  #onRefused(flow: EntryFlow, error: TunnelError): void {
    // The session ended under the call: the next one asks again.
    if (error.code === 'SESSION_LOST') return;
    if (flow.wasOpen && error.code === 'NOT_FOUND') {
      void this.#end(flow, 'closed');
      return;
    }
    flow.state = 'refused';
    flow.refusal = DENIALS.has(error.code) ? 'denied' : 'refused';
    flow.retryAt = performance.now() + RETRY_REFUSED_MS;
    this.#options.onError(
      new TunnelError(
        error.code,
        `a UDP flow to the service '${flow.service}' was refused: ${error.message}`,
      ),
    );
  }

  // ---- from the peer

  async #receive(peer: PeerSession): Promise<void> {
    for await (const batch of peer.session.datagrams.incoming) {
      const now = performance.now();
      for (const datagram of batch) {
        const id = flowOf(datagram);
        const flow = id === undefined ? undefined : this.#flows.get(id);
        if (flow) {
          const payload = flow.accept(datagram, now);
          if (payload && flow.mayPass('in', payload.length)) flow.deliver(payload);
        } else this.#unassigned.drop(id === undefined ? 'inconsistent' : 'no-flow');
      }
    }
  }

  #onClosedByPeer(payload: Uint8Array): Uint8Array {
    const own: FlowCount[] = [];
    for (const theirs of decodeFlowCounts(payload)) {
      const flow = this.#flows.get(theirs.flow);
      if (!flow) continue;
      this.#forget(flow);
      own.push(countOf(flow));
      this.#finish(flow, 'closed', theirs);
    }
    return encodeFlowCounts(own);
  }

  // ---- ending

  #onSweep(): void {
    for (const flow of this.#flows.sweep(performance.now())) {
      void this.#end(flow, flow.state === 'refused' ? flow.refusal : 'idle');
    }
  }

  /** Resolves when the end has been reported; the flow is out of the tables at once. */
  async #end(flow: EntryFlow, reason: FlowEnd): Promise<void> {
    if (!this.#forget(flow)) return;
    const known = flow.state === 'opening' || flow.state === 'open';
    const current = this.#current;
    const theirs =
      known && current && reason !== 'peer-restarted' ? await current.closer.close(countOf(flow)) : undefined;
    this.#finish(flow, reason, theirs);
  }

  /** False when it was forgotten before. */
  #forget(flow: EntryFlow): boolean {
    if (!this.#flows.delete(flow)) return false;
    flow.entry.flows.delete(flow.key);
    this.#toOpen.delete(flow);
    flow.release();
    return true;
  }

  #finish(flow: EntryFlow, reason: FlowEnd, theirs: FlowCount | undefined): void {
    this.#totals.add(flow);
    this.#ends.get(flow)?.(reason, theirs);
    this.#ends.delete(flow);
  }
}

const DENIALS: ReadonlySet<TunnelErrorCode> = new Set(['DENIED', 'PERMISSION_DENIED']);

function countOf({ id, counters }: EntryFlow): FlowCount {
  return { flow: id, sent: counters.packetsOut, seen: counters.seen };
}
