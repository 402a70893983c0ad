import { describe, expect, it } from 'vitest';
import { TunnelError } from '../../src/error.js';
import { memorySessionPair } from '../../src/session/engines/memory.js';
import type { Session } from '../../src/session/session.js';
import { connectFirst, type Way } from '../../src/session/way.js';

const session = () => memorySessionPair().dialler;
const works = (name: Way['name'], made: Session, delayMs = 0): Way => ({
  name,
  delayMs,
  connect: async () => made,
});
const fails = (name: Way['name'], code: 'UNREACHABLE' | 'DENIED', delayMs = 0): Way => ({
  name,
  delayMs,
  connect: async () => {
    throw new TunnelError(code, name);
  },
});
/** Answers only when told to stop. */
const hangs = (name: Way['name'], onAbort: () => void = () => undefined): Way => ({
  name,
  delayMs: 0,
  connect: (signal) =>
    new Promise((_resolve, reject) => {
      signal.addEventListener('abort', () => {
        onAbort();
        reject(new TunnelError('ABORTED', 'stopped'));
      });
    }),
});

describe('connectFirst', () => {
  it('takes the preferred way when it works, and does not try the others', async () => {
    const made = session();
    let tried = false;
    const other: Way = {
      name: 'webtransport',
      delayMs: 60_000,
      connect: async () => {
        tried = true;
        return session();
      },
    };
    expect(await connectFirst([works('iroh', made), other])).toBe(made);
    expect(tried).toBe(false);
  });

  it('tries the next way as soon as the one before has failed, without waiting out its delay', async () => {
    const made = session();
    expect(await connectFirst([fails('iroh', 'UNREACHABLE'), works('webtransport', made, 60_000)])).toBe(
      made,
    );
  });

  it('tries the next way beside one that hangs, and gives that one up', async () => {
    const made = session();
    let stopped = false;
    const hanging = hangs('iroh', () => {
      stopped = true;
    });
    expect(await connectFirst([hanging, works('webtransport', made, 5)])).toBe(made);
    expect(stopped).toBe(true);
  });

  it('closes a session that came too late to be used', async () => {
    const [first, late] = [session(), session()];
    const slow: Way = {
      name: 'iroh',
      delayMs: 0,
      connect: () => new Promise((resolve) => setTimeout(resolve, 20, late)),
    };
    expect(await connectFirst([slow, works('webtransport', first, 1)])).toBe(first);
    expect(await late.closed).toMatchObject({ by: 'local' });
  });

  it('throws the first error when no way leads there', async () => {
    const trying = connectFirst([fails('iroh', 'UNREACHABLE'), fails('webtransport', 'DENIED')]);
    await expect(trying).rejects.toMatchObject({ code: 'UNREACHABLE' });
  });

  it('ends with ABORTED when the signal fires, before or meanwhile', async () => {
    const controller = new AbortController();
    const trying = connectFirst([hangs('iroh')], controller.signal);
    controller.abort();
    await expect(trying).rejects.toMatchObject({ code: 'ABORTED' });
    await expect(connectFirst([hangs('iroh')], controller.signal)).rejects.toMatchObject({ code: 'ABORTED' });
  });
});
