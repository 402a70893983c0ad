/**
 * What is kept of tickets: everything but the token, of which there is a hash. A record says what a
 * ticket grants, until when, to how many, and who has used it. Pure: records in, records out.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { TunnelError } from '../error.js';
import { isNodeId, type NodeId } from '../session/node-id.js';
import type { Presented, ServiceSet } from './policy.js';

/** More than anyone looks through; each is compared with every token that comes. */
export const MAX_TICKETS = 4096;
const VERSION = 1;
/** How long what is over stays in the list, so that one can see what became of it. */
const KEEP_MS = 30 * 24 * 3_600_000;
const TEXT = /^[\x21-\x7e]{1,128}$/;
const LABEL = /^[\p{L}\p{N}][\p{L}\p{N} ._@-]{0,62}$/u;

export interface Redemption {
  readonly peer: NodeId;
  readonly instanceId: string;
  readonly at: string;
}

export interface Pairing {
  readonly peer: NodeId;
  /** The peer is in the book. */
  readonly done: boolean;
}

export interface TicketRecord {
  readonly id: string;
  /** SHA-256 of the token, 64 hex digits. Tokens are random: nothing is gained by a slower hash. */
  readonly hash: string;
  /** The identity's name and node ID: a ticket is for one node. */
  readonly identity: string;
  readonly node: NodeId;
  readonly label?: string;
  /** As a `ServiceSet`. */
  readonly services: 'all' | readonly string[];
  readonly createdAt: string;
  readonly expiresAt?: string;
  /** For the first process that shows it, and nobody else. */
  readonly once: boolean;
  /** The first peer to show it is remembered in the book. */
  readonly pair: boolean;
  /** Made by `expose` for itself: what the token is derived from. Absent from those made by hand. */
  readonly purpose?: string;
  readonly salt?: string;
  readonly revokedAt?: string;
  readonly redeemedBy?: Redemption;
  readonly pairedWith?: Pairing;
}

export type TicketState = 'valid' | 'used' | 'expired' | 'revoked';

export function hashToken(token: string): string {
  return digest(token).toString('hex');
}

function digest(token: string): Buffer {
  return createHash('sha256').update(token).digest();
}

/** A short name to revoke it by; says nothing of the token. */
export function newTicketId(): string {
  return randomBytes(4).toString('hex');
}

/** `used` is a single-use ticket that somebody holds, who may still come back with it. */
export function ticketState(record: TicketRecord, now: number): TicketState {
  if (record.revokedAt !== undefined) return 'revoked';
  if (record.expiresAt !== undefined && now >= Date.parse(record.expiresAt)) return 'expired';
  return record.once && record.redeemedBy !== undefined ? 'used' : 'valid';
}

/** Who shows a ticket: an identity, and a process of it. */
export type Bearer = Pick<Presented, 'peer' | 'instanceId'>;

/** Whether the bearer may use it: nobody has, or this very process has. */
export function opensFor(record: TicketRecord, bearer: Bearer, now: number): boolean {
  const state = ticketState(record, now);
  return state === 'valid' || (state === 'used' && isRedeemedBy(record, bearer));
}

/** Whether the bearer has what it grants: a single-use ticket is to be redeemed first. */
export function holds(record: TicketRecord, bearer: Bearer, now: number): boolean {
  return opensFor(record, bearer, now) && (!record.once || isRedeemedBy(record, bearer));
}

/** The record once the bearer has used it; the same when that changes nothing. It must open for the bearer. */
export function taken(record: TicketRecord, { peer, instanceId }: Bearer, now: number): TicketRecord {
  const redeems = record.once && record.redeemedBy === undefined;
  const pairs = record.pair && record.pairedWith === undefined;
  if (!redeems && !pairs) return record;
  const at = new Date(now).toISOString();
  return {
    ...record,
    ...(redeems ? { redeemedBy: { peer, instanceId, at } } : {}),
    ...(pairs ? { pairedWith: { peer, done: false } } : {}),
  };
}

/** Whether the bearer's identity is still to be written into the book. */
export function awaitsPairing({ pairedWith }: TicketRecord, { peer }: Bearer): boolean {
  return pairedWith?.peer === peer && !pairedWith.done;
}

function isRedeemedBy({ redeemedBy }: TicketRecord, { peer, instanceId }: Bearer): boolean {
  return redeemedBy?.peer === peer && redeemedBy.instanceId === instanceId;
}

/** The records of `tokens`. Takes the same time whichever it is, and none. */
export function matching(
  records: readonly TicketRecord[],
  tokens: readonly string[],
): readonly TicketRecord[] {
  const shown = tokens.map(digest);
  return records.filter((record) => {
    const expected = Buffer.from(record.hash, 'hex');
    let same = false;
    for (const one of shown) same = timingSafeEqual(one, expected) || same;
    return same;
  });
}

export function serviceSet({ services }: TicketRecord): ServiceSet {
  return services === 'all' ? 'all' : new Set(services);
}

/** Without what has been over for a month. Throws LIMIT when there are too many all the same. */
export function prune(records: readonly TicketRecord[], now: number): readonly TicketRecord[] {
  const left = records.filter(({ purpose, revokedAt, expiresAt }) => {
    const over = Math.min(
      ...[revokedAt, expiresAt].map((at) => (at === undefined ? Number.POSITIVE_INFINITY : Date.parse(at))),
    );
    // The permanent ticket of an expose is derived again at every start: that it was revoked must not be forgotten.
    return (purpose !== undefined && expiresAt === undefined) || now < over + KEEP_MS;
  });
  if (left.length <= MAX_TICKETS) return left;
  throw new TunnelError('LIMIT', `there are ${MAX_TICKETS} tickets already`, {
    hint: 'revoke some, or all of them: tunnel ticket revoke --all',
  });
}

/** Throws USAGE. */
export function parseLabel(text: string): string {
  if (LABEL.test(text)) return text;
  throw new TunnelError('USAGE', `'${text.slice(0, 64)}' is no name for a ticket`, {
    hint: "use letters, digits, ' ', '.', '_', '@' and '-', up to 63: --name alice-laptop",
  });
}

export function encodeTickets(records: readonly TicketRecord[]): string {
  return `${JSON.stringify({ version: VERSION, tickets: records }, undefined, 1)}\n`;
}

/** Throws an `Error` whose message completes "the ticket store … ". */
export function decodeTickets(text: string): readonly TicketRecord[] {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Error('is damaged: it is no JSON', { cause: error });
  }
  const { version, tickets } = Object(value) as Record<string, unknown>;
  if (version !== VERSION)
    throw new Error(`is of another version (${JSON.stringify(version)?.slice(0, 20)})`);
  if (!Array.isArray(tickets)) throw new Error('is damaged: it has no list of tickets');
  const records = tickets.map((ticket, index) => {
    if (!isRecord(ticket)) throw new Error(`is damaged: its ticket ${index + 1} is not complete`);
    return ticket;
  });
  if (new Set(records.map(({ id }) => id)).size !== records.length)
    throw new Error('is damaged: it has two tickets of one id');
  return records;
}

function isRecord(value: unknown): value is TicketRecord {
  const ticket = Object(value) as Record<string, unknown>;
  const { services, redeemedBy, pairedWith } = ticket;
  return (
    matches(ticket.id, /^[0-9a-f]{8}$/) &&
    matches(ticket.hash, /^[0-9a-f]{64}$/) &&
    matches(ticket.identity, TEXT) &&
    isNode(ticket.node) &&
    (ticket.label === undefined || matches(ticket.label, LABEL)) &&
    (services === 'all' || (Array.isArray(services) && services.every((one) => matches(one, TEXT)))) &&
    isTime(ticket.createdAt) &&
    (ticket.expiresAt === undefined || isTime(ticket.expiresAt)) &&
    (ticket.revokedAt === undefined || isTime(ticket.revokedAt)) &&
    typeof ticket.once === 'boolean' &&
    typeof ticket.pair === 'boolean' &&
    (ticket.purpose === undefined || typeof ticket.purpose === 'string') &&
    (ticket.salt === undefined || typeof ticket.salt === 'string') &&
    (redeemedBy === undefined || isRedemption(redeemedBy)) &&
    (pairedWith === undefined || isPairing(pairedWith))
  );
}

function isRedemption(value: unknown): boolean {
  const { peer, instanceId, at } = Object(value) as Record<string, unknown>;
  return isNode(peer) && matches(instanceId, /^[0-9a-f]{32}$/) && isTime(at);
}

function isPairing(value: unknown): boolean {
  const { peer, done } = Object(value) as Record<string, unknown>;
  return isNode(peer) && typeof done === 'boolean';
}

function isNode(value: unknown): boolean {
  return typeof value === 'string' && isNodeId(value);
}

function isTime(value: unknown): boolean {
  return typeof value === 'string' && Number.isFinite(Date.parse(value));
}

function matches(value: unknown, pattern: RegExp): boolean {
  return typeof value === 'string' && pattern.test(value);
}
