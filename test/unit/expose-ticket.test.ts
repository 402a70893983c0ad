import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Identity } from '../../src/session/identity.js';
import { TOKEN_BYTES } from '../../src/session/ticket.js';
import { exposeTicket } from '../../src/tunnel/expose-ticket.js';
import { parseTargets } from '../../src/tunnel/spec.js';
import { TicketStore } from '../../src/tunnel/ticket-store.js';
import { rejected } from '../support/errors.js';

const TARGETS = ['db=5432', 'web=localhost:3000', 'dns=udp:53'];
const identity = Identity.generate();

let folder: string;
let store: TicketStore;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tunnel-tickets-'));
  store = new TicketStore(join(folder, 'tokens.json'));
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

interface Asked {
  readonly identity?: Identity;
  readonly targets?: readonly string[];
  readonly once?: boolean;
  readonly pair?: boolean;
  readonly ttlMs?: number;
}

function make({
  identity: who = identity,
  targets = TARGETS,
  once = false,
  pair = false,
  ttlMs,
}: Asked = {}) {
  return exposeTicket(store, {
    identity: who,
    name: 'default',
    services: parseTargets(targets),
    once,
    pair,
    ttlMs,
  });
}

describe('the ticket of an expose', () => {
  it('has the length and the alphabet of a token, and opens what is exposed', async () => {
    const { token, record } = await make();
    expect(Buffer.from(token, 'base64url')).toHaveLength(TOKEN_BYTES);
    expect(token).toMatch(/^[A-Za-z0-9_-]{22}$/);
    expect(record.services).toEqual(['db/tcp', 'web/tcp', 'dns/udp']);
  });

  it('is the same at every start with the same services, in any order, without the store too', async () => {
    const first = await make();
    const again = await make({
      identity: Identity.fromPem(identity.toPem()),
      targets: [...TARGETS].reverse(),
    });
    expect(again.token).toBe(first.token);
    expect(await store.load()).toEqual([first.record]);
    rmSync(store.path);
    expect((await make()).token).toBe(first.token);
  });

  it.each<[string, Asked]>([
    ['one more service', { targets: [...TARGETS, 'ssh=22'] }],
    ['one service less', { targets: TARGETS.slice(1) }],
    ['another name', { targets: ['db2=5432', ...TARGETS.slice(1)] }],
    ['another protocol', { targets: ['db=udp:5432', ...TARGETS.slice(1)] }],
    ['another identity', { identity: Identity.generate() }],
    ['one use', { once: true }],
    ['pairing', { pair: true }],
    ['an end', { ttlMs: 1000 }],
  ])('is another one for %s, and of another kind', async (_what, asked) => {
    const first = await make();
    const other = await make(asked);
    expect(other.token).not.toBe(first.token);
    if (!asked.identity) expect(other.purpose).not.toBe(first.purpose);
  });

  it('is another one after it was revoked, which is then the same again', async () => {
    const first = await make();
    await store.revoke(() => true);
    const second = await make();
    expect(second.token).not.toBe(first.token);
    expect((await make()).token).toBe(second.token);
    await store.revoke(() => true);
    expect([first.token, second.token]).not.toContain((await make()).token);
  });

  it('for one use is the same until it is used', async () => {
    const first = await make({ once: true });
    expect((await make({ once: true })).token).toBe(first.token);
    await store.update((records) => ({
      records: records.map((record) => ({
        ...record,
        redeemedBy: { peer: identity.nodeId, instanceId: 'ab'.repeat(16), at: record.createdAt },
      })),
      result: undefined,
    }));
    expect((await make({ once: true })).token).not.toBe(first.token);
  });

  it('for one use is never one that was used, not even when the store was lost', async () => {
    const first = await make({ once: true });
    rmSync(store.path);
    expect((await make({ once: true })).token).not.toBe(first.token);
  });

  it('with an end is a new one at each start', async () => {
    const [first, second] = [await make({ ttlMs: 60_000 }), await make({ ttlMs: 60_000 })];
    expect(second.token).not.toBe(first.token);
    expect(second.purpose).toBe(first.purpose);
    expect(await store.load()).toHaveLength(2);
  });

  it('leaves no token in the store', async () => {
    const tokens = [await make(), await make({ once: true }), await make({ ttlMs: 1000 })].map(
      ({ token }) => token,
    );
    const text = readFileSync(store.path, 'utf8');
    for (const token of tokens) expect(text).not.toContain(token);
  });

  it.runIf(process.platform !== 'win32')('is refused where the store is damaged or not private', async () => {
    writeFileSync(store.path, '{', { mode: 0o600 });
    expect((await rejected(make())).code).toBe('BAD_STATE');
    expect(readFileSync(store.path, 'utf8')).toBe('{');
    rmSync(store.path);
    await make();
    chmodSync(store.path, 0o644);
    expect((await rejected(make())).code).toBe('BAD_STATE');
  });

  it('that cannot be written down is the one it always was, unless it must be on the disk', async () => {
    const { token } = await make();
    store = new TicketStore(join(folder, 'locked', 'tokens.json'));
    mkdirSync(join(folder, 'locked'));
    // A file where a folder should be: root cannot write there either.
    writeFileSync(join(folder, 'locked', 'tokens.json.lock'), '');
    const unsaved = await make();
    expect(unsaved.token).toBe(token);
    expect(unsaved.unsaved?.code).toBe('OS_RESOURCE');
    for (const asked of [{ once: true }, { pair: true }, { ttlMs: 1000 }])
      expect((await rejected(make(asked))).code).toBe('OS_RESOURCE');
  });
});
