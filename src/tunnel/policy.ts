/**
 * Who may reach what: the one place that decides, asked at HELLO and again at every OPEN, RESUME,
 * `flow.open` and call.
 *
 * Deny by default. What a peer may do is the union of what the sources of rights say now: an answer is
 * never kept, so a right that was taken back or has expired is gone at the next question.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { ServiceInfo } from '../session/hello.js';
import type { Identity } from '../session/identity.js';
import type { NodeId } from '../session/node-id.js';
import { TOKEN_BYTES } from '../session/ticket.js';
import type { Protocol, Service } from './spec.js';

/** What a peer shows when it comes. */
export interface Presented {
  /** Proven. */
  readonly peer: NodeId;
  /** What the peer's process calls itself; the same over all sessions of that process. Not proven. */
  readonly instanceId: string;
  readonly tokens: readonly string[];
  /** What it says it wants; absent where it does not say. */
  readonly wants?: readonly ServiceInfo[];
}

/**
 * Services by name (`db`, whatever its protocol) or by name and protocol (`dns/udp`, `dns/tcp`), as in
 * the specs of `forward`; `all` is every service this process offers, now or later.
 */
export type ServiceSet = 'all' | ReadonlySet<string>;

/** What one source of rights grants. */
export interface Rights {
  readonly services: ServiceSet;
  /** Wall clock, milliseconds since the epoch. */
  readonly expiresAtMs?: number;
  readonly via: 'owner' | 'public' | 'allow' | 'book' | 'ticket' | 'approval';
  /** Which ticket; never its token. */
  readonly id?: string;
}

/** One peer's claim on one source. */
export interface Held {
  /** Read again at every question. Undefined for nothing, at the moment. */
  current(): Rights | undefined;
}

export interface RightsSource {
  /**
   * Asked once a session, at HELLO; may take a single-use ticket. Tokens are never kept. Undefined for
   * a peer that can get nothing here as long as the session lasts.
   */
  admit(presented: Presented): Held | undefined;
  /** What the peer may not have, whatever other sources grant. Asked at every question. */
  denies?(peer: NodeId): ServiceSet | undefined;
  /** Calls back when what was answered may have changed. Answers what ends it. */
  onChange?(listener: () => void): () => void;
}

/** One admitted session's claims. */
export interface Grant {
  readonly peer: NodeId;
  readonly held: readonly Held[];
}

export class Policy {
  readonly #services: readonly Service[];
  readonly #sources: readonly RightsSource[];

  constructor(services: readonly Service[], sources: readonly RightsSource[]) {
    this.#services = services;
    this.#sources = sources;
  }

  /** Undefined for a peer that may reach nothing here. */
  admit(presented: Presented): Grant | undefined {
    const { peer } = presented;
    // Not to take a single-use ticket of one that is not let in anyway.
    if (this.#denied(peer).includes('all')) return undefined;
    const held = this.#sources.flatMap((source) => source.admit(presented) ?? []);
    const grant = { peer, held };
    return this.isAlive(grant) ? grant : undefined;
  }

  /** Whether anything is left of the grant. */
  isAlive(grant: Grant): boolean {
    return this.#reach(grant).length > 0;
  }

  /** The service of that name, if the grant covers it now. Undefined denies, and does not say whether it exists. */
  service(grant: Grant, name: string, protocol: Protocol = 'tcp'): Service | undefined {
    return this.#reach(grant).find(
      (service) => service.name === name && service.target.protocol === protocol,
    );
  }

  /** Whether the grant covers this, offered or not. */
  covers(grant: Grant, wanted: ServiceInfo): boolean {
    return this.#covers(wanted, this.#rights(grant), this.#denied(grant.peer));
  }

  describe(grant: Grant): readonly ServiceInfo[] {
    return this.#reach(grant).map(infoOf);
  }

  /** When the first of these grants' rights expires, milliseconds since the epoch; infinity for never. */
  firstExpiryMs(grants: Iterable<Grant>): number {
    let first = Number.POSITIVE_INFINITY;
    for (const grant of grants) {
      for (const { expiresAtMs } of this.#rights(grant)) first = Math.min(first, expiresAtMs ?? first);
    }
    return first;
  }

  /** Calls back when any source's rights may have changed. Answers what ends it. */
  onChange(listener: () => void): () => void {
    const ends = this.#sources.flatMap((source) => source.onChange?.(listener) ?? []);
    return () => {
      for (const end of ends) end();
    };
  }

  #reach(grant: Grant): readonly Service[] {
    const rights = this.#rights(grant);
    const denied = this.#denied(grant.peer);
    return this.#services.filter((service) => this.#covers(infoOf(service), rights, denied));
  }

  #covers(service: ServiceInfo, rights: readonly Rights[], denied: readonly ServiceSet[]): boolean {
    return (
      rights.some(({ services }) => includesService(services, service)) &&
      !denied.some((services) => includesService(services, service))
    );
  }

  #rights({ held }: Grant): readonly Rights[] {
    const now = Date.now();
    return held.flatMap((one) => {
      const rights = one.current();
      return rights === undefined || now >= (rights.expiresAtMs ?? Number.POSITIVE_INFINITY) ? [] : rights;
    });
  }

  #denied(peer: NodeId): readonly ServiceSet[] {
    return this.#sources.flatMap((source) => source.denies?.(peer) ?? []);
  }
}

export function includesService(services: ServiceSet, { name, protocol }: ServiceInfo): boolean {
  return services === 'all' || services.has(name) || services.has(`${name}/${protocol}`);
}

function infoOf({ name, target }: Service): ServiceInfo {
  return { name, protocol: target.protocol };
}

/** The identity itself: its owner's other processes and machines. */
export function ownerSource(owner: NodeId): RightsSource {
  const held: Held = { current: () => ({ services: 'all', via: 'owner' }) };
  return { admit: ({ peer }) => (peer === owner ? held : undefined) };
}

/** `token` opens every service; only its hash is kept. */
export function tokenSource(token: string): RightsSource {
  const expected = hash(token);
  const held: Held = { current: () => ({ services: 'all', via: 'ticket' }) };
  return {
    admit: ({ tokens }) => (tokens.some((one) => timingSafeEqual(hash(one), expected)) ? held : undefined),
  };
}

/**
 * The token of an identity's own ticket for a set of services: the same at every start, so that a
 * ticket in a script survives a restart, and another one as soon as the set changes, so that it never
 * opens more than what it was handed out for.
 */
export function ticketToken(identity: Identity, services: readonly Service[]): string {
  const names = services.map(({ name, target }) => `${target.protocol}:${name}`).sort();
  return identity.derive(`ticket ${names.join(' ')}`, TOKEN_BYTES).toString('base64url');
}

function hash(token: string): Buffer {
  return createHash('sha256').update(token).digest();
}
