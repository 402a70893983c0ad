/**
 * The ticket an expose makes for its own services. The token is derived from the identity, so that the
 * same one is printed at every start for as long as it is good: a ticket in a script survives a restart.
 * Another set of services has another ticket.
 */
import { randomBytes } from 'node:crypto';
import { type TunnelError, toTunnelError } from '../error.js';
import type { Identity } from '../session/identity.js';
import { TOKEN_BYTES } from '../session/ticket.js';
import type { Service } from './spec.js';
import { hashToken, type TicketRecord, ticketState } from './ticket-records.js';
import { newRecord, type TicketStore } from './ticket-store.js';

export interface ExposeTicketOptions {
  readonly identity: Identity;
  /** The identity's name. */
  readonly name: string;
  readonly services: readonly Service[];
  readonly once: boolean;
  readonly pair: boolean;
  /** Milliseconds. A ticket that expires is a new one at each start; the others stay good for their time. */
  readonly ttlMs?: number | undefined;
}

export interface ExposeTicket {
  readonly token: string;
  readonly record: TicketRecord;
  /** What this kind of ticket is derived from. */
  readonly purpose: string;
  /** Why it could not be written down: it cannot be listed or revoked then. */
  readonly unsaved?: TunnelError;
}

/** Throws BAD_STATE, and OS_RESOURCE for a ticket that must be on the disk to be what it says. */
export async function exposeTicket(store: TicketStore, options: ExposeTicketOptions): Promise<ExposeTicket> {
  const { identity, name, once, pair, ttlMs } = options;
  const purpose = ticketPurpose(options);
  const services = options.services.map(({ name, target }) => `${name}/${target.protocol}`);
  const make = (salt: string | undefined, others: readonly TicketRecord[]) => {
    const token = deriveToken(identity, purpose, salt);
    const record = newRecord(
      { token, identity: name, node: identity.nodeId, services, once, pair, ttlMs, purpose, salt },
      others,
    );
    return { token, record, purpose };
  };
  try {
    return await store.update((records) => {
      const made = records.filter((one) => one.node === identity.nodeId && one.purpose === purpose);
      const now = Date.now();
      const good = ttlMs === undefined ? made.find((one) => ticketState(one, now) === 'valid') : undefined;
      const token = good && deriveToken(identity, purpose, good.salt);
      if (good && token && hashToken(token) === good.hash) {
        return { records, result: { token, record: good, purpose } };
      }
      // A single-use one has a salt always: without the store, what was used must not come again.
      const plain = made.length === 0 && !once && ttlMs === undefined;
      const result = make(plain ? undefined : randomBytes(12).toString('hex'), records);
      return { records: [...records, result.record], result };
    });
  } catch (error) {
    const reason = toTunnelError(error);
    if (reason.code !== 'OS_RESOURCE' || once || pair || ttlMs !== undefined) throw reason;
    // A read-only state folder must not keep anyone from exposing.
    const revoked = (await store.load()).some(
      (one) => one.node === identity.nodeId && one.purpose === purpose && one.revokedAt !== undefined,
    );
    return { ...make(revoked ? randomBytes(12).toString('hex') : undefined, []), unsaved: reason };
  }
}

/** What the tickets of such an expose have in common; no other ticket has it. */
export function ticketPurpose({ services, once, pair, ttlMs }: ExposeTicketOptions): string {
  const names = services.map(({ name, target }) => `${target.protocol}:${name}`).sort();
  const kind = [once ? 'once' : '', pair ? 'pair' : '', ttlMs === undefined ? '' : 'ttl'].filter(Boolean);
  // A name has no spaces, so no set of names can look like a kind.
  return `ticket ${names.join(' ')}${kind.length > 0 ? `  ${kind.join(' ')}` : ''}`;
}

function deriveToken(identity: Identity, purpose: string, salt: string | undefined): string {
  return identity
    .derive(salt === undefined ? purpose : `${purpose}  #${salt}`, TOKEN_BYTES)
    .toString('base64url');
}
