import { describe, expect, it } from 'vitest';
import { Identity } from '../../src/session/identity.js';
import { TOKEN_BYTES } from '../../src/session/ticket.js';
import { Policy, ticketToken } from '../../src/tunnel/policy.js';
import { parseTargets } from '../../src/tunnel/spec.js';

const owner = Identity.generate();
const stranger = Identity.generate();
const services = parseTargets(['db=5432', 'web=localhost:3000', 'dns=udp:53', 'sock=unix:/run/sock']);
const token = ticketToken(owner, services);
const policy = new Policy(owner.nodeId, services, token);

describe('a policy', () => {
  it.each([
    ['a stranger without a token', stranger, [], false],
    ['a stranger with another token', stranger, [ticketToken(stranger, services)], false],
    ['a stranger with an empty token', stranger, [''], false],
    ['a stranger with the token cut', stranger, [token.slice(0, -1)], false],
    ['a stranger with the token and more', stranger, [`${token}x`], false],
    ['a stranger with the token in capitals', stranger, [token.toUpperCase()], false],
    ['a stranger with the token', stranger, [token], true],
    ['a stranger with the token among others', stranger, ['x', token, 'y'], true],
    ['the owner without a token', owner, [], true],
    ['the owner with a wrong token', owner, ['x'], true],
  ])('lets in or not: %s', (_who, peer, tokens, admitted) => {
    expect(policy.admit(peer.nodeId, tokens) !== undefined).toBe(admitted);
  });

  it('tells an admitted peer what there is', () => {
    const grant = policy.admit(stranger.nodeId, [token]);
    expect(grant && policy.describe(grant)).toEqual([
      { name: 'db', protocol: 'tcp' },
      { name: 'web', protocol: 'tcp' },
      { name: 'dns', protocol: 'udp' },
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
    ['dns', undefined],
    ['__proto__', undefined],
    ['constructor', undefined],
  ])('gives a TCP channel to %j: %s', (name, found) => {
    const grant = policy.admit(owner.nodeId, []);
    expect(grant && policy.service(grant, name)?.name).toBe(found);
  });

  it('asks the grant, not the list of services', () => {
    expect(policy.service({ services: [] }, 'db')).toBeUndefined();
  });

  it('keeps no token', () => {
    expect(JSON.stringify(policy)).not.toContain(token);
  });
});

describe("a ticket's token", () => {
  it('has the length and the alphabet of a token', () => {
    expect(Buffer.from(token, 'base64url')).toHaveLength(TOKEN_BYTES);
    expect(token).toMatch(/^[A-Za-z0-9_-]{22}$/);
  });

  it('is the same at every start with the same services, in any order', () => {
    const again = Identity.fromPem(owner.toPem());
    expect(
      ticketToken(
        again,
        parseTargets(['web=localhost:3000', 'sock=unix:/run/sock', 'dns=udp:53', 'db=5432']),
      ),
    ).toBe(token);
  });

  it.each([
    ['one more service', ['db=5432', 'web=80', 'dns=udp:53', 'sock=unix:/run/sock', 'ssh=22']],
    ['one service less', ['db=5432', 'web=80', 'dns=udp:53']],
    ['another name', ['db2=5432', 'web=80', 'dns=udp:53', 'sock=unix:/run/sock']],
    ['another protocol', ['db=5432', 'web=80', 'dns=tcp:53', 'sock=unix:/run/sock']],
    ['no service', []],
  ])('is another one with %s', (_what, texts) => {
    expect(ticketToken(owner, parseTargets(texts))).not.toBe(token);
  });

  it('is another one for another identity', () => {
    expect(ticketToken(stranger, services)).not.toBe(token);
  });
});
