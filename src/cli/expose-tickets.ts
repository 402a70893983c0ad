/** Who may connect to an `expose`, as its flags say: the ticket it prints, and all tickets made by hand. */

import { TunnelError } from '../error.js';
import type { Identity } from '../session/identity.js';
import { errorEvent, type Report } from '../tunnel/events.js';
import { type ExposeTicket, exposeTicket } from '../tunnel/expose-ticket.js';
import { paired } from '../tunnel/pairing.js';
import type { PeersBook } from '../tunnel/peers-book.js';
import type { Service } from '../tunnel/spec.js';
import type { TicketRecord } from '../tunnel/ticket-records.js';
import { TicketRights } from '../tunnel/ticket-rights.js';
import { TicketStore } from '../tunnel/ticket-store.js';
import { Flags } from './oclif.js';
import { type Paths, ticketStorePath } from './paths.js';
import { parseTtl } from './ticket-flags.js';

export const ticketFlags = {
  ticket: Flags.boolean({
    description: 'make a ticket that opens what is offered here',
    default: true,
    allowNo: true,
  }),
  'ticket-ttl': Flags.string({
    description: 'how long that ticket is good; without it, for ever',
    helpValue: '<time>',
  }),
  once: Flags.boolean({
    description: 'that ticket is for the first to use it, and nobody else',
    default: false,
  }),
  pair: Flags.boolean({
    description: 'remember the first to use that ticket, who needs none later',
    default: false,
  }),
};

export interface TicketFlags {
  readonly ticket: boolean;
  readonly 'ticket-ttl'?: string | undefined;
  readonly once: boolean;
  readonly pair: boolean;
}

export interface TicketTerms {
  readonly once: boolean;
  readonly pair: boolean;
  readonly ttlMs: number | undefined;
}

/** Undefined where no ticket is to be made. Throws USAGE. */
export function ticketTerms(flags: TicketFlags): TicketTerms | undefined {
  const ttlMs = parseTtl(flags['ticket-ttl'], '--ticket-ttl');
  const { ticket, once, pair } = flags;
  if (ticket) return { once, pair, ttlMs };
  const said = saidOfTicket(flags);
  if (said === undefined) return undefined;
  throw new TunnelError('USAGE', `--${said} is about the ticket, and --no-ticket makes none`, {
    hint: 'leave one of them out; other tickets are made with: tunnel ticket create',
  });
}

/** The first of what says something about the ticket. */
export function saidOfTicket(flags: TicketFlags): 'ticket-ttl' | 'once' | 'pair' | undefined {
  if (flags['ticket-ttl'] !== undefined) return 'ticket-ttl';
  if (flags.once) return 'once';
  return flags.pair ? 'pair' : undefined;
}

export interface TicketRightsOptions {
  readonly paths: Paths;
  readonly identity: Identity;
  readonly identityName: string;
  readonly services: readonly Service[];
  readonly terms: TicketTerms | undefined;
  readonly report: Report;
  /** The book in which peers that pair are put. */
  readonly book: { update(change: (book: PeersBook) => PeersBook): Promise<unknown> };
}

export interface ExposeTickets {
  readonly rights: TicketRights;
  /** Of the ticket to print; a secret. Undefined where none is made. */
  readonly token: string | undefined;
  readonly record: TicketRecord | undefined;
}

/** Throws BAD_STATE and OS_RESOURCE; nothing is left open then. */
export async function openTickets(options: TicketRightsOptions): Promise<ExposeTickets> {
  const { paths, identity, report, book } = options;
  const store = new TicketStore(ticketStorePath(paths));
  const made = await makeTicket(store, options);
  const rights = await TicketRights.open({
    store,
    node: identity.nodeId,
    purpose: made?.purpose,
    unsaved: made?.unsaved ? made.record : undefined,
    remember: async (peer, granted) => {
      await book.update((before) => paired(before, peer, granted));
    },
    onError: (error) => report(errorEvent(error)),
  });
  return { rights, token: made?.token, record: made?.record };
}

/**
 * As `openTickets`, in the place of those that there are. `keep`: what they opened, they go on opening
 * while this process runs. Throws BAD_STATE and OS_RESOURCE; it is as it was then.
 */
export async function replaceTicket(
  { rights }: ExposeTickets,
  options: TicketRightsOptions,
  { keep }: { readonly keep: boolean },
): Promise<ExposeTickets> {
  const made = await makeTicket(new TicketStore(ticketStorePath(options.paths)), options);
  const own = made && { purpose: made.purpose, unsaved: made.unsaved ? made.record : undefined };
  await rights.replace(own, { keep });
  return { rights, token: made?.token, record: made?.record };
}

/** Undefined where none is to be made. */
async function makeTicket(
  store: TicketStore,
  options: TicketRightsOptions,
): Promise<ExposeTicket | undefined> {
  const { identity, identityName, services, terms, report } = options;
  if (!terms) return undefined;
  const made = await exposeTicket(store, { identity, name: identityName, services, ...terms });
  if (made.unsaved) {
    report({
      event: 'notice',
      code: 'ticket-not-saved',
      message: `the ticket below cannot be listed or revoked: ${made.unsaved.message}`,
      hint: 'it is void when this process ends and another set of services is exposed',
    });
  }
  return made;
}
