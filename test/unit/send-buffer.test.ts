import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SendBuffer } from '../../src/session/send-buffer.js';

function filled(...sizes: number[]): SendBuffer {
  const buffer = new SendBuffer();
  for (const [index, size] of sizes.entries()) buffer.push(Buffer.alloc(size, index + 1));
  return buffer;
}

describe('a send buffer', () => {
  it('hands out references to what was pushed, never copies', () => {
    const buffer = new SendBuffer();
    const chunk = Buffer.from('abcdef');
    buffer.push(chunk);
    expect(buffer.take(6)).toBe(chunk);
    buffer.rewind(2);
    const rest = buffer.take(100);
    expect(rest.toString()).toBe('cdef');
    expect(rest.buffer).toBe(chunk.buffer);
  });

  it('splits a chunk at the credit, and goes on in it', () => {
    const buffer = filled(10);
    expect([buffer.take(4).length, buffer.take(4).length, buffer.take(4).length]).toEqual([4, 4, 2]);
    expect(buffer.unsentBytes).toBe(0);
  });

  it('lets go of whole chunks only, and of nothing unsent', () => {
    const buffer = filled(10, 10, 10);
    buffer.take(10);
    buffer.take(10);
    buffer.release(15);
    expect(buffer.heldBytes).toBe(20);
    buffer.release(30);
    expect(buffer.heldBytes).toBe(10);
  });

  it('does not go back to bytes it has let go of, nor ahead of what was sent', () => {
    const buffer = filled(10, 10);
    buffer.take(10);
    buffer.take(5);
    buffer.release(10);
    expect(buffer.rewind(9)).toBe(false);
    expect(buffer.rewind(16)).toBe(false);
    expect(buffer.rewind(10)).toBe(true);
    expect(buffer.unsentBytes).toBe(10);
  });

  it('gives the same bytes again from any offset that is still held', () => {
    const operation = fc.oneof(
      fc.record({ kind: fc.constant('push' as const), size: fc.integer({ min: 1, max: 50 }) }),
      fc.record({ kind: fc.constant('take' as const), size: fc.integer({ min: 1, max: 60 }) }),
      fc.record({ kind: fc.constant('ack' as const), part: fc.double({ min: 0, max: 1, noNaN: true }) }),
      fc.record({ kind: fc.constant('rewind' as const), part: fc.double({ min: 0, max: 1, noNaN: true }) }),
    );
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 200 }), (operations) => {
        const buffer = new SendBuffer();
        const byteAt = (offset: number) => (offset * 31) % 251;
        let acked = 0;
        for (const op of operations) {
          if (op.kind === 'push') {
            buffer.push(Buffer.from(Array.from({ length: op.size }, (_, i) => byteAt(buffer.end + i))));
          } else if (op.kind === 'take' && buffer.unsentBytes > 0) {
            const from = buffer.sent;
            for (const [i, byte] of buffer.take(op.size).entries()) expect(byte).toBe(byteAt(from + i));
          } else if (op.kind === 'ack') {
            acked = Math.max(acked, Math.floor(op.part * buffer.sent));
            buffer.release(acked);
          } else if (op.kind === 'rewind') {
            const to = acked + Math.floor(op.part * (buffer.sent - acked));
            expect(buffer.rewind(to)).toBe(true);
            expect(buffer.sent).toBe(to);
          }
          expect(buffer.heldBytes).toBeGreaterThanOrEqual(buffer.end - acked);
        }
      }),
    );
  });
});
