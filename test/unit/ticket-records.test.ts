import { describe, expect, it } from 'vitest';
import { Identity } from '../../src/session/identity.js';
import {
  awaitsPairing,
  decodeTickets,
  encodeTickets,
  hashToken,
  holds,
  MAX_TICKETS,
  matching,
  opensFor,
  parseLabel,
  prune,
  type TicketRecord,
  taken,
  ticketState,
} from '../../src/tunnel/ticket-records.js';
import { codeOf } from '../support/errors.js';

const NOW = Date.parse('2026-11-25T12:00:00Z');
const DAY = 86_400_000;
const node = Identity.generate().nodeId;
const alice = { peer: Identity.generate().nodeId, instanceId: 'a1'.repeat(16) };
const aliceAgain = { ...alice, instanceId: 'a2'.repeat(16) };
const mallory = { peer: Identity.generate().nodeId, instanceId: alice.instanceId };
const at = (ms: number) => new Date(ms).toISOString();

function record(fields: Partial<TicketRecord> = {}): TicketRecord {
  return {
    id: '0123abcd',
    hash: hashToken('token'),
    identity: 'default',
    node,
    services: ['db'],
    createdAt: at(NOW - DAY),
    once: false,
    pair: false,
    ...fields,
  };
}

describe('a ticket', () => {
  it.each<[string, Partial<TicketRecord>, string]>([
    ['as it was made', {}, 'valid'],
    ['before it expires', { expiresAt: at(NOW + 1) }, 'valid'],
    ['when it expires', { expiresAt: at(NOW) }, 'expired'],
    ['revoked', { revokedAt: at(NOW - 1) }, 'revoked'],
    ['revoked, then expired', { revokedAt: at(NOW - 2), expiresAt: at(NOW - 1) }, 'revoked'],
    ['for one use, not used', { once: true }, 'valid'],
    ['for one use, used', { once: true, redeemedBy: { ...alice, at: at(NOW) } }, 'used'],
  ])('%s is %s', (_what, fields, state) => {
    expect(ticketState(record(fields), NOW)).toBe(state);
  });

  it('for many uses is for whoever shows it, and nothing has to be recorded', () => {
    for (const bearer of [alice, aliceAgain, mallory]) {
      expect(holds(record(), bearer, NOW)).toBe(true);
      expect(taken(record(), bearer, NOW)).toEqual(record());
    }
  });

  it('for one use gives nothing before it is recorded who used it, then only to that process', () => {
    const fresh = record({ once: true });
    expect(opensFor(fresh, alice, NOW)).toBe(true);
    expect(holds(fresh, alice, NOW)).toBe(false);
    const used = taken(fresh, alice, NOW);
    expect(used.redeemedBy).toEqual({ ...alice, at: at(NOW) });
    expect([alice, aliceAgain, mallory].map((bearer) => holds(used, bearer, NOW))).toEqual([
      true,
      false,
      false,
    ]);
    expect([alice, aliceAgain, mallory].map((bearer) => opensFor(used, bearer, NOW))).toEqual([
      true,
      false,
      false,
    ]);
    expect(taken(used, alice, NOW + 1)).toBe(used);
  });

  it.each<[string, Partial<TicketRecord>]>([
    ['expired', { expiresAt: at(NOW) }],
    ['revoked', { revokedAt: at(NOW) }],
  ])('%s gives nothing, to who used it neither', (_what, fields) => {
    expect(holds(record(fields), alice, NOW)).toBe(false);
    expect(holds(record({ ...fields, once: true, redeemedBy: { ...alice, at: at(NOW) } }), alice, NOW)).toBe(
      false,
    );
  });

  it('that pairs does so with the first, until that is done, and with nobody else', () => {
    const first = taken(record({ pair: true }), alice, NOW);
    expect(first.pairedWith).toEqual({ peer: alice.peer, done: false });
    expect(taken(first, mallory, NOW)).toBe(first);
    expect(awaitsPairing(first, aliceAgain)).toBe(true);
    expect(awaitsPairing(first, mallory)).toBe(false);
    expect(awaitsPairing({ ...first, pairedWith: { peer: alice.peer, done: true } }, alice)).toBe(false);
  });

  it('is found by its token and no other text', () => {
    const others = [record({ id: '00000001', hash: hashToken('other') }), record()];
    expect(matching(others, ['token']).map(({ id }) => id)).toEqual(['0123abcd']);
    expect(matching(others, ['x', 'token', 'other'])).toEqual(others);
    for (const text of ['', 'toke', 'tokens', 'TOKEN', hashToken('token')])
      expect(matching(others, [text])).toEqual([]);
  });

  it('is forgotten a month after it is over, but for what an expose must not make again', () => {
    const old = at(NOW - 31 * DAY);
    const kept = [
      record({ id: '00000001' }),
      record({ id: '00000002', revokedAt: at(NOW - 29 * DAY) }),
      record({ id: '00000003', purpose: 'ticket tcp:db', revokedAt: old }),
      record({ id: '00000004', once: true, redeemedBy: { ...alice, at: old } }),
    ];
    const gone = [
      record({ id: '00000005', revokedAt: old }),
      record({ id: '00000006', expiresAt: old }),
      record({ id: '00000007', purpose: 'ticket tcp:db  ttl', expiresAt: old }),
    ];
    expect(prune([...gone, ...kept], NOW)).toEqual(kept);
  });

  it('is not made beyond the limit', () => {
    const many = Array.from({ length: MAX_TICKETS }, () => record());
    expect(prune(many, NOW)).toHaveLength(MAX_TICKETS);
    expect(codeOf(() => prune([...many, record()], NOW))).toBe('LIMIT');
  });

  it.each([
    ['alice', undefined],
    ['Älice 2 (no)', 'USAGE'],
    ["Bob's", 'USAGE'],
    ['bob@home_2.x-1', undefined],
    ['Zoë', undefined],
    ['', 'USAGE'],
    [' x', 'USAGE'],
    ['a\u001b[2J', 'USAGE'],
    ['x'.repeat(64), 'USAGE'],
  ])('may be named %j: %s', (text, code) => {
    expect(codeOf(() => parseLabel(text))).toBe(code);
  });
});

describe('the text of the ticket store', () => {
  const full = record({
    label: 'alice laptop',
    services: ['db', 'dns/udp'],
    expiresAt: at(NOW),
    revokedAt: at(NOW),
    purpose: 'ticket tcp:db',
    salt: '00ff',
    once: true,
    pair: true,
    redeemedBy: { ...alice, at: at(NOW) },
    pairedWith: { peer: alice.peer, done: true },
  });

  it('is read as it was written', () => {
    const records = [record({ services: 'all' }), { ...full, id: 'ffffffff' }];
    expect(decodeTickets(encodeTickets(records))).toEqual(records);
    expect(decodeTickets(encodeTickets([]))).toEqual([]);
  });

  it.each<[string, string]>([
    ['nothing', ''],
    ['half of it', encodeTickets([full]).slice(0, 200)],
    ['null', 'null'],
    ['a list', '[]'],
    ['no list of tickets', '{"version":1}'],
    ['another version', '{"version":2,"tickets":[]}'],
    ['something else for a ticket', '{"version":1,"tickets":[null]}'],
    ['the same ticket twice', encodeTickets([full, full])],
  ])('that is %s is refused', (_what, text) => {
    expect(() => decodeTickets(text)).toThrow(/^is (damaged|of another version)/);
  });

  it.each(Object.keys(full))('is refused with something else for %s', (field) => {
    for (const value of [17, {}, [17], '\u0000']) {
      const text = JSON.stringify({ version: 1, tickets: [{ ...full, [field]: value }] });
      // Any text may be what a ticket is derived from.
      if (typeof value === 'string' && (field === 'purpose' || field === 'salt')) continue;
      expect(() => decodeTickets(text), `${field} ${JSON.stringify(value)}`).toThrow('not complete');
    }
  });
});
