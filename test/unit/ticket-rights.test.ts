import { appendFileSync, chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { TunnelError } from '../../src/error.js';
import { Identity } from '../../src/session/identity.js';
import type { NodeId } from '../../src/session/node-id.js';
import { Policy, type Presented, type ServiceSet } from '../../src/tunnel/policy.js';
import { parseTargets } from '../../src/tunnel/spec.js';
import { TicketRights, type TicketRightsOptions } from '../../src/tunnel/ticket-rights.js';
import { type NewTicket, TicketStore } from '../../src/tunnel/ticket-store.js';
import { AT_ONCE_MS } from '../support/at-once.js';
import { rejected } from '../support/errors.js';
import { eventually } from '../support/eventually.js';
import { checkLeaks } from '../support/leaks.js';

const node = Identity.generate().nodeId;
const alice = Identity.generate().nodeId;
const bob = Identity.generate().nodeId;
const services = parseTargets(['db=5432', 'web=80', 'dns=udp:53', 'dns=tcp:53']);

let folder: string;
let store: TicketStore;
const open: TicketRights[] = [];
let errors: TunnelError[];

checkLeaks();

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tunnel-rights-'));
  store = new TicketStore(join(folder, 'tokens.json'));
  errors = [];
});

afterEach(() => {
  for (const rights of open.splice(0)) rights.close();
  rmSync(folder, { recursive: true, force: true });
});

async function rightsOf(options: Partial<TicketRightsOptions> = {}): Promise<TicketRights> {
  const rights = await TicketRights.open({ store, node, onError: (error) => errors.push(error), ...options });
  open.push(rights);
  return rights;
}

function create(ticket: Partial<NewTicket> & { token: string }) {
  return store.create({ identity: 'default', node, services: 'all', ...ticket });
}

function presented(peer: NodeId, process: string, ...tokens: string[]): Presented {
  return { peer, instanceId: process.repeat(16), tokens };
}

/** As an expose does: what the peer may reach, or undefined when it is not let in. */
async function enter(rights: TicketRights, who: Presented): Promise<string[] | undefined> {
  const policy = new Policy(services, [rights]);
  await policy.prepare(who);
  const grant = policy.admit(who);
  return grant && policy.describe(grant).map(({ name, protocol }) => `${name}/${protocol}`);
}

const ALL = ['db/tcp', 'web/tcp', 'dns/udp', 'dns/tcp'];

describe('tickets as rights', () => {
  it.each<[string, NewTicket['services'], string[] | undefined]>([
    ['every service', 'all', ALL],
    ['one', ['db'], ['db/tcp']],
    ['a name of both protocols', ['dns'], ['dns/udp', 'dns/tcp']],
    ['one protocol of it', ['dns/udp'], ['dns/udp']],
    ['several', ['web/tcp', 'dns/tcp'], ['web/tcp', 'dns/tcp']],
    ['what is not offered', ['ssh'], undefined],
    ['nothing', [], undefined],
  ])('open what they say: %s', async (_what, opens, reach) => {
    await create({ token: 'good', services: opens });
    expect(await enter(await rightsOf(), presented(alice, 'a1', 'good'))).toEqual(reach);
  });

  it('open nothing with a wrong token, none, too many, or one of another node', async () => {
    await create({ token: 'good' });
    await create({ token: 'foreign', node: bob });
    const rights = await rightsOf();
    for (const tokens of [[], [''], ['goo'], ['good '], ['foreign'], ['1', '2', '3', '4', 'good']])
      expect(await enter(rights, presented(alice, 'a1', ...tokens)), tokens.join()).toBeUndefined();
    expect(await enter(rights, presented(alice, 'a1', 'x', 'good'))).toEqual(ALL);
  });

  it('two of them open what either does', async () => {
    await create({ token: 'one', services: ['db'] });
    await create({ token: 'two', services: ['web'] });
    expect(await enter(await rightsOf(), presented(alice, 'a1', 'one', 'two'))).toEqual([
      'db/tcp',
      'web/tcp',
    ]);
  });

  it('of an expose count for an expose of that kind only', async () => {
    await create({ token: 'own', purpose: 'ticket tcp:db' });
    expect(await enter(await rightsOf({ purpose: 'ticket tcp:db' }), presented(alice, 'a1', 'own'))).toEqual(
      ALL,
    );
    expect(
      await enter(await rightsOf({ purpose: 'ticket tcp:web' }), presented(alice, 'a1', 'own')),
    ).toBeUndefined();
    expect(await enter(await rightsOf(), presented(alice, 'a1', 'own'))).toBeUndefined();
  });

  it('count from the moment they are made', async () => {
    const rights = await rightsOf();
    await create({ token: 'new' });
    expect(await enter(rights, presented(alice, 'a1', 'new'))).toEqual(ALL);
  });

  it('are gone within a second of being revoked, and whoever listens is told', async () => {
    const { id } = await create({ token: 'good' });
    const rights = await rightsOf();
    const held = rights.admit(presented(alice, 'a1', 'good'))[0];
    expect(held?.current()).toEqual({ services: 'all', via: 'ticket', id });
    const told = new Promise<void>((resolve) => rights.onChange(resolve));
    const revokedAt = performance.now();
    await store.revoke((record) => record.id === id);
    await told;
    expect(held?.current()).toBeUndefined();
    expect(performance.now() - revokedAt).toBeLessThan(AT_ONCE_MS);
    expect(await enter(rights, presented(alice, 'a1', 'good'))).toBeUndefined();
  });

  it('end when they expire, and say when', async () => {
    const { expiresAt } = await create({ token: 'good', ttlMs: 300 });
    const held = (await rightsOf()).admit(presented(alice, 'a1', 'good'))[0];
    expect(held?.current()?.expiresAtMs).toBe(Date.parse(expiresAt as string));
    expect(await eventually(() => held?.current() === undefined, 2000)).toBe(true);
    expect(Date.now()).toBeGreaterThanOrEqual(Date.parse(expiresAt as string));
  });

  it('are void when the store is removed', async () => {
    await create({ token: 'good' });
    const rights = await rightsOf();
    const held = rights.admit(presented(alice, 'a1', 'good'))[0];
    rmSync(store.path);
    expect(await eventually(() => held?.current() === undefined, 2000)).toBe(true);
  });

  it.runIf(process.platform !== 'win32')('are void while others can write the store', async () => {
    await create({ token: 'good' });
    const rights = await rightsOf();
    chmodSync(store.path, 0o622);
    expect(await enter(rights, presented(alice, 'a1', 'good'))).toBeUndefined();
    expect(errors.map(({ code }) => code)).toEqual(['BAD_STATE']);
    chmodSync(store.path, 0o600);
    expect(await enter(rights, presented(alice, 'a1', 'good'))).toEqual(ALL);
  });

  it('stay as they are while the store is damaged, which is told; nobody gets in by what it may say', async () => {
    await create({ token: 'good' });
    const rights = await rightsOf();
    const before = readFileSync(store.path, 'utf8');
    appendFileSync(store.path, 'x');
    expect(await enter(rights, presented(alice, 'a1', 'good'))).toEqual(ALL);
    expect(await enter(rights, presented(alice, 'a1', 'x'))).toBeUndefined();
    expect(errors.map(({ code }) => code)).toEqual(['BAD_STATE']);
    writeFileSync(store.path, before);
    await store.revoke(() => true);
    expect(await enter(rights, presented(alice, 'a1', 'good'))).toBeUndefined();
  });
});

describe('a ticket for one use', () => {
  it('is for the process that used it first, however often that comes', async () => {
    await create({ token: 'once', once: true });
    const rights = await rightsOf();
    expect(await enter(rights, presented(alice, 'a1', 'once'))).toEqual(ALL);
    expect(await enter(rights, presented(alice, 'a1', 'once'))).toEqual(ALL);
    // Another process of the same identity, and another identity that says it is that process.
    expect(await enter(rights, presented(alice, 'a2', 'once'))).toBeUndefined();
    expect(await enter(rights, presented(bob, 'a1', 'once'))).toBeUndefined();
  });

  it('gives nothing before it is on the disk who used it', async () => {
    const { id } = await create({ token: 'once', once: true });
    const rights = await rightsOf();
    const who = presented(alice, 'a1', 'once');
    expect(rights.admit(who)[0]?.current()).toBeUndefined();
    await rights.prepare(who);
    const [record] = await store.load();
    expect(record).toMatchObject({ id, redeemedBy: { peer: alice, instanceId: who.instanceId } });
    expect(rights.admit(who)[0]?.current()).toMatchObject({ id });
  });

  it('is had by one of many that come at once, in one expose and in several', async () => {
    for (let round = 0; round < 5; round += 1) {
      await create({ token: `once${round}`, once: true });
      const exposes = [await rightsOf(), await rightsOf(), await rightsOf()];
      const results = await Promise.all(
        Array.from({ length: 30 }, (_, index) =>
          enter(
            exposes[index % 3] as TicketRights,
            presented(index % 2 ? alice : bob, (16 + index).toString(16), `once${round}`),
          ),
        ),
      );
      expect(results.filter((reach) => reach !== undefined)).toHaveLength(1);
    }
  });

  it('is used up across a restart, and still its user’s', async () => {
    await create({ token: 'once', once: true });
    await enter(await rightsOf(), presented(alice, 'a1', 'once'));
    const restarted = await rightsOf();
    expect(await enter(restarted, presented(bob, 'b1', 'once'))).toBeUndefined();
    expect(await enter(restarted, presented(alice, 'a1', 'once'))).toEqual(ALL);
  });

  it('is not used by a peer that is denied everything', async () => {
    await create({ token: 'once', once: true });
    const rights = await rightsOf();
    const policy = new Policy(services, [rights, { admit: () => undefined, denies: () => 'all' }]);
    const who = presented(alice, 'a1', 'once');
    await policy.prepare(who);
    expect(policy.admit(who)).toBeUndefined();
    expect((await store.load())[0]?.redeemedBy).toBeUndefined();
  });

  it('turns the peer away, and stays unused, when that cannot be written', async () => {
    await create({ token: 'once', once: true });
    const rights = await rightsOf();
    const before = readFileSync(store.path, 'utf8');
    writeFileSync(`${store.path}.lock`, '');
    const error = await rejected(rights.prepare(presented(alice, 'a1', 'once')));
    expect(error.code).toBe('UNAVAILABLE');
    // Where the files of this machine are is no business of the peer's.
    expect(error.message).not.toContain(folder);
    expect(errors.map(({ code }) => code)).toEqual(['OS_RESOURCE']);
    expect(readFileSync(store.path, 'utf8')).toBe(before);
    rmSync(`${store.path}.lock`);
    expect(await enter(rights, presented(bob, 'b1', 'once'))).toEqual(ALL);
  });
});

describe('a ticket that pairs', () => {
  const remembered: [string, ServiceSet][] = [];
  const remember = async (peer: string, what: ServiceSet) => void remembered.push([peer, what]);

  beforeEach(() => {
    remembered.length = 0;
  });

  it('has its first user remembered, once, with what it opens', async () => {
    await create({ token: 'pair', pair: true, services: ['db'] });
    const rights = await rightsOf({ remember });
    for (const who of [
      presented(alice, 'a1', 'pair'),
      presented(alice, 'a2', 'pair'),
      presented(bob, 'b1', 'pair'),
    ])
      expect(await enter(rights, who)).toEqual(['db/tcp']);
    expect(remembered).toEqual([[alice, new Set(['db'])]]);
    expect((await store.load())[0]?.pairedWith).toEqual({ peer: alice, done: true });
  });

  it('does so at the next coming when it failed at the first, for the same peer only', async () => {
    await create({ token: 'pair', pair: true, once: true });
    const failing = await rightsOf({ remember: () => Promise.reject(new Error('no room')) });
    expect((await rejected(failing.prepare(presented(alice, 'a1', 'pair')))).code).toBe('UNAVAILABLE');
    const rights = await rightsOf({ remember });
    expect(await enter(rights, presented(bob, 'b1', 'pair'))).toBeUndefined();
    expect(await enter(rights, presented(alice, 'a1', 'pair'))).toEqual(ALL);
    expect(remembered).toEqual([[alice, 'all']]);
  });

  it('needs nothing in the book for the node itself', async () => {
    await create({ token: 'pair', pair: true });
    await enter(await rightsOf({ remember }), presented(node, 'a1', 'pair'));
    expect(remembered).toEqual([]);
    expect((await store.load())[0]?.pairedWith).toEqual({ peer: node, done: true });
  });
});
