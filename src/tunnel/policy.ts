/**
 * Who may reach what: the one place that decides, asked at HELLO and again at every OPEN and `flow.open`.
 *
 * Deny by default. A peer is let in by a capability token of a ticket, or by being this identity
 * itself (its owner's other processes and machines).
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { ServiceInfo } from '../session/hello.js';
import type { Identity } from '../session/identity.js';
import type { NodeId } from '../session/node-id.js';
import { TOKEN_BYTES } from '../session/ticket.js';
import type { Protocol, Service } from './spec.js';

/** What one admitted session may do. */
export interface Grant {
  readonly services: readonly Service[];
}

export class Policy {
  readonly #owner: NodeId;
  readonly #services: readonly Service[];
  readonly #tokenHash: Buffer;

  /** `token` opens all of `services`; only its hash is kept. */
  constructor(owner: NodeId, services: readonly Service[], token: string) {
    this.#owner = owner;
    this.#services = services;
    this.#tokenHash = hash(token);
  }

  admit(peer: NodeId, tokens: readonly string[]): Grant | undefined {
    const known = tokens.some((token) => timingSafeEqual(hash(token), this.#tokenHash));
    return known || peer === this.#owner ? { services: this.#services } : undefined;
  }

  /** The service of that name, if the grant covers it. Undefined denies, and does not say whether it exists. */
  service(grant: Grant, name: string, protocol: Protocol = 'tcp'): Service | undefined {
    return grant.services.find((service) => service.name === name && service.target.protocol === protocol);
  }

  describe(grant: Grant): readonly ServiceInfo[] {
    return grant.services.map(({ name, target }) => ({ name, protocol: target.protocol }));
  }
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
