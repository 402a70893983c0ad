/** Packets of UDP flows as datagrams, and the fragments of those that are too large for one. */
import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FlowCounters } from '../../src/tunnel/flow-counters.js';
import {
  decodeBody,
  encodeFragments,
  encodeWhole,
  FRAGMENT_HEADER_BYTES,
  type Fragment,
  flowOf,
  fragmentCount,
  MAX_PACKET_BYTES,
} from '../../src/tunnel/fragment.js';
import { Reassembler, ReassemblyBudget } from '../../src/tunnel/reassembly.js';

const MAX = 1162;

function fragments(payload: Buffer, packet = 1, max = MAX): Buffer[] {
  const count = fragmentCount(payload.length, max);
  if (count === undefined) throw new Error(`${payload.length} bytes cannot be fragmented`);
  return encodeFragments(7, payload, { packet, count });
}

function reassembler(bytes = 1 << 20) {
  const counters = new FlowCounters();
  const budget = new ReassemblyBudget(bytes);
  const made = new Reassembler(budget, counters);
  const add = (datagram: Buffer, now = 0) => made.add(decodeBody(datagram) as Fragment, now);
  return { add, budget, counters, expire: (since: number) => made.expire(since), close: () => made.close() };
}

describe('a whole packet', () => {
  it('of any size, also none, keeps its bytes and its flow', () => {
    for (const size of [0, 1, 1000, MAX - 5]) {
      const payload = randomBytes(size);
      const datagram = encodeWhole(0xfedcba98, payload);
      expect(datagram.length).toBe(size + 5);
      expect(flowOf(datagram)).toBe(0xfedcba98);
      expect(decodeBody(datagram)).toEqual(payload);
    }
  });

  it('is none of this protocol when it is short or of another type', () => {
    for (const bytes of ['', '01', '01000000', '0300000001', '0000000001ff']) {
      expect(flowOf(Buffer.from(bytes, 'hex')), bytes).toBeUndefined();
    }
  });
});

describe('fragments', () => {
  it('fill datagrams, differ by no more than the last one being short, and are never empty', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 270, max: 1500 }),
        fc.integer({ min: 0, max: MAX_PACKET_BYTES }),
        (max, size) => {
          const count = fragmentCount(size, max);
          if (size <= max - FRAGMENT_HEADER_BYTES) {
            expect(count).toBeUndefined();
            return;
          }
          if (count === undefined) throw new Error('it must fit');
          const made = encodeFragments(1, Buffer.alloc(size), { packet: 0, count });
          expect(made).toHaveLength(Math.ceil(size / (max - FRAGMENT_HEADER_BYTES)));
          for (const datagram of made) {
            expect(datagram.length).toBeLessThanOrEqual(max);
            expect(datagram.length).toBeGreaterThan(FRAGMENT_HEADER_BYTES);
            expect(decodeBody(datagram)).toBeDefined();
          }
        },
      ),
    );
  });

  it('of a packet that needs more than 255 of them, or has more than 65,507 bytes, are not made', () => {
    expect(fragmentCount(MAX_PACKET_BYTES, 267)).toBeUndefined();
    expect(fragmentCount(MAX_PACKET_BYTES, 268)).toBe(255);
    expect(fragmentCount(MAX_PACKET_BYTES + 1, MAX)).toBeUndefined();
    expect(fragmentCount(100, 11)).toBeUndefined();
    expect(fragmentCount(100, 0)).toBeUndefined();
  });

  it('that contradict themselves are refused: index, count, total and length', () => {
    const [good] = fragments(randomBytes(3000));
    const broken = (change: (copy: Buffer) => Buffer | undefined) => {
      const copy = Buffer.from(good as Buffer);
      return decodeBody(change(copy) ?? copy);
    };
    const set = (offset: number, value: number) => (copy: Buffer) => {
      copy[offset] = value;
      return copy;
    };
    expect(broken((copy) => copy)).toBeDefined();
    expect(broken(set(7, 3))).toBeUndefined();
    expect(broken(set(8, 0))).toBeUndefined();
    expect(broken(set(8, 1))).toBeUndefined();
    expect(broken(set(8, 4))).toBeUndefined();
    expect(broken(set(9, 0xff))).toBeUndefined();
    expect(broken((copy) => copy.subarray(0, -1))).toBeUndefined();
    expect(broken((copy) => copy.subarray(0, FRAGMENT_HEADER_BYTES))).toBeUndefined();
    expect(broken((copy) => copy.subarray(0, 6))).toBeUndefined();
  });

  it('of mutated bytes are refused or stay inside their packet', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 5, maxLength: 64 }), (bytes) => {
        const datagram = Buffer.from(bytes);
        datagram[0] = 2;
        const body = decodeBody(datagram);
        if (body === undefined || Buffer.isBuffer(body)) return;
        expect(body.offset + body.piece.length).toBeLessThanOrEqual(body.total);
        expect(reassembler().add(datagram)).toBeUndefined();
      }),
    );
  });
});

describe('reassembly', () => {
  it('restores packets of every size around every boundary, in any order', () => {
    const room = MAX - FRAGMENT_HEADER_BYTES;
    const sizes = [
      MAX - 4,
      ...[2, 3, 56].flatMap((n) => [n * room - 1, n * room, n * room + 1]),
      MAX_PACKET_BYTES,
    ];
    const { add, counters, budget } = reassembler();
    for (const [packet, size] of sizes.entries()) {
      const payload = randomBytes(size);
      const pieces = fragments(payload, packet);
      const order = packet % 3 === 0 ? pieces : packet % 3 === 1 ? pieces.reverse() : shuffled(pieces);
      const whole = order.map((piece) => add(piece));
      expect(whole.pop()?.equals(payload), `${size} bytes`).toBe(true);
      expect(whole.every((before) => before === undefined)).toBe(true);
    }
    expect(counters.dropped).toEqual({});
    expect(counters.seen).toBe(sizes.length);
    expect(budget.left).toBe(1 << 20);
  });

  it('keeps several packets apart whose fragments come mixed', () => {
    const { add, counters } = reassembler();
    const payloads = Array.from({ length: 8 }, () => randomBytes(5000));
    const mixed = shuffled(payloads.flatMap((payload, packet) => fragments(payload, packet)));
    const whole = mixed.map((piece) => add(piece)).filter((one) => one !== undefined);
    expect(whole.map((one) => one.toString('hex')).sort()).toEqual(
      payloads.map((one) => one.toString('hex')).sort(),
    );
    expect(counters.dropped).toEqual({});
  });

  it('drops and counts duplicates, before and after the packet is complete', () => {
    const { add, counters } = reassembler();
    const [first, second] = fragments(randomBytes(2000)) as [Buffer, Buffer];
    add(first);
    add(first);
    expect(add(second)).toBeDefined();
    expect(add(second)).toBeUndefined();
    expect(add(first)).toBeUndefined();
    expect(counters.dropped).toEqual({ duplicate: 3 });
    expect(counters.seen).toBe(1);
  });

  it('drops and counts a fragment at odds with the others of its packet, and goes on with those', () => {
    const { add, counters } = reassembler();
    const payload = randomBytes(2000);
    const [first, second] = fragments(payload) as [Buffer, Buffer];
    add(first);
    const [, , otherTotal] = fragments(randomBytes(3000));
    add(otherTotal as Buffer);
    expect(add(second)?.equals(payload)).toBe(true);
    expect(counters.dropped).toEqual({ inconsistent: 1 });
  });

  it('gives up late packets once each, and their stray fragments begin none', () => {
    const { add, counters, expire, budget } = reassembler();
    const [first, second, third] = fragments(randomBytes(3000)) as [Buffer, Buffer, Buffer];
    add(first, 100);
    add(second, 150);
    expire(100);
    expect(counters.dropped).toEqual({});
    expire(101);
    expect(counters.dropped).toEqual({ 'reassembly-timeout': 1 });
    expect(budget.left).toBe(1 << 20);
    expect(add(third, 200)).toBeUndefined();
    expect(counters.dropped).toEqual({ 'reassembly-timeout': 1, duplicate: 1 });
  });

  it('is bounded in packets a flow and in bytes, and counts each packet once', () => {
    const many = reassembler();
    for (let packet = 0; packet < 100; packet += 1)
      many.add(fragments(randomBytes(2000), packet)[0] as Buffer);
    expect(many.counters.dropped).toEqual({ 'reassembly-full': 68 });
    expect(many.budget.left).toBe((1 << 20) - 32 * 2000);
    many.close();
    expect(many.counters.dropped).toEqual({ 'reassembly-full': 68, 'reassembly-timeout': 32 });
    expect(many.budget.left).toBe(1 << 20);
    const small = reassembler(5000);
    for (let packet = 0; packet < 4; packet += 1)
      for (const piece of fragments(randomBytes(2000), packet).slice(0, 1)) small.add(piece);
    expect(small.counters.dropped).toEqual({ 'reassembly-full': 2 });
    expect(small.counters.seen).toBe(4);
  });
});

function shuffled<T>(items: readonly T[]): T[] {
  const copy = [...items];
  for (let i = copy.length - 1; i > 0; i -= 1) {
    const j = Math.floor(Math.random() * (i + 1));
    [copy[i], copy[j]] = [copy[j] as T, copy[i] as T];
  }
  return copy;
}
