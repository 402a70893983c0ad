/** Offers services: admits sessions, serves the channels that peers open, and ends in order. */
import { TunnelError, toTunnelError } from '../error.js';
import { acceptHandshake, closeError, type PeerSession } from '../session/handshake.js';
import type { Identity } from '../session/identity.js';
import { type NodeId, shortNodeId } from '../session/node-id.js';
import { readPreamble, StreamKind } from '../session/preamble.js';
import type { AddressHints, BidirectionalStream, Endpoint, Session } from '../session/session.js';
import { formatTicket, type Ticket } from '../session/ticket.js';
import { LINK_WINDOW_BYTES, WindowBudget } from '../session/window-budget.js';
import { ChannelTable } from './channel-table.js';
import { errorEvent, type Report } from './events.js';
import { decodeOpen } from './open.js';
import { type Grant, Policy, ticketToken } from './policy.js';
import { RateLimit } from './rate-limit.js';
import { reportSession } from './report-session.js';
import { encodeServices } from './services.js';
import type { Service } from './spec.js';
import { tcpExit } from './tcp-exit.js';
import type { UdpConnection } from './udp-connection.js';
import { UdpExits } from './udp-exits.js';

/** Sessions that have not proven who they are yet; beyond this many, new ones are turned away. */
const MAX_HANDSHAKES = 256;
const MAX_SESSIONS = 4096;
/** Lines about denied or broken peers, a second: a flood must not become a flood of log lines. */
const DENIALS_PER_SECOND = 5;

export interface ExposeOptions {
  /** Where sessions may come in; all of them lead to the same services. */
  readonly endpoints: readonly Endpoint[];
  readonly identity: Identity;
  readonly services: readonly Service[];
  readonly report: Report;
}

export class Expose {
  readonly #options: ExposeOptions;
  readonly #policy: Policy;
  readonly #token: string;
  readonly #channels: ChannelTable;
  readonly #udp: UdpExits;
  readonly #sessions = new Set<Session>();
  /** Those of the sessions that have been admitted. */
  readonly #peers = new Set<PeerSession>();
  readonly #denials = new RateLimit(DENIALS_PER_SECOND);
  #handshakes = 0;
  #closing = false;

  /** Starts accepting at once. */
  constructor(options: ExposeOptions) {
    this.#options = options;
    this.#token = ticketToken(options.identity, options.services);
    this.#policy = new Policy(options.identity.nodeId, options.services, this.#token);
    this.#channels = new ChannelTable(options.report);
    this.#udp = new UdpExits({ report: options.report, takeId: () => this.#channels.takeId() });
    for (const endpoint of options.endpoints) void this.#accept(endpoint);
  }

  /** The URL that lets its holder in, at the addresses given. A secret. */
  ticket(hints: AddressHints & Pick<Ticket, 'webtransport'>): string {
    return formatTicket({ nodeId: this.#options.identity.nodeId, ...hints, token: this.#token });
  }

  /** Takes no new channels, waits up to `drainMs` for the open ones, then resets what is left. */
  async close(drainMs: number, signal?: AbortSignal): Promise<void> {
    this.#closing = true;
    const error = new TunnelError('SHUTDOWN', 'the peer is shutting down');
    for (const peer of this.#peers) peer.goAway(error);
    await this.#channels.drain(drainMs, signal);
    this.#channels.abortAll(error);
    this.#udp.close();
    for (const session of this.#sessions) session.close(error.wireCode, error.message);
    await Promise.all(this.#options.endpoints.map((endpoint) => endpoint.close()));
  }

  async #accept(endpoint: Endpoint): Promise<void> {
    for await (const session of endpoint.incoming) {
      if (this.#closing || this.#handshakes >= MAX_HANDSHAKES || this.#sessions.size >= MAX_SESSIONS) {
        const error = new TunnelError('LIMIT', 'the peer takes no more sessions now');
        session.close(error.wireCode, error.message);
        continue;
      }
      void this.#serve(session);
    }
  }

  async #serve(session: Session): Promise<void> {
    this.#sessions.add(session);
    this.#handshakes += 1;
    let admitted: { peer: PeerSession; grant: Grant };
    let udp: UdpConnection | undefined;
    try {
      admitted = await acceptHandshake(session, {
        identity: this.#options.identity,
        admit: (peer, tokens) => this.#policy.admit(peer, tokens),
        services: (grant) => this.#policy.describe(grant),
        dispatcher: (grant, who) => {
          udp = this.#udp.connection(who, (name) => this.#udpService(who.peer, grant, name));
          return {
            'services.list': () => encodeServices(this.#policy.describe(grant)),
            ...udp.dispatcher,
          };
        },
      });
    } catch (error) {
      this.#sessions.delete(session);
      const reason = toTunnelError(error);
      session.close(reason.wireCode, reason.message);
      this.#deny(session.remoteId, `was not let in: ${reason.message}`, reason);
      return;
    } finally {
      this.#handshakes -= 1;
    }
    const { peer, grant } = admitted;
    this.#peers.add(peer);
    udp?.attach(peer);
    const endReport = reportSession(peer, this.#options.report);
    const budget = new WindowBudget(LINK_WINDOW_BYTES);
    for await (const stream of session.incomingBidirectionalStreams) {
      this.#stream(stream, peer, grant, budget);
    }
    this.#sessions.delete(session);
    this.#peers.delete(peer);
    const info = await session.closed;
    endReport(
      info.closeCode === 0 && info.by !== 'timeout' && info.by !== 'lost' ? undefined : closeError(info),
    );
  }

  #stream(stream: BidirectionalStream, peer: PeerSession, grant: Grant, budget: WindowBudget): void {
    const refuse = (error: TunnelError) => {
      stream.reset(error.wireCode);
      stream.stop(error.wireCode);
      this.#deny(peer.peer, error.message, error);
    };
    readPreamble(
      stream,
      ({ kind, body, rest }) => {
        try {
          if (kind !== StreamKind.OPEN)
            throw new TunnelError('PROTOCOL', `opened a stream of unknown kind ${kind}`);
          const open = decodeOpen(body);
          if (this.#closing) throw new TunnelError('SHUTDOWN', 'came while shutting down');
          const service = this.#policy.service(grant, open.service);
          if (!service) throw new TunnelError('DENIED', 'asked for a service it may not reach');
          tcpExit(stream, {
            open,
            rest,
            service,
            budget,
            rttMs: () => peer.session.path.rttMs,
            track: (channel) => this.#channels.add(channel, peer, service.name),
            onDialFailed: (error) => this.#options.report(errorEvent(error)),
          });
        } catch (error) {
          refuse(toTunnelError(error));
        }
      },
      (error) => {
        if (error.code !== 'SESSION_LOST' && error.code !== 'RESET')
          this.#deny(peer.peer, error.message, error);
      },
    );
  }

  #udpService(peer: NodeId, grant: Grant, name: string): Service | undefined {
    const service = this.#policy.service(grant, name, 'udp');
    if (!service) {
      const error = new TunnelError('DENIED', 'asked for a UDP service it may not reach');
      this.#deny(peer, error.message, error);
    }
    return service;
  }

  #deny(peer: NodeId, what: string, error: TunnelError): void {
    const skipped = this.#denials.take();
    if (skipped === undefined) return;
    const more = skipped > 0 ? ` (${skipped} more like it were not shown)` : '';
    this.#options.report(errorEvent(new TunnelError(error.code, `peer ${shortNodeId(peer)} ${what}${more}`)));
  }
}
