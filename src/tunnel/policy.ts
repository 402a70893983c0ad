/**
 * Who may reach what: the one place that decides, asked at HELLO and again at every OPEN, RESUME,
 * `flow.open` and call.
 *
 * Deny by default. What a peer may do is the union of what the sources of rights say now: an answer is
 * never kept, so a right that was taken back or has expired is gone at the next question.
 */
import type { ServiceInfo } from '../session/hello.js';
import type { NodeId } from '../session/node-id.js';
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
   * Called before `admit`, once a session: resolves when what the peer takes by coming is on the disk.
   * Throws when it cannot be written, and the peer is turned away.
   */
  prepare?(presented: Presented): Promise<void>;
  /**
   * Asked once a session, at HELLO. Tokens are never kept. Undefined for a peer that can get nothing
   * here as long as the session lasts.
   */
  admit(presented: Presented): Held | readonly Held[] | undefined;
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
  #services: readonly Service[];
  /** Not offered any more, while who has a connection to them may end it. */
  #leaving: readonly Service[] = [];
  readonly #sources: readonly RightsSource[];

  constructor(services: readonly Service[], sources: readonly RightsSource[]) {
    this.#services = services;
    this.#sources = sources;
  }

  /** What there is. */
  get offered(): readonly ServiceInfo[] {
    return this.#services.map(infoOf);
  }

  /** Offers these from now on. Answers those that go: they are kept for what uses them, until `forget`. */
  offer(services: readonly Service[]): readonly Service[] {
    const isOffered = (one: Service) => services.some((other) => isSame(one, other));
    const gone = this.#services.filter((service) => !isOffered(service));
    this.#leaving = [...this.#leaving.filter((service) => !isOffered(service)), ...gone];
    this.#services = services;
    return gone;
  }

  /** Answers those that were not offered again meanwhile. */
  forget(gone: readonly Service[]): readonly Service[] {
    const left = gone.filter((service) => this.#leaving.includes(service));
    this.#leaving = this.#leaving.filter((service) => !left.includes(service));
    return left;
  }

  /** To be awaited before `admit`. Throws what turns the peer away. */
  async prepare(presented: Presented): Promise<void> {
    // Not to take a single-use ticket of one that is not let in anyway.
    if (this.isDenied(presented.peer)) return;
    for (const source of this.#sources) await source.prepare?.(presented);
  }

  /** Undefined for a peer that may reach nothing here. */
  admit(presented: Presented): Grant | undefined {
    const grant = this.claim(presented);
    return grant && this.isAlive(grant) ? grant : undefined;
  }

  /** As `admit`, also where it covers nothing yet. Undefined for a peer that is denied everything. */
  claim(presented: Presented): Grant | undefined {
    const { peer } = presented;
    if (this.isDenied(peer)) return undefined;
    return { peer, held: this.#sources.flatMap((source) => source.admit(presented) ?? []) };
  }

  /** Whether the peer is denied the service, or without one everything, whatever it holds. */
  isDenied(peer: NodeId, service?: ServiceInfo): boolean {
    return this.#denied(peer).some((denied) =>
      service === undefined ? denied === 'all' : includesService(denied, service),
    );
  }

  /** Whether anything is left of the grant. */
  isAlive(grant: Grant): boolean {
    return this.#reach(grant, this.#begun).length > 0;
  }

  /** The service of that name, if the grant covers it now. Undefined denies, and does not say whether it exists. */
  service(grant: Grant, name: string, protocol: Protocol = 'tcp'): Service | undefined {
    return this.#reach(grant).find(isNamed(name, protocol));
  }

  /** As `service`, for what was begun with it: also where it is not offered any more. */
  kept(grant: Grant, name: string, protocol: Protocol = 'tcp'): Service | undefined {
    return this.#reach(grant, this.#begun).find(isNamed(name, protocol));
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

  /** What somebody may be using. */
  get #begun(): readonly Service[] {
    return [...this.#services, ...this.#leaving];
  }

  #reach(grant: Grant, services = this.#services): readonly Service[] {
    const rights = this.#rights(grant);
    const denied = this.#denied(grant.peer);
    return services.filter((service) => this.#covers(infoOf(service), rights, denied));
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

function isNamed(name: string, protocol: Protocol): (service: Service) => boolean {
  return (service) => service.name === name && service.target.protocol === protocol;
}

function isSame(one: Service, { name, target }: Service): boolean {
  return isNamed(name, target.protocol)(one);
}

/** The identity itself: its owner's other processes and machines. */
export function ownerSource(owner: NodeId): RightsSource {
  const held: Held = { current: () => ({ services: 'all', via: 'owner' }) };
  return { admit: ({ peer }) => (peer === owner ? held : undefined) };
}

export interface Declared {
  /** These peers. */
  readonly allow: Iterable<NodeId>;
  /** Whoever comes. */
  readonly public: boolean;
}

/** Who may reach every service, as flags or a file say, which may say otherwise later. */
export class DeclaredRights implements RightsSource {
  readonly #listeners = new Set<() => void>();
  #allow: ReadonlySet<NodeId> = new Set();
  #public = false;

  constructor(declared: Declared) {
    this.declare(declared);
  }

  declare({ allow, public: isPublic }: Declared): void {
    this.#allow = new Set(allow);
    this.#public = isPublic;
    for (const listener of [...this.#listeners]) listener();
  }

  /** Also for who has no right: it may be declared while the peer is connected. */
  admit({ peer }: Presented): Held {
    return { current: () => this.#rightsOf(peer) };
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #rightsOf(peer: NodeId): Rights | undefined {
    if (this.#allow.has(peer)) return { services: 'all', via: 'allow' };
    return this.#public ? { services: 'all', via: 'public' } : undefined;
  }
}
