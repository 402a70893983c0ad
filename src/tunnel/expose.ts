/** Offers services: admits sessions, serves the channels that peers open, and ends in order. */
import { TunnelError, toTunnelError, WIRE_CODES } from '../error.js';
import { AcceptedChannels } from '../session/accepted-channels.js';
import { StreamCarrier } from '../session/carrier.js';
import type { Channel } from '../session/channel.js';
import { DetachedChannels, RESUME_TIMEOUT_MS } from '../session/detached.js';
import { acceptHandshake, closeError, type PeerSession, sessionMayResume } from '../session/handshake.js';
import { Heartbeat } from '../session/heartbeat.js';
import type { Hello } from '../session/hello.js';
import type { Identity } from '../session/identity.js';
import { watchNetwork } from '../session/network-watch.js';
import { type NodeId, shortNodeId } from '../session/node-id.js';
import { SYNC_METHOD } from '../session/opened-channels.js';
import { type Preamble, readPreamble, StreamKind } from '../session/preamble.js';
import { decodeLists, decodeResume } from '../session/resume.js';
import type { Dispatcher, RpcHandler } from '../session/rpc-session.js';
import type { BidirectionalStream, CloseInfo, Endpoint, Session } from '../session/session.js';
import { Admission } from './admission.js';
import type { Approvals } from './approvals.js';
import { ChannelTable, statusSource } from './channel-table.js';
import { errorEvent, type Report } from './events.js';
import { LIMITS, type Limits, Quota, type Refusals } from './limits.js';
import { decodeOpen, type OpenRequest } from './open.js';
import { type Grant, ownerSource, type Policy, type Presented, type RightsSource } from './policy.js';
import { RateLimit } from './rate-limit.js';
import type { Rates } from './rates.js';
import { type FactsSource, factsMethods } from './relayed.js';
import { reportConnected } from './report-session.js';
import { RightsWatch } from './rights-watch.js';
import { encodeServices } from './services.js';
import { type Arrival, SessionGate } from './session-gate.js';
import { formatTarget, type Service } from './spec.js';
import { type SpeedConnection, SpeedServer } from './speed-server.js';
import type { StatusSource } from './status.js';
import { tcpExit } from './tcp-exit.js';
import type { UdpConnection } from './udp-connection.js';
import { UdpExits } from './udp-exits.js';

/** Processes of peers that were here; the longest gone is forgotten first. */
const MAX_PROCESSES = 4096;
/** A peer notices the loss of a session at another moment than this side. */
const REMEMBER_MARGIN_MS = 60_000;
const MAX_REMEMBER_MS = 24 * 3_600_000;
/** Lines about denied or broken peers, a second: a flood must not become a flood of log lines. */
const DENIALS_PER_SECOND = 5;

export interface ExposeOptions {
  /** Where sessions may come in; all of them lead to the same services. */
  readonly endpoints: readonly Endpoint[];
  readonly identity: Identity;
  readonly services: readonly Service[];
  readonly report: Report;
  /** Who may have what, besides the identity itself. */
  readonly rights?: readonly RightsSource[];
  /** Peers without a right wait for a person to decide; otherwise they are denied. */
  readonly ask?: boolean;
  /** How long they wait, milliseconds. */
  readonly approvalTimeoutMs?: number;
  /** How long a peer's connections wait for a session at most, milliseconds. */
  readonly resumeTimeoutMs?: number;
  /** What is known of the network here; an admitted peer may ask. */
  readonly facts?: FactsSource | undefined;
  /** Whether an admitted peer may measure the speed to here. The identity itself may. */
  readonly allowsSpeed?: ((peer: NodeId) => boolean) | undefined;
  /** What an admitted peer may call besides what an expose answers itself. */
  readonly methods?: ((peer: NodeId) => Dispatcher | undefined) | undefined;
  /** A peer has not answered for so long; undefined: it answers again. */
  readonly onSilent?: ((peer: PeerSession, silentMs: number | undefined) => void) | undefined;
  /** Limits of bytes a second, asked for each new connection. */
  readonly rates?: Pick<Rates, 'lanes'> | undefined;
  /** Others than `LIMITS`. */
  readonly limits?: Partial<Limits>;
}

/** An admitted session, and what it may do. */
interface Admitted {
  readonly peer: PeerSession;
  readonly grant: Grant;
  /** What the peer opens from now on. */
  readonly streams: AsyncIterable<BidirectionalStream>;
  /** The channels of the process at the other end, from earlier sessions too. */
  readonly channels: AcceptedChannels;
  readonly speed: SpeedConnection | undefined;
}

export class Expose {
  readonly #options: ExposeOptions;
  readonly #policy: Policy;
  readonly #admission: Admission;
  readonly #channels: ChannelTable;
  readonly #udp: UdpExits;
  readonly #speed = new SpeedServer();
  readonly #sessions = new Set<Session>();
  /** Those of the sessions that have been admitted. */
  readonly #peers = new Set<PeerSession>();
  /** By identity and `instanceId`: a process keeps its channels from one session to the next. */
  readonly #processes = new Map<string, AcceptedChannels>();
  /** A process was forgotten that may still come back. */
  #forgot = false;
  readonly #detached = new DetachedChannels();
  /** What each channel is for, and by what right. */
  readonly #services = new WeakMap<Channel, { readonly name: string; readonly grant: Grant }>();
  readonly #grants = new Map<PeerSession, Grant>();
  /** Whom the channels of a service are counted for, by protocol and name. */
  readonly #owners = new Map<string, object>();
  readonly #rights: RightsWatch;
  readonly #endWatch: () => void;
  readonly source: StatusSource;
  readonly #denials = new RateLimit(DENIALS_PER_SECOND);
  readonly #limits: Limits;
  readonly #gate: SessionGate;
  readonly #channelQuota: Quota;
  readonly #flowQuota: Quota;
  #closing = false;

  /** Starts accepting at once. */
  constructor(options: ExposeOptions) {
    this.#options = options;
    this.#admission = new Admission({
      ...options,
      rights: [ownerSource(options.identity.nodeId), ...(options.rights ?? [])],
    });
    this.#policy = this.#admission.policy;
    this.#rights = new RightsWatch(this.#policy, {
      grants: () => this.#allGrants(),
      enforce: () => this.#enforce(),
    });
    this.#channels = new ChannelTable(options.report);
    const limits = { ...LIMITS, ...options.limits };
    this.#limits = limits;
    this.#channelQuota = new Quota('connections', limits.channelsPerPeer, limits.channels);
    this.#flowQuota = new Quota('UDP flows', limits.flowsPerPeer, limits.flows);
    this.#gate = new SessionGate({
      limits,
      isKnown: (remote) => this.#processes.has(processKey(remote.identity, remote)),
      onRefused: (session, error) => this.#deny(session.remoteId, `was turned away: ${error.message}`, error),
    });
    this.#udp = new UdpExits({
      report: options.report,
      flows: this.#channels.flows,
      quota: this.#flowQuota,
      lanes: (peer, service) => options.rates?.lanes(peer, service),
    });
    this.source = {
      ...statusSource(this.#channels, () => this.#peers),
      approvals: () => this.approvals?.list() ?? [],
    };
    for (const endpoint of options.endpoints) void this.#accept(endpoint);
    this.#endWatch = watchNetwork(() => void this.#networkChanged());
  }

  /** Who waits to be let in, if anybody is asked; and the answers to that. */
  get approvals(): Approvals | undefined {
    return this.#admission.approvals;
  }

  /**
   * Offers these from now on, new channels only. Those of a service that goes are waited for up to
   * `drainMs`, unless it comes back meanwhile; what is left is reset.
   */
  async offer(services: readonly Service[], drainMs: number, signal?: AbortSignal): Promise<void> {
    const gone = this.#policy.offer(services);
    if (gone.length === 0) return;
    await this.#channels.drain(drainMs, signal, this.#ownersOf(gone));
    const left = this.#policy.forget(gone);
    if (left.length === 0 || this.#closing) return;
    const error = new TunnelError('SHUTDOWN', 'the service is not offered any more');
    this.#channels.abortAll(error, this.#ownersOf(left));
    this.#udp.recheck('shutdown');
    this.#enforce();
  }

  /** Takes no new channels, waits up to `drainMs` for the open ones, then resets what is left. */
  async close(drainMs: number, signal?: AbortSignal): Promise<void> {
    this.#closing = true;
    this.#endWatch();
    this.#rights.close();
    this.#admission.close();
    const error = new TunnelError('SHUTDOWN', 'the peer is shutting down');
    for (const peer of this.#peers) peer.goAway(error);
    await this.#channels.drain(drainMs, signal);
    this.#channels.abortAll(error);
    this.#udp.close();
    for (const channels of this.#processes.values()) channels.forget();
    for (const session of this.#sessions) session.close(error.wireCode, error.message);
    await Promise.all(this.#options.endpoints.map((endpoint) => endpoint.close(signal ? { signal } : {})));
  }

  async #accept(endpoint: Endpoint): Promise<void> {
    for await (const session of endpoint.incoming) {
      if (this.#closing) {
        const error = new TunnelError('LIMIT', 'the peer takes no more sessions now');
        session.close(error.wireCode, error.message);
        continue;
      }
      const arrival = this.#gate.arrive(session);
      if (arrival) void this.#serve(session, arrival).finally(() => arrival.end());
    }
  }

  /** What was turned away for a limit, since the start. */
  get refusals(): Refusals {
    return {
      ...this.#gate.refusals,
      channels: this.#channelQuota.refused,
      flows: this.#flowQuota.refused,
    };
  }

  async #serve(session: Session, arrival: Arrival): Promise<void> {
    this.#sessions.add(session);
    let admitted: Admitted;
    let udp: UdpConnection | undefined;
    let speed: SpeedConnection | undefined;
    try {
      const { peer, grant, streams } = await acceptHandshake(session, {
        identity: this.#options.identity,
        screen: (remote) => arrival.heard(remote),
        admit: (peer, hello, deliberation) => {
          // First: a single-use ticket must not be taken by a session that is turned away.
          arrival.proven(peer);
          return this.#admission.admit(presentedBy(peer, hello), session.path.remote, () =>
            deliberation.begin(),
          );
        },
        services: (allowed) => this.#policy.describe(allowed),
        dispatcher: (allowed, id, remote) => {
          udp = this.#udp.connection({ peer: id, instanceId: remote.instanceId }, (name, asked) =>
            this.#udpService(id, allowed, name, asked),
          );
          speed = this.#speed.connection({ peer: id, session, mayMeasure: () => this.#mayMeasure(id) });
          udp.other = speed.datagram;
          return this.#whileAlive(allowed, {
            ...this.#options.methods?.(id),
            'services.list': () => encodeServices(this.#policy.describe(allowed)),
            [SYNC_METHOD]: (payload) => {
              this.#channelsOf(id, remote).sync(session, decodeLists(payload));
              return new Uint8Array();
            },
            ...udp.dispatcher,
            ...speed.dispatcher,
            ...factsMethods(this.#options.facts),
          });
        },
      });
      admitted = { peer, grant, streams, channels: this.#channelsOf(peer.peer, peer.remote), speed };
    } catch (error) {
      this.#sessions.delete(session);
      const reason = toTunnelError(error);
      session.close(reason.wireCode, reason.message);
      // A dialler that found a faster way leaves before it has said who it is.
      if (reason.code === 'SESSION_LOST') return;
      this.#deny(session.remoteId, `was not let in: ${reason.message}`, reason);
      return;
    }
    arrival.admitted();
    udp?.attach(admitted.peer);
    await this.#live(admitted);
    this.#sessions.delete(session);
  }

  /** An admitted session until its end. */
  async #live(admitted: Admitted): Promise<void> {
    const { peer, channels } = admitted;
    const { session } = peer;
    this.#peers.add(peer);
    this.#grants.set(peer, admitted.grant);
    this.#rights.added(admitted.grant);
    channels.attach(peer);
    // The dialling side asks; this one only must not wait for ever.
    const heartbeat = new Heartbeat(peer, {
      passive: true,
      onSuspect: (suspect) => this.#options.onSilent?.(peer, suspect ? heartbeat.silentMs : undefined),
      onDead: () => session.close(WIRE_CODES.SESSION_LOST, 'the peer does not answer'),
    });
    reportConnected(peer, this.#options.report, { facts: this.#options.facts });
    for await (const stream of admitted.streams) this.#stream(stream, admitted);
    heartbeat.stop();
    this.#peers.delete(peer);
    this.#grants.delete(peer);
    this.#reportEnd(peer, channels, await session.closed);
  }

  #reportEnd(peer: PeerSession, channels: AcceptedChannels, info: CloseInfo): void {
    // Another session has taken its place.
    if (channels.isConnected) return;
    // Closed by either side without a reason is how a session ends that did its work.
    const error = info.closeCode === 0 && !sessionMayResume(info) ? undefined : closeError(info);
    const waiting = sessionMayResume(info) ? channels.waiting : 0;
    this.#options.report({
      event: 'session',
      peer: peer.peer,
      state: waiting > 0 ? 'reconnecting' : 'closed',
      ...(error ? { error: { code: error.code, message: error.message } } : {}),
      ...(waiting > 0 ? { waiting } : {}),
    });
  }

  /** Of a peer that was said to be waited for. */
  #reportClosed(peer: NodeId, reason: TunnelError | undefined): void {
    const told = reason?.code === 'PEER_GONE' || reason?.code === 'RESUME_EXPIRED' ? reason : undefined;
    const error = told ? { error: { code: told.code, message: told.message } } : {};
    this.#options.report({ event: 'session', peer, state: 'closed', ...error });
  }

  #channelsOf(peer: NodeId, remote: Hello): AcceptedChannels {
    const { resumeTimeoutMs } = remote;
    const key = processKey(peer, remote);
    const known = this.#processes.get(key);
    if (known) return known;
    this.#forgetProcess(peer);
    const longest = this.#options.resumeTimeoutMs ?? RESUME_TIMEOUT_MS;
    const channels = new AcceptedChannels({
      detached: this.#detached,
      resumeTimeoutMs: Math.min(longest, resumeTimeoutMs ?? longest),
      forgetAfterMs: Math.min(resumeTimeoutMs ?? RESUME_TIMEOUT_MS, MAX_REMEMBER_MS) + REMEMBER_MARGIN_MS,
      complete: !this.#forgot,
      onIdle: () => this.#processes.delete(key),
      onNothingWaits: (error) => this.#reportClosed(peer, error),
    });
    this.#processes.set(key, channels);
    return channels;
  }

  /** Makes room for another process of `peer`: its own go first, so that it cannot push others out. */
  #forgetProcess(peer: NodeId): void {
    const own = [...this.#processes].filter(([key]) => key.startsWith(peer));
    const from =
      own.length >= this.#limits.processesPerPeer
        ? own
        : this.#processes.size >= MAX_PROCESSES
          ? [...this.#processes]
          : [];
    const [oldest] = from.find(([, { isIdle }]) => isIdle) ?? [''];
    this.#forgot = this.#processes.delete(oldest) || this.#forgot;
  }

  /** Tells peers where this machine is now, while the old way still works. */
  async #networkChanged(): Promise<void> {
    for (const endpoint of this.#options.endpoints) {
      await endpoint.networkChange().catch(() => undefined);
      for (const peer of this.#peers) peer.sendAddresses(endpoint.addresses());
    }
  }

  #stream(stream: BidirectionalStream, admitted: Admitted): void {
    const { peer } = admitted;
    readPreamble(
      stream,
      (preamble) => {
        try {
          this.#channel(stream, preamble, admitted);
        } catch (cause) {
          const error = toTunnelError(cause);
          stream.reset(error.wireCode);
          stream.stop(error.wireCode);
          this.#deny(peer.peer, error.message, error);
        }
      },
      (error) => {
        if (error.code !== 'SESSION_LOST' && error.code !== 'RESET')
          this.#deny(peer.peer, error.message, error);
      },
    );
  }

  /** Throws what the peer is refused with. */
  #channel(stream: BidirectionalStream, { kind, body, rest }: Preamble, admitted: Admitted): void {
    const { peer, channels } = admitted;
    if (kind === StreamKind.OPEN) {
      const open = decodeOpen(body);
      const service = this.#allowed(admitted, open);
      const carrier = new StreamCarrier(stream, open.channelId);
      const begin = () => channels.open(peer, carrier, open.channelId, open.limit);
      this.#exit(this.#counted(peer.peer, begin), service, admitted, rest);
      return;
    }
    if (kind === StreamKind.SPEED && admitted.speed) {
      admitted.speed.stream(stream, { body, rest });
      return;
    }
    if (kind !== StreamKind.RESUME)
      throw new TunnelError('PROTOCOL', `opened a stream of unknown kind ${kind}`);
    const request = decodeResume(body);
    const carrier = new StreamCarrier(stream, request.channelId);
    const known = channels.get(request.channelId);
    if (known) this.#checkStillAllowed(known, admitted);
    if (channels.resume(peer, carrier, request, rest)) {
      const right = known && this.#services.get(known);
      if (right) this.#services.set(known, { ...right, grant: admitted.grant });
      return;
    }
    if (request.open.length === 0)
      throw new TunnelError('RESUME_UNKNOWN', 'wanted to go on with a channel that is not known');
    // Its OPEN was lost with the session before: this one is as good.
    const open = decodeOpen(request.open);
    const service = this.#allowed(admitted, open);
    const channel = this.#counted(peer.peer, () => channels.reopen(peer, request, open.limit));
    this.#exit(channel, service, admitted);
    channel.resumeFrom(carrier, request.epoch, request, rest);
  }

  /** A new channel, unless the peer has too many. What it counts for ends with it. Throws LIMIT, or what `begin` does. */
  #counted(peer: NodeId, begin: () => Channel): Channel {
    this.#channelQuota.take(peer);
    try {
      return begin();
    } catch (error) {
      this.#channelQuota.give(peer);
      throw error;
    }
  }

  /** The service that `open` asks for. Throws DENIED, or SHUTDOWN. */
  #allowed({ grant }: Admitted, open: OpenRequest): Service {
    if (this.#closing) throw new TunnelError('SHUTDOWN', 'came while shutting down');
    const service = this.#policy.service(grant, open.service);
    if (!service) throw new TunnelError('DENIED', 'asked for a service it may not reach');
    return service;
  }

  /** The session that a channel goes on over may have other rights than the one it was opened on. Throws DENIED. */
  #checkStillAllowed(channel: Channel, { grant }: Admitted): void {
    if (this.#policy.kept(grant, this.#services.get(channel)?.name ?? '')) return;
    const error = new TunnelError('DENIED', 'wanted to go on with a channel it may not have any more');
    channel.abort(error);
    throw error;
  }

  #exit(channel: Channel, service: Service, { peer, grant, channels }: Admitted, rest?: Buffer): void {
    this.#services.set(channel, { name: service.name, grant });
    const track = () =>
      this.#channels.add(channel, peer, service.name, {
        target: formatTarget(service.target),
        owner: this.#ownerOf(service),
        session: () => channels.sessionOf(channel),
      });
    tcpExit(channel, {
      ...(rest ? { rest } : {}),
      service,
      lanes: this.#options.rates?.lanes(peer.peer, service.name),
      track: () => {
        const ended = track();
        return (error) => {
          this.#channelQuota.give(peer.peer);
          ended(error);
        };
      },
      onDialFailed: (error) => this.#options.report(errorEvent(error)),
    });
  }

  #udpService(peer: NodeId, grant: Grant, name: string, asked: boolean): Service | undefined {
    if (!asked) return this.#policy.kept(grant, name, 'udp');
    const service = this.#policy.service(grant, name, 'udp');
    if (!service) {
      const error = new TunnelError('DENIED', 'asked for a UDP service it may not reach');
      this.#deny(peer, error.message, error);
    }
    return service;
  }

  #ownerOf({ name, target }: Service): object {
    const key = `${target.protocol} ${name}`;
    const owner = this.#owners.get(key) ?? {};
    this.#owners.set(key, owner);
    return owner;
  }

  #ownersOf(services: readonly Service[]): ReadonlySet<object> {
    return new Set(services.map((service) => this.#ownerOf(service)));
  }

  // ---- who may

  *#allGrants(): Iterable<Grant> {
    yield* this.#grants.values();
    for (const process of this.#processes.values()) {
      for (const channel of process.all()) {
        const right = this.#services.get(channel);
        if (right) yield right.grant;
      }
    }
  }

  /** Rights have changed: what is not covered any more ends now. */
  #enforce(): void {
    const error = new TunnelError('DENIED', 'the right to it was taken back, or has expired');
    for (const process of this.#processes.values()) {
      for (const channel of process.all()) {
        const right = this.#services.get(channel);
        if (!right || this.#policy.kept(right.grant, right.name)) continue;
        channel.abort(error);
        this.#deny(
          right.grant.peer,
          `may not reach '${right.name}' any more; its connection was closed`,
          error,
        );
      }
    }
    this.#udp.recheck();
    for (const [peer, grant] of this.#grants) {
      if (this.#policy.isAlive(grant)) continue;
      this.#deny(peer.peer, 'may not connect any more; its session was closed', error);
      peer.session.close(error.wireCode, error.message);
    }
    this.approvals?.recheck();
  }

  #mayMeasure(peer: NodeId): boolean {
    const { identity, allowsSpeed } = this.#options;
    return peer === identity.nodeId || (allowsSpeed?.(peer) ?? false);
  }

  /** What a peer may call as long as it may anything. */
  #whileAlive(grant: Grant, dispatcher: Dispatcher): Dispatcher {
    return Object.fromEntries(
      Object.entries(dispatcher).map(([name, handler]) => [
        name,
        ((payload, context) => {
          if (this.#policy.isAlive(grant)) return handler(payload, context);
          throw new TunnelError('DENIED', 'the right to connect was taken back');
        }) satisfies RpcHandler,
      ]),
    );
  }

  #deny(peer: NodeId, what: string, error: TunnelError): void {
    const skipped = this.#denials.take();
    if (skipped === undefined) return;
    const more = skipped > 0 ? ` (${skipped} more like it were not shown)` : '';
    this.#options.report(errorEvent(new TunnelError(error.code, `peer ${shortNodeId(peer)} ${what}${more}`)));
  }
}

function presentedBy(peer: NodeId, { instanceId, tokens, wants }: Hello): Presented {
  return { peer, instanceId, tokens: tokens ?? [], ...(wants === undefined ? {} : { wants }) };
}

/** By identity, which is proven, and by what the process calls itself. */
function processKey(peer: NodeId, { instanceId }: Pick<Hello, 'instanceId'>): string {
  return `${peer} ${instanceId}`;
}
