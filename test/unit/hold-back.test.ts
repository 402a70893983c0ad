/** Frames that are held back travel with the next one, and never later than they may. */
import { setImmediate as turn } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { StreamCarrier } from '../../src/session/carrier.js';
import { type HoldBack, untilAnswered, untilPolled } from '../../src/session/hold-back.js';
import type { BidirectionalStream } from '../../src/session/session.js';
import { eventually } from '../support/eventually.js';

/** A stream that only remembers what was done to it. */
function recorded(fails = false): { readonly done: string[]; readonly stream: BidirectionalStream } {
  const done: string[] = [];
  const stream = {
    write(head: Uint8Array | null, body: Uint8Array | null) {
      if (fails) throw new Error('the stream is gone');
      done.push(Buffer.concat([head ?? Buffer.alloc(0), body ?? Buffer.alloc(0)]).toString());
      return true;
    },
    finish(last?: Uint8Array) {
      if (last) this.write(last, null);
      done.push('FIN');
    },
    reset: () => done.push('RESET'),
    stop: () => done.push('STOP'),
  };
  return { done, stream: stream as unknown as BidirectionalStream };
}

/** Releases when it is told to. */
function manual() {
  let release: (() => void) | undefined;
  let cancelled = 0;
  const until: HoldBack = (call) => {
    release = call;
    return () => {
      cancelled += 1;
    };
  };
  return { until, release: () => release?.(), cancelled: () => cancelled };
}

describe('a frame that is held back', () => {
  it('goes out in one write with the next one, in order', () => {
    const { done, stream } = recorded();
    const { until, cancelled } = manual();
    const carrier = new StreamCarrier(stream, 1);
    carrier.defer(Buffer.from('a'), until);
    carrier.defer(Buffer.from('b'), until);
    expect(done).toEqual([]);
    carrier.write(Buffer.from('c'), Buffer.from('d'));
    expect(done).toEqual(['abcd']);
    expect(cancelled()).toBeGreaterThan(0);
  });

  it('goes out alone when nothing follows in time, once', () => {
    const { done, stream } = recorded();
    const { until, release } = manual();
    const carrier = new StreamCarrier(stream, 1);
    carrier.defer(Buffer.from('a'), until);
    release();
    release();
    carrier.write(Buffer.from('b'), null);
    expect(done).toEqual(['a', 'b']);
  });

  it('goes out before the end of the stream', () => {
    const { done, stream } = recorded();
    const carrier = new StreamCarrier(stream, 1);
    carrier.defer(Buffer.from('a'), manual().until);
    carrier.finish();
    expect(done).toEqual(['a', 'FIN']);
  });

  it('is dropped by a reset', () => {
    const { done, stream } = recorded();
    const { until, release } = manual();
    const carrier = new StreamCarrier(stream, 1);
    carrier.defer(Buffer.from('a'), until);
    carrier.reset(0);
    release();
    expect(done).toEqual(['RESET', 'STOP']);
  });

  it('leaves the failure of its stream to the stream', () => {
    const { stream } = recorded(true);
    const { until, release } = manual();
    new StreamCarrier(stream, 1).defer(Buffer.from('a'), until);
    expect(release).not.toThrow();
  });
});

describe('what is held', () => {
  it('until the sockets were polled is out two turns of the event loop later', async () => {
    const { done, stream } = recorded();
    new StreamCarrier(stream, 1).defer(Buffer.from('a'), untilPolled);
    await turn();
    expect(done).toEqual([]);
    await turn();
    expect(done).toEqual(['a']);
  });

  it('until an answer came is out without one, of all streams together', async () => {
    const streams = [recorded(), recorded()];
    for (const { stream } of streams) new StreamCarrier(stream, 1).defer(Buffer.from('a'), untilAnswered);
    await eventually(() => streams.every(({ done }) => done.length > 0));
    expect(streams.map(({ done }) => done)).toEqual([['a'], ['a']]);
  });
});
