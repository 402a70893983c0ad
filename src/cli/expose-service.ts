/** A running expose with all that it holds: the lock on the identity, its tickets, its endpoints. */
import { isDeepStrictEqual } from 'node:util';
import { TunnelError } from '../error.js';
import type { ServiceInfo } from '../session/hello.js';
import type { Identity } from '../session/identity.js';
import type { NodeId } from '../session/node-id.js';
import type { Endpoint } from '../session/session.js';
import { formatTicket } from '../session/ticket.js';
import { errorEvent, type Report, type TunnelEvent } from '../tunnel/events.js';
import type { Expose } from '../tunnel/expose.js';
import type { ListenOptions } from '../tunnel/forward.js';
import { DeclaredRights } from '../tunnel/policy.js';
import { Rates } from '../tunnel/rates.js';
import { formatTarget, type Service } from '../tunnel/spec.js';
import type { Reach, StatusSource } from '../tunnel/status.js';
import type { OfferedService } from '../tunnel/status-model.js';
import { encodeAnnouncement } from './announce.js';
import { exposeBanner, suggestedSpecs } from './expose-banner.js';
import type { ExposePlan } from './expose-plan.js';
import { type ExposeRights, publicNotice } from './expose-rights.js';
import {
  type ExposeTickets,
  openTickets,
  replaceTicket,
  type TicketRightsOptions,
} from './expose-tickets.js';
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

/** As `ready`, status and banner say it. */
export function offeredServices(services: readonly Service[]): readonly (OfferedService & ServiceInfo)[] {
  return services.map(({ name, target }) => ({
    name,
    protocol: target.protocol,
    target: formatTarget(target),
  }));
}

export class ExposeService {
  readonly #context: ExposeContext;
  readonly #parts: Parts;
  readonly #current: Current;
  readonly source: StatusSource;
  #closing: Promise<void> | undefined;

  private constructor(context: ExposeContext, parts: Parts, current: Current) {
    this.#context = context;
    this.#parts = parts;
    this.#current = current;
    this.source = { ...parts.expose.source, reach: () => this.#reach() };
  }

  /** Throws IDENTITY_LOCKED, and what tickets and binding throw; nothing is left open then. */
  static async start(plan: ExposePlan, context: ExposeContext): Promise<ExposeService> {
    const { paths, identity, identityName, rights, observation } = context;
    const unlock = await lockIdentity(paths.runtime, identityName);
    let tickets: ExposeTickets | undefined;
    try {
      tickets = await openTickets(ticketOptions(plan, context));
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
      const declared = new DeclaredRights(plan);
      const rates = new Rates(plan.rates);
      const current: Current = { plan, tickets, rates };
      const expose = new Expose({
        endpoints: listening ? [endpoint, listening.endpoint] : [endpoint],
        identity,
        services: plan.services,
        rights: [rights.book.rights(), declared, tickets.rights],
        ask: plan.ask,
        approvalTimeoutMs: plan.approvalTimeoutMs,
        report: observation.report,
        onSilent: observation.onSilent,
        methods: observation.methods,
        allowsSpeed: (peer) => {
          const { allowSpeed } = current.plan;
          return allowSpeed === 'all' || allowSpeed.includes(peer);
        },
        facts: factsOf(endpoint),
        resumeTimeoutMs: plan.resumeTimeoutMs,
        rates: { lanes: (peer, name) => current.rates.lanes(peer, name) },
      });
      rights.approvals = expose.approvals;
      const parts = { expose, endpoint, listening, declared, lanError, unlock };
      return new ExposeService(context, parts, current);
    } catch (error) {
      tickets?.rights.close();
      await unlock();
      throw error;
    }
  }

  /** Says what there is and who may come, and to whom it may matter. Answers the lines of it. */
  announce(print: Output['print'], { created }: { readonly created: boolean }): readonly string[] {
    const { identity, identityName, rights, label, observation } = this.#context;
    const { plan, tickets } = this.#current;
    const { services, announced, public: isPublic, ask, allow } = plan;
    const { lanError } = this.#parts;
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
    print(
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

  /**
   * Goes by another plan from now on, which differs in nothing that `fixedDifferences` names. Connections
   * to a service that is not in it are waited for up to `drainMs`, then reset: `drained` resolves then.
   * Throws what making a ticket throws; it is as it was then.
   */
  async follow(
    plan: ExposePlan,
    { drainMs, signal }: ListenOptions,
  ): Promise<{ readonly removed: readonly OfferedService[]; readonly drained: Promise<void> }> {
    const { plan: before, tickets } = this.#current;
    const [names, namesBefore] = [serviceNames(plan), serviceNames(before)];
    const sameTerms = isDeepStrictEqual(plan.terms, before.terms);
    const isSame = sameTerms && isDeepStrictEqual(names, namesBefore);
    if (!isSame) {
      const options = ticketOptions(plan, this.#context);
      this.#current.tickets = await replaceTicket(tickets, options, { keep: sameTerms });
    }
    this.#current.plan = plan;
    if (!isDeepStrictEqual(plan.rates, before.rates)) this.#current.rates = new Rates(plan.rates);
    this.#parts.declared.declare(plan);
    const gone = offeredServices(before.services).filter(
      ({ name, protocol }) => !names.includes(`${name}/${protocol}`),
    );
    return { removed: gone, drained: this.#parts.expose.offer(plan.services, drainMs, signal) };
  }

  /** Takes no new channels, waits up to `drainMs` for the open ones, then resets what is left. Idempotent. */
  close(drainMs: number, signal?: AbortSignal): Promise<void> {
    this.#closing ??= this.#close(drainMs, signal);
    return this.#closing;
  }

  async #close(drainMs: number, signal?: AbortSignal): Promise<void> {
    const { expose, unlock } = this.#parts;
    try {
      await expose.close(drainMs, signal);
    } finally {
      this.#current.tickets.rights.close();
      await unlock();
    }
  }

  #warn(report: Report, lanError: string | undefined): void {
    const { announced, public: isPublic } = this.#current.plan;
    if (announced !== undefined && lanError !== undefined) report(notSeen(lanError));
    if (isPublic) report(publicNotice(this.#context.identity.nodeId));
  }

  #reach(): Reach {
    const { endpoint, listening } = this.#parts;
    const { direct, relays } = endpoint.addresses();
    // It takes a moment to find the nearest; until then it is any of those that were named.
    const named = relays.length > 0 ? relays : (this.#current.plan.network.relay ?? []);
    return { direct, relays: named, webtransport: listening?.hints };
  }
}

/** What may change while it runs. */
interface Current {
  plan: ExposePlan;
  tickets: ExposeTickets;
  rates: Rates;
}

interface Parts {
  readonly expose: Expose;
  readonly declared: DeclaredRights;
  readonly endpoint: Endpoint;
  readonly listening: WebTransportListening | undefined;
  /** Why nobody on the local network sees it. */
  readonly lanError: string | undefined;
  unlock(): Promise<void>;
}

/** What of a plan holds until the process ends, and differs: as flags and files call it. */
export function fixedDifferences(now: ExposePlan, wanted: ExposePlan): readonly string[] {
  const [fixed, other] = [fixedOf(now), fixedOf(wanted)];
  return Object.entries(fixed)
    .filter(([key, value]) => !isDeepStrictEqual(value, other[key as keyof Fixed]))
    .map(([key]) => FIXED_NAMES[key as keyof Fixed]);
}

/** The wanted plan, but for what cannot be changed. */
export function withFixedOf(now: ExposePlan, wanted: ExposePlan): ExposePlan {
  const { bind: _bind, congestion: _congestion, ...fixed } = fixedOf(now);
  return { ...wanted, ...fixed, network: now.network };
}

type Fixed = ReturnType<typeof fixedOf>;

const FIXED_NAMES: Readonly<Record<keyof Fixed, string>> = {
  bind: 'bind',
  congestion: 'congestion',
  ask: 'ask',
  approvalTimeoutMs: 'ask-timeout',
  announced: 'announce',
  webtransport: 'webtransport',
  resumeTimeoutMs: 'resume-timeout',
};

function fixedOf({ network, ask, approvalTimeoutMs, announced, webtransport, resumeTimeoutMs }: ExposePlan) {
  const { bind, congestion } = network;
  return { bind, congestion, ask, approvalTimeoutMs, announced, webtransport, resumeTimeoutMs };
}

function serviceNames({ services }: ExposePlan): readonly string[] {
  return services.map(({ name, target }) => `${name}/${target.protocol}`).sort();
}

function ticketOptions(
  { services, terms }: ExposePlan,
  { paths, identity, identityName, observation, rights }: ExposeContext,
): TicketRightsOptions {
  const { report } = observation;
  return { paths, identity, identityName, services, terms, report, book: rights.book };
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
