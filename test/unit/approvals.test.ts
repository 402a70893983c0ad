import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { ServiceInfo } from '../../src/session/hello.js';
import type { NodeId } from '../../src/session/node-id.js';
import { Admission } from '../../src/tunnel/admission.js';
import { Approvals } from '../../src/tunnel/approvals.js';
import type { TunnelEvent } from '../../src/tunnel/events.js';
import type { Rights, RightsSource, ServiceSet } from '../../src/tunnel/policy.js';
import { parseTargets } from '../../src/tunnel/spec.js';
import { rejected } from '../support/errors.js';

const peer = (digit: string) => digit.repeat(64) as NodeId;
const DB: ServiceInfo = { name: 'db', protocol: 'tcp' };
const WEB: ServiceInfo = { name: 'web', protocol: 'tcp' };

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  expect(vi.getTimerCount()).toBe(0);
  vi.useRealTimers();
});

/** Approvals whose events are kept. */
function approvals(options: { readonly maxPending?: number; readonly timeoutMs?: number } = {}) {
  const events: string[] = [];
  const report = (event: TunnelEvent) => {
    if (event.event === 'approval')
      events.push(`${event.peer[0]} ${event.services.join('+')} ${event.decision}`);
  };
  return { events, all: new Approvals({ report, offered: () => [DB, WEB], ...options }) };
}

function question(
  digit: string,
  {
    wants,
    instanceId = '1',
    signal = new AbortController().signal,
    from = '192.0.2.7:1',
  }: {
    readonly wants?: readonly ServiceInfo[];
    readonly instanceId?: string;
    readonly signal?: AbortSignal;
    readonly from?: string;
  } = {},
) {
  return {
    presented: { peer: peer(digit), instanceId, tokens: [], ...(wants ? { wants } : {}) },
    from,
    signal,
    settled: () => undefined,
  };
}

describe('approvals', () => {
  it('let a peer in to what it asked for, and nothing else, for its process', async () => {
    const { all, events } = approvals();
    const asked = all.ask(question('a', { wants: [DB] }));
    const [shown] = all.list();
    expect(shown).toMatchObject({
      peer: peer('a'),
      services: ['db'],
      everything: false,
      from: '192.0.2.7:1',
    });
    expect(all.decide(shown?.id ?? 0, true)).toBe(true);
    expect(await asked).toBe('allowed');
    expect(all.list()).toEqual([]);
    const rights = (instanceId: string) => all.admit({ peer: peer('a'), instanceId, tokens: [] }).current();
    expect(rights('1')).toEqual({ services: new Set(['db/tcp']), via: 'approval' });
    expect(rights('2')).toBeUndefined();
    expect(events).toEqual(['a db pending', 'a db allowed']);
    expect(all.decide(shown?.id ?? 0, true)).toBe(false);
  });

  it('show everything there is for a peer that does not say', async () => {
    const { all } = approvals();
    const asked = all.ask(question('a'));
    expect(all.list()).toMatchObject([{ services: ['db', 'web'], everything: true }]);
    expect(all.find(1)).toEqual({ peer: peer('a'), rights: 'all' });
    all.decide(1, true);
    await asked;
    expect(all.admit({ peer: peer('a'), instanceId: '1', tokens: [] }).current()?.services).toBe('all');
  });

  it('are one question for the sessions of a peer that want the same, and another for more', async () => {
    const { all } = approvals();
    const asked = [
      all.ask(question('a', { wants: [DB, WEB] })),
      all.ask(question('a', { wants: [WEB, DB], instanceId: '2' })),
      all.ask(question('a', { wants: [DB] })),
    ];
    expect(all.list()).toHaveLength(2);
    all.decide(1, true);
    expect(await Promise.all(asked.slice(0, 2))).toEqual(['allowed', 'allowed']);
    all.decide(2, false);
    expect(await asked[2]).toBe('denied');
  });

  it('leave who was denied at the door for a while', async () => {
    const { all } = approvals();
    const asked = all.ask(question('a'));
    all.decide(1, false);
    expect(await asked).toBe('denied');
    expect(() => all.ask(question('a'))).toThrow(expect.objectContaining({ code: 'DENIED' }));
    vi.advanceTimersByTime(10_001);
    void all.ask(question('a'));
    expect(all.list()).toHaveLength(1);
    all.close();
  });

  it('end by themselves when nobody decides', async () => {
    const { all, events } = approvals({ timeoutMs: 1000 });
    const asked = all.ask(question('a'));
    vi.advanceTimersByTime(999);
    expect(all.list()).toHaveLength(1);
    vi.advanceTimersByTime(1);
    expect(await asked).toBe('expired');
    expect(events).toEqual(['a db+web pending', 'a db+web expired']);
  });

  it('end when the peer goes away, with its last session', async () => {
    const { all, events } = approvals();
    const gone = [new AbortController(), new AbortController()] as const;
    const asked = gone.map(({ signal }) => all.ask(question('a', { signal })));
    gone[0].abort();
    expect(await asked[0]).toBe('withdrawn');
    expect(all.list()).toHaveLength(1);
    gone[1].abort();
    expect(await asked[1]).toBe('withdrawn');
    expect(all.list()).toEqual([]);
    expect(events).toEqual(['a db+web pending', 'a db+web withdrawn']);
    expect(await all.ask(question('a', { signal: AbortSignal.abort() }))).toBe('withdrawn');
  });

  it('are bounded in all, by peer, and in the sessions of one question', () => {
    const { all } = approvals({ maxPending: 6 });
    const limit = expect.objectContaining({ code: 'LIMIT' });
    for (let count = 0; count < 16; count += 1) void all.ask(question('a'));
    expect(() => all.ask(question('a'))).toThrow(limit);
    for (const name of ['x', 'y', 'z']) void all.ask(question('a', { wants: [{ name, protocol: 'tcp' }] }));
    expect(() => all.ask(question('a', { wants: [DB] }))).toThrow(limit);
    void all.ask(question('b'));
    void all.ask(question('c'));
    expect(all.list()).toHaveLength(6);
    expect(() => all.ask(question('d'))).toThrow(limit);
    all.close();
  });

  it('are bounded by address, since keys cost nothing; but not behind a relay', () => {
    const { all } = approvals();
    const keys = [...'0123456789abcdef'];
    for (const key of keys) void all.ask(question(key, { from: `192.0.2.7:${key.charCodeAt(0)}` }));
    const other = (from: string) => () => void all.ask(question('f', { wants: [DB], from }));
    expect(other('192.0.2.7:9')).toThrow(expect.objectContaining({ code: 'LIMIT' }));
    expect(other('192.0.2.8:9')).not.toThrow();
    for (const key of keys) void all.ask(question(key, { wants: [WEB], from: 'https://relay.test/' }));
    expect(all.list()).toHaveLength(33);
    all.close();
  });

  it('do not flood those who listen', async () => {
    const { all, events } = approvals();
    for (let count = 0; count < 1000; count += 1) {
      const gone = new AbortController();
      const asked = all.ask(
        question('a', { signal: gone.signal, wants: [{ name: `s${count}`, protocol: 'tcp' }] }),
      );
      gone.abort();
      await asked;
    }
    expect(events.length).toBeLessThanOrEqual(20);
    expect(all.list()).toEqual([]);
  });

  it('show a bounded part of what a peer asks for', () => {
    const { all } = approvals();
    const wants = Array.from(
      { length: 100 },
      (_, index): ServiceInfo => ({ name: `s${index}`, protocol: 'udp' }),
    );
    void all.ask(question('a', { wants }));
    expect(all.list()[0]).toMatchObject({ more: 84 });
    expect(all.list()[0]?.services).toHaveLength(16);
    expect(all.list()[0]?.services[0]).toBe('s0/udp');
    all.close();
  });
});

describe('admission', () => {
  class Book implements RightsSource {
    rights: Rights | undefined;
    denied: ServiceSet | undefined;
    readonly admit = () => ({ current: () => this.rights });
    readonly denies = () => this.denied;
  }

  function admission(ask: boolean) {
    const book = new Book();
    const services = parseTargets(['db=5432', 'web=80']);
    const gone = new AbortController();
    const waits = vi.fn(() => gone.signal);
    const one = new Admission({ services, rights: [book], report: () => undefined, ask });
    const admit = (wants?: readonly ServiceInfo[]) =>
      one.admit({ peer: peer('a'), instanceId: '1', tokens: [], ...(wants ? { wants } : {}) }, 'here', waits);
    const names = async (admitted: ReturnType<typeof admit>) => {
      const grant = await admitted;
      return grant && one.policy.describe(grant).map(({ name }) => name);
    };
    return { one, book, gone, waits, admit, names };
  }

  /** Runs what is waiting to run, without time passing. */
  const settle = () => vi.advanceTimersByTimeAsync(0);

  it('denies at once where nobody is asked', async () => {
    const { admit, waits } = admission(false);
    expect(await admit([DB])).toBeUndefined();
    expect(waits).not.toHaveBeenCalled();
  });

  it('asks nobody about a peer that has what it wants', async () => {
    const { admit, names, book, waits } = admission(true);
    book.rights = { services: new Set(['db']), via: 'book' };
    expect(await names(admit([DB]))).toEqual(['db']);
    expect(await names(admit())).toEqual(['db']);
    expect(waits).not.toHaveBeenCalled();
  });

  it('asks about what is missing, and lets it in with what it has where that is denied', async () => {
    const { one, admit, names, book, waits } = admission(true);
    book.rights = { services: new Set(['db']), via: 'book' };
    const admitted = names(admit([DB, WEB]));
    await settle();
    expect(waits).toHaveBeenCalledTimes(1);
    one.approvals?.decide(1, false);
    expect(await admitted).toEqual(['db']);
  });

  it('lets a waiting peer in as soon as the book does', async () => {
    const { one, admit, names, book } = admission(true);
    const admitted = names(admit([WEB]));
    await settle();
    one.approvals?.recheck();
    expect(one.approvals?.list()).toHaveLength(1);
    book.rights = { services: 'all', via: 'book' };
    one.approvals?.recheck();
    expect(await admitted).toEqual(['db', 'web']);
    expect(one.approvals?.list()).toEqual([]);
  });

  it('turns a waiting peer away as soon as the book denies it', async () => {
    const { one, admit, book } = admission(true);
    const admitted = admit([WEB]);
    await settle();
    book.denied = 'all';
    one.approvals?.recheck();
    expect(await admitted).toBeUndefined();
  });

  it('asks nobody about a peer that is denied', async () => {
    const { admit, book, waits } = admission(true);
    book.denied = 'all';
    expect(await admit([DB])).toBeUndefined();
    book.denied = new Set(['db']);
    expect(await admit([DB])).toBeUndefined();
    expect(waits).not.toHaveBeenCalled();
  });

  it('is no denial where nobody decided', async () => {
    const { admit } = admission(true);
    const refused = rejected(admit([DB]));
    await vi.advanceTimersByTimeAsync(5 * 60_000);
    expect((await refused).code).toBe('TIMEOUT');
  });

  it('ends with the process', async () => {
    const { one, admit } = admission(true);
    const refused = rejected(admit([DB]));
    await settle();
    one.close();
    expect((await refused).code).toBe('SHUTDOWN');
  });

  it('that allows what is not offered lets nobody in, and does not tell', async () => {
    const { one, admit } = admission(true);
    const admitted = admit([{ name: 'nothing', protocol: 'tcp' }]);
    await settle();
    one.approvals?.decide(1, true);
    expect(await admitted).toBeUndefined();
  });
});
