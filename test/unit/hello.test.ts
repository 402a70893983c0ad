import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MAX_CONTROL_BYTES } from '../../src/session/frame.js';
import { decodeHello, encodeHello, type Hello } from '../../src/session/hello.js';
import type { NodeId } from '../../src/session/node-id.js';
import { thrown } from '../support/errors.js';

const HELLO: Hello = {
  major: 1,
  minor: 0,
  instanceId: '0f'.repeat(16),
  identity: 'ab'.repeat(32) as NodeId,
  proof: 'c2lnbmF0dXJl',
  tokens: ['S3cretS3cretS3cretS3cr'],
  supported: ['resume'],
  required: [],
  hosts: ['10.0.0.7', 'fe80::1'],
  services: [{ name: 'db', protocol: 'tcp' }],
};

const decode = (value: unknown) => decodeHello(Buffer.from(JSON.stringify(value)));

describe('a HELLO', () => {
  it('survives being written and read again', () => {
    fc.assert(
      fc.property(hello, (given) => {
        expect(decodeHello(encodeHello(given))).toEqual(given);
      }),
    );
  });

  it('may have fields this version does not know, which it does not pass on', () => {
    expect(decode({ ...HELLO, future: { a: 1 } })).toEqual(HELLO);
  });

  it('may leave out what is optional', () => {
    const { proof: _p, tokens: _t, services: _s, hosts: _h, ...rest } = HELLO;
    expect(decode(rest)).toEqual(rest);
  });

  it('leaves its services out where they would not fit a frame', () => {
    const services = Array.from({ length: 1000 }, (_, i) => ({
      name: `service-${i}`,
      protocol: 'tcp' as const,
    }));
    const body = encodeHello({ ...HELLO, services });
    expect(body.length).toBeLessThanOrEqual(MAX_CONTROL_BYTES);
    expect(decodeHello(body).services).toBeUndefined();
    expect(decodeHello(body).identity).toBe(HELLO.identity);
  });

  const wrong: readonly [field: keyof Hello, values: readonly unknown[]][] = [
    ['major', [undefined, null, -1, 0.5, '0', [], true]],
    ['minor', [undefined, null, -1, 0.5, '0', [], true]],
    ['instanceId', [undefined, '', '0f'.repeat(15), '0F'.repeat(16), 'zz'.repeat(16), 5]],
    ['identity', [undefined, '', 'ab'.repeat(31), 'AB'.repeat(32), 'zz'.repeat(32), 5, ['ab'.repeat(32)]]],
    ['proof', [null, 5, {}]],
    ['tokens', [null, 'token', [5], [''], ['ü'], ['a'.repeat(129)], Array(257).fill('a')]],
    ['supported', [undefined, null, {}, [null], ['\n'], Array(257).fill('a')]],
    ['required', [undefined, null, 'x', [{}], ['\u001b[2J']]],
    ['services', [null, {}, [null], [5], [{ name: 'db' }], [{ name: 5, protocol: 'tcp' }]]],
  ];
  const cases = wrong.flatMap(([field, values]) => values.map((value) => [field, value] as const));

  it.each(cases)('with %s being %j is PROTOCOL', (field, value) => {
    expect(thrown(() => decode({ ...HELLO, [field]: value })).code).toBe('PROTOCOL');
  });

  it.each([
    ['services', [{ name: 'db', protocol: 'icmp' }]],
    // What a peer names may end on a terminal.
    ['services', [{ name: '\u001b[2J', protocol: 'tcp' }]],
    ['services', [{ name: 'd\nb', protocol: 'tcp' }]],
    ['services', [{ name: '', protocol: 'tcp' }]],
  ])('with %s being %j is PROTOCOL too', (field, value) => {
    expect(thrown(() => decode({ ...HELLO, [field]: value })).code).toBe('PROTOCOL');
  });

  it.each(['', 'null', '[]', '"text"', '5', '{', '{}', '\u0000', '{"major":1,"minor":0}'])(
    'that is %j is PROTOCOL',
    (text) => {
      expect(thrown(() => decodeHello(Buffer.from(text))).code).toBe('PROTOCOL');
    },
  );

  it('cannot reach what objects inherit', () => {
    const text = JSON.stringify(HELLO).replace('{', '{"__proto__":{"polluted":true},');
    decodeHello(Buffer.from(text));
    expect(({} as { polluted?: boolean }).polluted).toBeUndefined();
  });

  it('is read or PROTOCOL, whatever the bytes', () => {
    const damaged = fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })).map(([at, byte]) => {
      const bytes = encodeHello(HELLO);
      bytes[at % bytes.length] = byte;
      return bytes;
    });
    const anything = fc.oneof(
      damaged,
      fc.uint8Array().map((bytes) => Buffer.from(bytes)),
      fc.json().map((text) => Buffer.from(text)),
    );
    fc.assert(
      fc.property(anything, (bytes) => {
        try {
          decodeHello(bytes);
        } catch (error) {
          expect(error).toMatchObject({ name: 'TunnelError', code: 'PROTOCOL' });
        }
      }),
      { numRuns: 2000 },
    );
  });
});

const text = fc.stringMatching(/^[ -~]{1,40}$/);
const list = fc.array(text, { maxLength: 5 });
const hello: fc.Arbitrary<Hello> = fc.record(
  {
    major: fc.nat(),
    minor: fc.nat(),
    instanceId: fc.stringMatching(/^[0-9a-f]{32}$/),
    identity: fc.stringMatching(/^[0-9a-f]{64}$/).map((id) => id as NodeId),
    proof: text,
    tokens: list,
    supported: list,
    required: list,
    services: fc.array(
      fc.record({
        name: fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/),
        protocol: fc.constantFrom('tcp' as const, 'udp' as const),
      }),
      { maxLength: 5 },
    ),
  },
  { requiredKeys: ['major', 'minor', 'instanceId', 'identity', 'supported', 'required'] },
);
