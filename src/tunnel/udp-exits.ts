/**
 * UDP on the accepting side: the flows of every peer, which belong to the peer's process and not to a
 * session, so that a reconnect finds them with the sockets they had.
 */
import { TunnelError } from '../error.js';
import type { PeerSession } from '../session/handshake.js';
import type { DatagramSender } from './datagram-sender.js';
import { FlowCloser } from './flow-closer.js';
import { FlowCounters } from './flow-counters.js';
import { decodeFlowCounts, decodeFlowOpen, encodeFlowCounts, type FlowCount } from './flow-messages.js';
import { FlowTable, REASSEMBLY_BYTES } from './flow-table.js';
import { flowOf } from './fragment.js';
import { LIMITS, Quota } from './limits.js';
import type { Lanes } from './pace.js';
import { ReassemblyBudget } from './reassembly.js';
import { type ServiceTotal, ServiceTotals } from './service-totals.js';
import { formatTarget, type Service } from './spec.js';
import { type Authorise, type FlowOwner, UdpConnection } from './udp-connection.js';
import { ExitFlow } from './udp-exit.js';
import { type FlowEnd, UdpReport, type UdpReportOptions } from './udp-report.js';

/** The opener ends what is idle; this side does where the opener does not. */
const IDLE_GRACE_MS = 2000;
const MAX_IDLE_MS = 24 * 60 * 60 * 1000;
const SWEEP_MS = 250;

export interface UdpExitsOptions extends UdpReportOptions {
  readonly maxFlows?: number;
  /** Flows of one identity, over all its processes, and of all peers together. */
  readonly quota?: Quota;
  /** The limits of bytes a second that a flow comes under. */
  readonly lanes?: (peer: string, service: string) => Lanes | undefined;
}

interface Open {
  readonly owned: Owned;
  /** Of the session that it was opened or taken up on last. */
  authorise: Authorise;
  report(reason: FlowEnd, theirs?: FlowCount): void;
}

/** The flows of one process of a peer. */
interface Owned {
  readonly key: string;
  readonly peer: string;
  readonly flows: FlowTable<ExitFlow>;
  /** Sessions it has now. */
  connections: number;
}

export class UdpExits {
  readonly #report: UdpReport;
  readonly #maxFlows: number | undefined;
  readonly #quota: Quota;
  readonly #lanes: UdpExitsOptions['lanes'];
  readonly #owners = new Map<string, Owned>();
  readonly #ends = new Map<ExitFlow, Open>();
  readonly #closers = new Map<DatagramSender, FlowCloser>();
  readonly #budget = new ReassemblyBudget(REASSEMBLY_BYTES);
  readonly #totals = new ServiceTotals();
  readonly #unassigned = new FlowCounters();
  readonly #sweep: NodeJS.Timeout;
  readonly #connections = new Set<UdpConnection>();
  #closed = false;

  constructor(options: UdpExitsOptions) {
    this.#report = new UdpReport(options);
    this.#maxFlows = options.maxFlows;
    this.#quota = options.quota ?? new Quota('UDP flows', LIMITS.flowsPerPeer, LIMITS.flows);
    this.#lanes = options.lanes;
    this.#sweep = setInterval(() => this.#onSweep(), SWEEP_MS);
    this.#sweep.unref();
  }

  /**
   * What one session of the peer may do. `authorise` is asked at every opening, also of a flow that is
   * there already; undefined denies.
   */
  connection(owner: FlowOwner, authorise: Authorise): UdpConnection {
    return new UdpConnection(owner, authorise, {
      open: (connection, body) => this.#open(connection, body),
      close: (connection, body) => this.#onClosedByPeer(connection, body),
      begin: (connection) => this.#begin(connection),
      end: (connection) => this.#endConnection(connection),
      datagram: (connection, datagram, now) => this.#onDatagram(connection, datagram, now),
    });
  }

  /** Rights or services have changed: ends the flows that may not go on, with `reason`. Answers how many. */
  recheck(reason: FlowEnd = 'denied'): number {
    let ended = 0;
    for (const [flow, { authorise }] of [...this.#ends]) {
      if (authorise(flow.service, false)) continue;
      this.#end(flow, reason);
      ended += 1;
    }
    return ended;
  }

  get openFlows(): number {
    return this.#ends.size;
  }

  totals(): readonly ServiceTotal[] {
    return this.#totals.snapshot(this.#ends.keys());
  }

  /** Ends every flow and reports the totals. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearInterval(this.#sweep);
    for (const flow of [...this.#ends.keys()]) this.#finish(flow, 'shutdown', undefined);
    for (const connection of this.#connections) this.#expireEarly(connection, Number.POSITIVE_INFINITY);
    for (const { service, flows, counters } of this.#totals.snapshot([])) {
      this.#report.totals(undefined, service, flows, counters);
    }
    if (Object.keys(this.#unassigned.dropped).length > 0) {
      this.#report.totals(undefined, undefined, 0, this.#unassigned);
    }
  }

  // ---- sessions

  #begin(connection: UdpConnection): void {
    const { sender, peer } = connection;
    if (!sender || !peer) return;
    this.#connections.add(connection);
    this.#closers.set(sender, new FlowCloser(peer.rpc));
    this.#ownedBy(connection.owner).connections += 1;
  }

  #endConnection(connection: UdpConnection): void {
    this.#connections.delete(connection);
    this.#expireEarly(connection, Number.POSITIVE_INFINITY);
    if (connection.sender) this.#closers.delete(connection.sender);
    const owned = this.#ownedBy(connection.owner);
    owned.connections -= 1;
    for (const flow of owned.flows.values()) {
      if (flow.sender === connection.sender) flow.sender = undefined;
    }
    this.#forgetIfIdle(owned);
  }

  #ownedBy(owner: FlowOwner): Owned {
    const key = `${owner.peer} ${owner.instanceId}`;
    const known = this.#owners.get(key);
    if (known) return known;
    const owned = { key, peer: owner.peer, flows: new FlowTable<ExitFlow>(this.#maxFlows), connections: 0 };
    this.#owners.set(key, owned);
    return owned;
  }

  #forgetIfIdle(owned: Owned): void {
    if (owned.connections === 0 && owned.flows.size === 0) this.#owners.delete(owned.key);
  }

  // ---- calls of the peer

  /** Answers 1 for a flow that was there already, 0 for a new one. */
  async #open(connection: UdpConnection, payload: Uint8Array): Promise<Uint8Array> {
    const { flow: id, resume, idleMs, service: name } = decodeFlowOpen(payload);
    if (!connection.sender) throw new TunnelError('UNAVAILABLE', 'the session is not ready');
    const owned = this.#ownedBy(connection.owner);
    const known = owned.flows.get(id);
    const service = connection.authorise(name, true);
    if (!service || this.#closed) {
      if (known) this.#finish(known, 'denied', undefined);
      this.#unassigned.drop('denied', connection.early.take(id).length);
      throw this.#closed
        ? new TunnelError('SHUTDOWN', 'the peer is shutting down')
        : new TunnelError('DENIED', 'the peer may not have this service');
    }
    this.#announce(connection);
    if (known) {
      if (known.service !== name)
        throw new TunnelError('INVALID_ARGUMENT', `flow ${id} is of another service`);
      known.sender = connection.sender;
      known.lastActiveAt = performance.now();
      const entry = this.#ends.get(known);
      if (entry) entry.authorise = connection.authorise;
      return Buffer.of(1);
    }
    if (resume) throw new TunnelError('NOT_FOUND', `there is no flow ${id}`);
    const flow = this.#add(connection, owned, service, { id, idleMs });
    const ready = flow.connect();
    for (const datagram of connection.early.take(id)) this.#take(flow, datagram, performance.now());
    try {
      await ready;
    } catch (error) {
      this.#finish(flow, 'refused', undefined);
      throw error;
    }
    return Buffer.of(0);
  }

  /** Once for each session that carries UDP. */
  #announce(connection: UdpConnection): void {
    if (connection.announced || !connection.peer) return;
    connection.announced = true;
    this.#report.session(connection.peer);
  }

  #add(
    connection: UdpConnection,
    owned: Owned,
    service: Service,
    { id, idleMs }: { readonly id: number; readonly idleMs: number },
  ): ExitFlow {
    if (owned.flows.isFull) {
      const oldest = owned.flows.oldest();
      if (oldest) this.#end(oldest, 'evicted');
    }
    this.#takeQuota(owned.peer);
    const flow = new ExitFlow({
      id,
      service: service.name,
      idleMs: Math.min(idleMs, MAX_IDLE_MS) + IDLE_GRACE_MS,
      budget: this.#budget,
      lanes: this.#lanes?.(owned.peer, service.name),
      target: service,
      onBuffers: (bytes) => this.#report.socketBuffers(bytes),
    });
    flow.sender = connection.sender;
    owned.flows.add(flow);
    const report = this.#report.opened(flow, connection.peer as PeerSession, {
      target: formatTarget(service.target),
    });
    this.#ends.set(flow, {
      owned,
      authorise: connection.authorise,
      report: (reason, theirs) => report(reason, theirs),
    });
    return flow;
  }

  /** A flow whose peer is away has to go first, its own where it is its own number. Throws LIMIT where there is none. */
  #takeQuota(peer: string): void {
    try {
      this.#quota.take(peer);
    } catch (error) {
      const oldest = this.#oldestOrphan(this.#quota.isPeerFull(peer) ? peer : undefined);
      if (!oldest) throw error;
      this.#end(oldest, 'evicted');
      this.#quota.take(peer);
    }
  }

  #oldestOrphan(peer: string | undefined): ExitFlow | undefined {
    let oldest: ExitFlow | undefined;
    for (const [flow, { owned }] of this.#ends) {
      if (flow.sender || (peer !== undefined && owned.peer !== peer)) continue;
      if (!oldest || flow.lastActiveAt < oldest.lastActiveAt) oldest = flow;
    }
    return oldest;
  }

  #onClosedByPeer(connection: UdpConnection, payload: Uint8Array): Uint8Array {
    const own: FlowCount[] = [];
    const { flows } = this.#ownedBy(connection.owner);
    for (const theirs of decodeFlowCounts(payload)) {
      const flow = flows.get(theirs.flow);
      if (!flow) continue;
      flow.end();
      own.push(countOf(flow));
      this.#finish(flow, 'closed', theirs);
    }
    return encodeFlowCounts(own);
  }

  // ---- datagrams of the peer

  #onDatagram(connection: UdpConnection, datagram: Buffer, now: number): void {
    const id = flowOf(datagram);
    if (id === undefined) {
      this.#unassigned.drop('inconsistent');
      return;
    }
    const flow = this.#ownedBy(connection.owner).flows.get(id);
    if (flow) this.#take(flow, datagram, now);
    else if (!connection.early.hold(id, datagram, now)) this.#unassigned.drop('no-flow');
  }

  #take(flow: ExitFlow, datagram: Buffer, now: number): void {
    const payload = flow.accept(datagram, now);
    if (payload && flow.mayPass('in', payload.length)) flow.deliver(payload);
  }

  // ---- ending

  #onSweep(): void {
    const now = performance.now();
    for (const { flows } of this.#owners.values()) {
      for (const flow of flows.sweep(now)) this.#end(flow, 'idle');
    }
    for (const connection of this.#connections) this.#expireEarly(connection, now);
  }

  #expireEarly(connection: UdpConnection, now: number): void {
    const late = connection.early.expire(now);
    if (late > 0) this.#unassigned.drop('no-flow', late);
  }

  /** Tells the opener, where there is one, and reports the end with what it answered. */
  #end(flow: ExitFlow, reason: FlowEnd): void {
    const closer = flow.sender && this.#closers.get(flow.sender);
    const entry = this.#ends.get(flow);
    if (!entry) return;
    this.#remove(flow, entry.owned);
    if (!closer) {
      entry.report(reason);
      return;
    }
    void closer.close(countOf(flow)).then((theirs) => entry.report(reason, theirs));
  }

  #finish(flow: ExitFlow, reason: FlowEnd, theirs: FlowCount | undefined): void {
    const entry = this.#ends.get(flow);
    if (!entry) return;
    this.#remove(flow, entry.owned);
    entry.report(reason, theirs);
  }

  #remove(flow: ExitFlow, owned: Owned): void {
    this.#ends.delete(flow);
    this.#quota.give(owned.peer);
    owned.flows.delete(flow);
    flow.end();
    this.#totals.add(flow);
    this.#forgetIfIdle(owned);
  }
}

function countOf({ id, counters }: ExitFlow): FlowCount {
  return { flow: id, sent: counters.packetsOut, seen: counters.seen };
}
