import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';
import type { TunnelError } from '../../src/error.js';
import { memorySessionPair } from '../../src/session/engines/memory.js';
import {
  encodePreamble,
  MAX_PREAMBLE_BYTES,
  PREAMBLE_HEADER_BYTES,
  PREAMBLE_TIMEOUT_MS,
  type Preamble,
  readPreamble,
  StreamKind,
} from '../../src/session/preamble.js';
import { checkLeaks } from '../support/leaks.js';
import { Recorder } from '../support/recorder.js';
import { streamPair } from '../support/stream-pair.js';
import { ticks } from '../support/ticks.js';

checkLeaks();
afterEach(() => {
  vi.useRealTimers();
});

type Outcome = Preamble | TunnelError;

/** A stream whose far end is read as a preamble; `far` is what its reader sees once it took over. */
async function pair() {
  const { dialler, acceptor, near, far, cut } = await streamPair();
  const outcomes: Outcome[] = [];
  const rest = new Recorder();
  readPreamble(
    far,
    (preamble) => {
      outcomes.push(preamble);
      far.receive(rest.sink(far));
    },
    (error) => outcomes.push(error),
  );
  const opener = new Recorder();
  near.receive(opener.sink(near));
  const close = () => dialler.close();
  return { near, far, outcomes, rest, opener, cut, close, acceptor };
}

describe('a preamble', () => {
  it('is kind, length and body', () => {
    expect(encodePreamble(StreamKind.OPEN, Buffer.from('ab')).toString('hex')).toBe('020000026162');
  });

  it('is at most 4 KiB', () => {
    expect(encodePreamble(1, Buffer.alloc(MAX_PREAMBLE_BYTES))).toHaveLength(
      PREAMBLE_HEADER_BYTES + MAX_PREAMBLE_BYTES,
    );
    expect(() => encodePreamble(1, Buffer.alloc(MAX_PREAMBLE_BYTES + 1))).toThrow(RangeError);
  });

  it.each([0, 1, 100, MAX_PREAMBLE_BYTES])('with a body of %i bytes is read', async (size) => {
    const { near, outcomes, close } = await pair();
    const body = Buffer.alloc(size, 7);
    near.write(encodePreamble(StreamKind.OPEN, body), null);
    await ticks();
    expect(outcomes).toEqual([{ kind: StreamKind.OPEN, body, rest: Buffer.alloc(0) }]);
    close();
  });

  it('is read however it is split, and nothing behind it is lost or doubled', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ maxLength: 40 }),
        fc.uint8Array({ maxLength: 40 }),
        fc.array(fc.nat(), { maxLength: 6 }),
        async (body, behind, cuts) => {
          const { near, outcomes, rest, close } = await pair();
          const bytes = Buffer.concat([encodePreamble(StreamKind.CONTROL, body), behind]);
          const places = [0, ...cuts.map((cut) => cut % bytes.length).sort((a, b) => a - b), bytes.length];
          for (const [index, start] of places.slice(0, -1).entries()) {
            near.write(bytes.subarray(start, places[index + 1]), null);
          }
          near.finish();
          await ticks(3);
          expect(outcomes).toHaveLength(1);
          const preamble = outcomes[0] as Preamble;
          expect(preamble.kind).toBe(StreamKind.CONTROL);
          expect(Buffer.from(preamble.body)).toEqual(Buffer.from(body));
          expect(Buffer.concat([preamble.rest, rest.bytes])).toEqual(Buffer.from(behind));
          expect(rest.events).toEqual(['end']);
          close();
        },
      ),
      { numRuns: 200 },
    );
  });

  it('that announces more than 4 KiB fails with PROTOCOL at its header, and the stream is reset', async () => {
    const { near, outcomes, opener, close } = await pair();
    near.write(Buffer.from([StreamKind.OPEN, 0, 0x10, 0x01]), null);
    await ticks();
    expect(outcomes).toMatchObject([{ code: 'PROTOCOL' }]);
    expect(opener.events.sort()).toEqual(['reset 7', 'stopped 7']);
    close();
  });

  it.each([0, 1, 3, 5])('cut off after %i bytes by an end fails with PROTOCOL', async (size) => {
    const { near, outcomes, opener, close } = await pair();
    near.write(encodePreamble(StreamKind.OPEN, Buffer.from('db')).subarray(0, size), null);
    near.finish();
    await ticks();
    expect(outcomes).toMatchObject([{ code: 'PROTOCOL' }]);
    expect(opener.events).toContain('reset 7');
    close();
  });

  it('cut off by a reset or a stop fails with RESET', async () => {
    const first = await pair();
    first.near.write(Buffer.of(2, 0), null);
    first.near.reset(1);
    await ticks();
    expect(first.outcomes).toMatchObject([{ code: 'RESET' }]);
    first.close();
    const second = await pair();
    second.near.stop(1);
    await ticks();
    expect(second.outcomes).toMatchObject([{ code: 'RESET' }]);
    second.close();
  });

  it('cut off by the end of the session fails with SESSION_LOST', async () => {
    const { near, outcomes, cut } = await pair();
    near.write(Buffer.of(2, 0), null);
    await ticks();
    cut();
    await ticks();
    expect(outcomes).toMatchObject([{ code: 'SESSION_LOST' }]);
  });

  it('that does not come within 10 s fails with TIMEOUT, and the stream is reset', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const { near, outcomes, opener, close } = await pair();
    near.write(Buffer.of(2), null);
    await ticks();
    vi.advanceTimersByTime(PREAMBLE_TIMEOUT_MS - 1);
    expect(outcomes).toEqual([]);
    vi.advanceTimersByTime(1);
    expect(outcomes).toMatchObject([{ code: 'TIMEOUT' }]);
    await ticks();
    expect(opener.events.sort()).toEqual(['reset 13', 'stopped 13']);
    close();
  });

  it('that came leaves no timer', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const { near, outcomes, close } = await pair();
    near.write(encodePreamble(StreamKind.OPEN, Buffer.from('db')), null);
    await ticks();
    expect(outcomes).toHaveLength(1);
    expect(vi.getTimerCount()).toBe(0);
    close();
  });

  it('settles once, whatever follows', async () => {
    const { near, outcomes, cut } = await pair();
    near.write(encodePreamble(StreamKind.OPEN, Buffer.from('db')), null);
    near.write(Buffer.from([9, 9, 255, 255]), null);
    near.reset(1);
    await ticks();
    cut();
    await ticks();
    expect(outcomes).toHaveLength(1);
  });

  it('of random bytes is read or fails with a code, and the session lives', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.uint8Array({ maxLength: 20 }), { maxLength: 5 }), async (chunks) => {
        const { near, outcomes, acceptor, close } = await pair();
        for (const chunk of chunks) if (chunk.length > 0) near.write(chunk, null);
        near.finish();
        await ticks(3);
        expect(outcomes).toHaveLength(1);
        const [outcome] = outcomes;
        if (outcome instanceof Error) expect(['PROTOCOL']).toContain(outcome.code);
        const alive = await Promise.race([acceptor.closed.then(() => false), Promise.resolve(true)]);
        expect(alive).toBe(true);
        close();
      }),
      { numRuns: 200 },
    );
  });
});

describe('the memory engine under these tests', () => {
  it('makes sessions that know each other', () => {
    const ids = ['aa'.repeat(32), 'bb'.repeat(32)] as const;
    const { dialler, acceptor } = memorySessionPair({ ids: ids as never });
    expect([dialler.remoteId, acceptor.remoteId]).toEqual([ids[1], ids[0]]);
    dialler.close();
  });
});
