/** A running expose with all that it holds: the lock on the identity, its tickets, its endpoints. */
import { TunnelError } from '../error.js';
import type { ServiceInfo } from '../session/hello.js';
import type { Identity } from '../session/identity.js';
import type { NodeId } from '../session/node-id.js';
import type { Endpoint } from '../session/session.js';
import { formatTicket } from '../session/ticket.js';
import { errorEvent, type Report, type TunnelEvent } from '../tunnel/events.js';
import type { Expose } from '../tunnel/expose.js';
import { allowSource, publicSource } from '../tunnel/policy.js';
import { Rates } from '../tunnel/rates.js';
import { formatTarget, type Service } from '../tunnel/spec.js';
import type { Reach, StatusSource } from '../tunnel/status.js';
import { encodeAnnouncement } from './announce.js';
import { exposeBanner, suggestedSpecs } from './expose-banner.js';
import type { ExposePlan } from './expose-plan.js';
import { type ExposeRights, publicNotice } from './expose-rights.js';
import { type ExposeTickets, openTickets } from './expose-tickets.js';
import { lockIdentity } from './identity-lock.js';
import { factsOf } from './network-facts.js';
import { bindEndpoint, portFile } from './network-flags.js';
import type { Observation } from './observe.js';
import type { Output } from './output.js';
import type { Paths } from './paths.js';
import type { WebTransportListening } from './webtransport-listener.js';
import { accessJson, peersByBook } from './who-may-connect.js';

export interface ExposeContext {
  readonly paths: Paths;
  readonly identity: Identity;
  readonly identityName: string;
  readonly rights: ExposeRights;
  readonly observation: Observation;
  /** What lines call a peer. */
  label(nodeId: NodeId): string;
}

export interface OfferedService extends ServiceInfo {
  readonly target: string;
}

/** As `ready`, status and banner say it. */
export function offeredServices(services: readonly Service[]): readonly OfferedService[] {
  return services.map(({ name, target }) => ({
    name,
    protocol: target.protocol,
    target: formatTarget(target),
  }));
}

export class ExposeService {
  readonly #plan: ExposePlan;
  readonly #context: ExposeContext;
  readonly #parts: Parts;
  readonly source: StatusSource;
  #closing: Promise<void> | undefined;

  private constructor(plan: ExposePlan, context: ExposeContext, parts: Parts) {
    this.#plan = plan;
    this.#context = context;
    this.#parts = parts;
    this.source = { ...parts.expose.source, reach: () => this.#reach() };
  }

  /** Throws IDENTITY_LOCKED, and what tickets and binding throw; nothing is left open then. */
  static async start(plan: ExposePlan, context: ExposeContext): Promise<ExposeService> {
    const { paths, identity, identityName, rights, observation } = context;
    const unlock = await lockIdentity(paths.runtime, identityName);
    let tickets: ExposeTickets | undefined;
    try {
      tickets = await openTickets({
        paths,
        identity,
        identityName,
        services: plan.services,
        terms: plan.terms,
        report: observation.report,
        book: rights.book,
      });
      const endpoint = await bindEndpoint(identity, plan.network, {
        portFile: portFile(paths.state, identityName),
        // Found by who knows its ID in either case; a name is for all to see.
        announce: true,
        ...(plan.announced === undefined
          ? {}
          : { lanName: encodeAnnouncement(plan.announced, suggestedSpecs(plan.services)) }),
      });
      const { lan: lanError } = endpoint.lookupErrors;
      const { Expose } = await import('../tunnel/expose.js');
      const listening =
        plan.webtransport === undefined
          ? undefined
          : await listenWebTransport(identity, plan.webtransport, endpoint);
      const expose = new Expose({
        endpoints: listening ? [endpoint, listening.endpoint] : [endpoint],
        identity,
        services: plan.services,
        rights: [
          rights.book.rights(),
          allowSource(plan.allow),
          ...(plan.public ? [publicSource()] : []),
          tickets.rights,
        ],
        ask: plan.ask,
        approvalTimeoutMs: plan.approvalTimeoutMs,
        report: observation.report,
        onSilent: observation.onSilent,
        methods: observation.methods,
        allowsSpeed: (peer) => plan.allowSpeed === 'all' || plan.allowSpeed.includes(peer),
        facts: factsOf(endpoint),
        resumeTimeoutMs: plan.resumeTimeoutMs,
        rates: new Rates(plan.rates),
      });
      rights.approvals = expose.approvals;
      return new ExposeService(plan, context, { expose, endpoint, listening, tickets, lanError, unlock });
    } catch (error) {
      tickets?.rights.close();
      await unlock();
      throw error;
    }
  }

  /** Says what there is and who may come, and to whom it may matter. Answers the lines of it. */
  announce(output: Output, { created }: { readonly created: boolean }): readonly string[] {
    const { identity, identityName, rights, label, observation } = this.#context;
    const { services, announced, public: isPublic, ask, allow } = this.#plan;
    const { tickets, lanError } = this.#parts;
    const { nodeId } = identity;
    const offered = offeredServices(services);
    const ticket = formatTicket({ nodeId, ...this.#reach(), token: tickets.token });
    const access = {
      ticket: tickets.record,
      public: isPublic,
      ask,
      allow: allow.map(label),
      book: peersByBook(rights.book.book, offered),
    };
    const banner = exposeBanner({ nodeId, identityName, created, services, ticket, access, announced });
    output.print(
      {
        event: 'ready',
        nodeId,
        ticket,
        services: offered,
        access: accessJson(access),
        ...(announced === undefined ? {} : { announced }),
        pid: process.pid,
      },
      banner,
    );
    this.#warn(observation.report, lanError);
    return banner;
  }

  /** Takes no new channels, waits up to `drainMs` for the open ones, then resets what is left. Idempotent. */
  close(drainMs: number, signal?: AbortSignal): Promise<void> {
    this.#closing ??= this.#close(drainMs, signal);
    return this.#closing;
  }

  async #close(drainMs: number, signal?: AbortSignal): Promise<void> {
    const { expose, tickets, unlock } = this.#parts;
    try {
      await expose.close(drainMs, signal);
    } finally {
      tickets.rights.close();
      await unlock();
    }
  }

  #warn(report: Report, lanError: string | undefined): void {
    const { announced, public: isPublic } = this.#plan;
    if (announced !== undefined && lanError !== undefined) report(notSeen(lanError));
    if (isPublic) report(publicNotice(this.#context.identity.nodeId));
  }

  #reach(): Reach {
    const { endpoint, listening } = this.#parts;
    const { direct, relays } = endpoint.addresses();
    // It takes a moment to find the nearest; until then it is any of those that were named.
    const named = relays.length > 0 ? relays : (this.#plan.network.relay ?? []);
    return { direct, relays: named, webtransport: listening?.hints };
  }
}

interface Parts {
  readonly expose: Expose;
  readonly endpoint: Endpoint;
  readonly listening: WebTransportListening | undefined;
  readonly tickets: ExposeTickets;
  /** Why nobody on the local network sees it. */
  readonly lanError: string | undefined;
  unlock(): Promise<void>;
}

/** Leaves nothing bound when it fails. */
async function listenWebTransport(
  identity: Identity,
  address: string,
  bound: Endpoint,
): Promise<WebTransportListening> {
  const { listenWebTransportOn } = await import('./webtransport-listener.js');
  try {
    return await listenWebTransportOn(identity, address);
  } catch (error) {
    await bound.close();
    throw error;
  }
}

function notSeen(why: string): TunnelEvent {
  const message = `nobody on the local network sees this node: ${why}`;
  return errorEvent(
    new TunnelError('OS_RESOURCE', message, { hint: "see the line 'mdns' of tunnel doctor" }),
  );
}
