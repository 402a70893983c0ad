import { afterEach, describe, expect, it, vi } from 'vitest';
import { Identity } from '../../src/session/identity.js';
import type { NodeId } from '../../src/session/node-id.js';
import {
  DeclaredRights,
  type Grant,
  includesService,
  ownerSource,
  Policy,
  type Presented,
  type Rights,
  type RightsSource,
  type ServiceSet,
} from '../../src/tunnel/policy.js';
import { parseTargets } from '../../src/tunnel/spec.js';
import { tokenSource } from '../support/token-source.js';

const owner = Identity.generate();
const stranger = Identity.generate();
const services = parseTargets([
  'db=5432',
  'web=localhost:3000',
  'dns=udp:53',
  'dns=tcp:53',
  'sock=unix:/run/sock',
]);
const token = 'AAECAwQFBgcICQoLDA0ODw';
const policy = new Policy(services, [ownerSource(owner.nodeId), tokenSource(token)]);

function presented(peer: NodeId, ...tokens: string[]): Presented {
  return { peer, instanceId: 'ab'.repeat(16), tokens };
}

/** A source whose answers a test changes. */
class Answers implements RightsSource {
  rights: Rights | undefined;
  denied: ServiceSet | undefined;
  asked = 0;
  readonly listeners = new Set<() => void>();

  constructor(services?: ServiceSet, expiresAtMs?: number) {
    if (services === undefined) return;
    this.rights = { services, via: 'book', ...(expiresAtMs === undefined ? {} : { expiresAtMs }) };
  }

  admit() {
    this.asked += 1;
    return { current: () => this.rights };
  }

  denies() {
    return this.denied;
  }

  onChange(listener: () => void) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }
}

function admitted(...sources: RightsSource[]): { policy: Policy; grant: Grant } {
  const policy = new Policy(services, sources);
  const grant = policy.admit(presented(stranger.nodeId));
  if (!grant) throw new Error('was not let in');
  return { policy, grant };
}

const names = (policy: Policy, grant: Grant) =>
  policy.describe(grant).map(({ name, protocol }) => `${name}/${protocol}`);

afterEach(() => {
  vi.useRealTimers();
});

describe('a policy', () => {
  it.each([
    ['a stranger without a token', stranger, [], false],
    ['a stranger with another token', stranger, ['AAECAwQFBgcICQoLDA0ODx'], false],
    ['a stranger with an empty token', stranger, [''], false],
    ['a stranger with the token cut', stranger, [token.slice(0, -1)], false],
    ['a stranger with the token and more', stranger, [`${token}x`], false],
    ['a stranger with the token in capitals', stranger, [token.toUpperCase()], false],
    ['a stranger with the token', stranger, [token], true],
    ['a stranger with the token among others', stranger, ['x', token, 'y'], true],
    ['the owner without a token', owner, [], true],
    ['the owner with a wrong token', owner, ['x'], true],
  ])('lets in or not: %s', (_who, peer, tokens, admitted) => {
    expect(policy.admit(presented(peer.nodeId, ...tokens)) !== undefined).toBe(admitted);
  });

  it('lets nobody in without a source', () => {
    expect(new Policy(services, []).admit(presented(owner.nodeId, token))).toBeUndefined();
  });

  it('tells an admitted peer what there is', () => {
    const grant = policy.admit(presented(stranger.nodeId, token));
    expect(grant && policy.describe(grant)).toEqual([
      { name: 'db', protocol: 'tcp' },
      { name: 'web', protocol: 'tcp' },
      { name: 'dns', protocol: 'udp' },
      { name: 'dns', protocol: 'tcp' },
      { name: 'sock', protocol: 'tcp' },
    ]);
  });

  it.each([
    ['db', 'db'],
    ['sock', 'sock'],
    ['nothing', undefined],
    ['DB', undefined],
    ['', undefined],
    ['db ', undefined],
    ['db/tcp', undefined],
    ['__proto__', undefined],
    ['constructor', undefined],
  ])('gives a TCP channel to %j: %s', (name, found) => {
    const grant = policy.admit(presented(owner.nodeId));
    expect(grant && policy.service(grant, name)?.name).toBe(found);
  });

  it('gives what all sources together grant, and nothing else', () => {
    const { policy, grant } = admitted(
      new Answers(new Set(['db'])),
      new Answers(),
      new Answers(new Set(['dns/udp', 'gone'])),
    );
    expect(names(policy, grant)).toEqual(['db/tcp', 'dns/udp']);
    expect(policy.service(grant, 'web')).toBeUndefined();
    expect(policy.service(grant, 'dns')).toBeUndefined();
    expect(policy.service(grant, 'dns', 'udp')?.name).toBe('dns');
    expect(policy.service(grant, 'gone')).toBeUndefined();
  });

  it('does not let in who may only reach what is not offered here', () => {
    const policy = new Policy(services, [new Answers(new Set(['other']))]);
    expect(policy.admit(presented(stranger.nodeId))).toBeUndefined();
  });

  it('asks the source again at every question', () => {
    const source = new Answers(new Set(['db']));
    const { policy, grant } = admitted(source);
    source.rights = { services: new Set(['web']), via: 'book' };
    expect(policy.service(grant, 'db')).toBeUndefined();
    expect(policy.service(grant, 'web')?.name).toBe('web');
    source.rights = undefined;
    expect(policy.describe(grant)).toEqual([]);
    expect(policy.isAlive(grant)).toBe(false);
    expect(source.asked).toBe(1);
  });

  it('ends a right at its time, to the millisecond', () => {
    vi.useFakeTimers({ now: 1000 });
    const { policy, grant } = admitted(new Answers('all', 2000), new Answers(new Set(['db']), 5000));
    expect(policy.firstExpiryMs([grant])).toBe(2000);
    vi.setSystemTime(1999);
    expect(policy.service(grant, 'web')).toBeDefined();
    vi.setSystemTime(2000);
    expect(names(policy, grant)).toEqual(['db/tcp']);
    expect(policy.firstExpiryMs([grant])).toBe(5000);
    vi.setSystemTime(5000);
    expect(policy.isAlive(grant)).toBe(false);
    expect(policy.firstExpiryMs([grant])).toBe(Number.POSITIVE_INFINITY);
    expect(
      new Policy(services, [new Answers('all', 5000)]).admit(presented(stranger.nodeId)),
    ).toBeUndefined();
  });

  it('puts a denial above every right', () => {
    const source = new Answers('all');
    const { policy, grant } = admitted(source, new Answers('all'));
    source.denied = new Set(['db', 'dns/udp']);
    expect(names(policy, grant)).toEqual(['web/tcp', 'dns/tcp', 'sock/tcp']);
    source.denied = 'all';
    expect(policy.isAlive(grant)).toBe(false);
  });

  it('asks no source for a claim of a peer that is denied everything', () => {
    const source = new Answers('all');
    source.denied = 'all';
    expect(new Policy(services, [source]).admit(presented(stranger.nodeId))).toBeUndefined();
    expect(source.asked).toBe(0);
  });

  it('says whether a right covers what is wanted, offered or not', () => {
    const { policy, grant } = admitted(new Answers(new Set(['db', 'other'])));
    expect(policy.covers(grant, { name: 'db', protocol: 'udp' })).toBe(true);
    expect(policy.covers(grant, { name: 'other', protocol: 'tcp' })).toBe(true);
    expect(policy.covers(grant, { name: 'web', protocol: 'tcp' })).toBe(false);
  });

  it('tells of changes of any source until told to stop', () => {
    const sources = [new Answers(), new Answers()];
    const heard = vi.fn();
    const end = new Policy(services, [ownerSource(owner.nodeId), ...sources]).onChange(heard);
    for (const { listeners } of sources) for (const listener of listeners) listener();
    expect(heard).toHaveBeenCalledTimes(2);
    end();
    expect(sources.map(({ listeners }) => listeners.size)).toEqual([0, 0]);
  });

  it('keeps no token', () => {
    const grant = policy.admit(presented(stranger.nodeId, token));
    expect(JSON.stringify([policy, grant])).not.toContain(token);
  });
});

describe('a set of services', () => {
  it.each<[string[] | 'all', string, 'tcp' | 'udp', boolean]>([
    ['all', 'db', 'tcp', true],
    ['all', 'dns', 'udp', true],
    [['dns'], 'dns', 'tcp', true],
    [['dns'], 'dns', 'udp', true],
    [['dns/udp'], 'dns', 'udp', true],
    [['dns/udp'], 'dns', 'tcp', false],
    [['dns/tcp'], 'dns', 'tcp', true],
    [['dns/tcp'], 'dns', 'udp', false],
    [['dn'], 'dns', 'udp', false],
    [[], 'dns', 'udp', false],
    [['all'], 'dns', 'udp', false],
  ])('%j has %s over %s: %s', (set, name, protocol, has) => {
    expect(includesService(set === 'all' ? 'all' : new Set(set), { name, protocol })).toBe(has);
  });
});

describe('what is offered may change', () => {
  const [db, web] = parseTargets(['db=5432', 'web=3000']);
  const [moved] = parseTargets(['db=5433']);
  if (!db || !web || !moved) throw new Error('three services');

  it('for new connections at once; what was begun with a service that goes is kept until it is forgotten', () => {
    const changing = new Policy([db, web], [ownerSource(owner.nodeId)]);
    const grant = changing.admit(presented(owner.nodeId)) as Grant;
    const gone = changing.offer([moved]);
    expect(gone).toEqual([web]);
    expect(changing.service(grant, 'db')).toBe(moved);
    expect(changing.service(grant, 'web')).toBeUndefined();
    expect(changing.kept(grant, 'web')).toBe(web);
    expect(changing.describe(grant)).toEqual([{ name: 'db', protocol: 'tcp' }]);
    expect(changing.forget(gone)).toEqual([web]);
    expect(changing.kept(grant, 'web')).toBeUndefined();
  });

  it('keeps a session alive for what is kept, and ends it when nothing is', () => {
    const changing = new Policy([web], [ownerSource(owner.nodeId)]);
    const grant = changing.admit(presented(owner.nodeId)) as Grant;
    const gone = changing.offer([]);
    expect(changing.isAlive(grant)).toBe(true);
    changing.forget(gone);
    expect(changing.isAlive(grant)).toBe(false);
  });

  it('forgets nothing that was offered again meanwhile, nor what went a second time', () => {
    const changing = new Policy([web], [ownerSource(owner.nodeId)]);
    const grant = changing.admit(presented(owner.nodeId)) as Grant;
    const first = changing.offer([]);
    const [again] = parseTargets(['web=3000']);
    changing.offer([again as typeof web]);
    expect(changing.forget(first)).toEqual([]);
    changing.offer([]);
    expect(changing.forget(first)).toEqual([]);
    expect(changing.kept(grant, 'web')).toBe(again);
  });
});

describe('declared rights', () => {
  it('change while a peer is connected, whether or not it had any, and tell of it', () => {
    const declared = new DeclaredRights({ allow: [], public: false });
    const changing = new Policy(services, [declared]);
    let told = 0;
    const end = changing.onChange(() => {
      told += 1;
    });
    const grant = changing.claim(presented(stranger.nodeId)) as Grant;
    expect(changing.isAlive(grant)).toBe(false);
    declared.declare({ allow: [stranger.nodeId], public: false });
    expect(changing.service(grant, 'db')?.name).toBe('db');
    declared.declare({ allow: [], public: true });
    expect(changing.isAlive(grant)).toBe(true);
    declared.declare({ allow: [owner.nodeId], public: false });
    expect(changing.isAlive(grant)).toBe(false);
    expect(told).toBe(3);
    end();
  });
});
