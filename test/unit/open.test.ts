import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readOffset } from '../../src/session/frame.js';
import { decodeOpen, encodeOpen, type OpenRequest } from '../../src/tunnel/open.js';
import { codeOf, thrown } from '../support/errors.js';

const OPEN: OpenRequest = { channelId: 1, epoch: 0, service: 'db', limit: 262144 };

describe('an OPEN', () => {
  it('is fixed fields, big-endian, and the name', () => {
    expect(encodeOpen(OPEN).toString('hex')).toBe('00000001000000000000000000040000' + '0102' + '6462');
  });

  it('survives being written and read again', () => {
    fc.assert(
      fc.property(open, (given) => {
        expect(decodeOpen(encodeOpen(given))).toEqual(given);
      }),
    );
  });

  it.each(['', 'x'.repeat(256), 'ü'.repeat(128)])(
    'is not written for a name that does not fit: %j',
    (service) => {
      expect(thrown(() => encodeOpen({ ...OPEN, service })).code).toBe('USAGE');
    },
  );

  it('cut anywhere is PROTOCOL', () => {
    const body = encodeOpen(OPEN);
    for (let end = 0; end < body.length; end += 1) {
      expect(thrown(() => decodeOpen(body.subarray(0, end))).code).toBe('PROTOCOL');
    }
  });

  const patched = (offset: number, hex: string) => {
    const body = encodeOpen(OPEN);
    body.write(hex, offset, 'hex');
    return body;
  };
  it.each([
    ['a byte too many', Buffer.concat([encodeOpen(OPEN), Buffer.of(0)])],
    ['another protocol', patched(16, '02')],
    ['protocol 0', patched(16, '00')],
    ['an empty name', patched(17, '00')],
    ['a name longer than there is', patched(17, '03')],
    ['a name shorter than there is', patched(17, '01')],
    ['a limit beyond 2^53', patched(8, '0020000000000000')],
    ['the largest limit', patched(8, 'ffffffffffffffff')],
  ])('with %s is PROTOCOL', (_what, body) => {
    expect(thrown(() => decodeOpen(body)).code).toBe('PROTOCOL');
  });

  it('is read or PROTOCOL, whatever the bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        expect([undefined, 'PROTOCOL']).toContain(codeOf(() => decodeOpen(Buffer.from(bytes))));
      }),
    );
  });
});

describe('an offset', () => {
  it('is counted exactly up to 2^53 - 1, and PROTOCOL beyond', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (value) => {
        const body = Buffer.alloc(8);
        body.writeBigUInt64BE(value);
        if (value <= BigInt(Number.MAX_SAFE_INTEGER)) expect(BigInt(readOffset(body, 0))).toBe(value);
        else expect(thrown(() => readOffset(body, 0)).code).toBe('PROTOCOL');
      }),
    );
    const edge = Buffer.alloc(8);
    edge.writeBigUInt64BE(BigInt(Number.MAX_SAFE_INTEGER));
    expect(readOffset(edge, 0)).toBe(Number.MAX_SAFE_INTEGER);
    edge.writeBigUInt64BE(BigInt(Number.MAX_SAFE_INTEGER) + 1n);
    expect(codeOf(() => readOffset(edge, 0))).toBe('PROTOCOL');
  });
});

const open: fc.Arbitrary<OpenRequest> = fc.record({
  channelId: fc.nat({ max: 0xffffffff }),
  epoch: fc.nat({ max: 0xffffffff }),
  service: fc
    .string({ minLength: 1, maxLength: 63, unit: 'grapheme' })
    .filter((name) => Buffer.byteLength(name) <= 255),
  limit: fc.maxSafeNat(),
});
