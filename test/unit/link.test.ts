import { getEventListeners } from 'node:events';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { TunnelError, type TunnelErrorCode, WIRE_CODES } from '../../src/error.js';
import { memorySessionPair } from '../../src/session/engines/memory.js';
import type { PeerSession } from '../../src/session/handshake.js';
import { Link, type LinkOptions, type LinkState } from '../../src/session/link.js';
import type { CloseInfo } from '../../src/session/session.js';
import { rejected } from '../support/errors.js';

beforeEach(() => {
  vi.useFakeTimers({
    toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'performance', 'Date'],
  });
});

afterEach(() => {
  expect(vi.getTimerCount()).toBe(0);
  vi.useRealTimers();
});

interface Dialled {
  readonly peer: PeerSession;
  /** As if the session's path had been cut. */
  cut(): void;
  /** As if the peer had closed the session. */
  closeByPeer(code: number): void;
}

function dialled(talks = false): Dialled {
  const pair = memorySessionPair();
  const { closed, path } = pair.dialler;
  let sign = 0;
  const session = {
    closed,
    path,
    close: (code: number, reason: string) => pair.dialler.close(code, reason),
    get heard() {
      if (talks) sign += 1;
      return sign;
    },
  };
  const peer = {
    session,
    peer: pair.dialler.remoteId,
    goingAway: new Promise(() => undefined),
    // Never answered: a peer that nobody makes speak is silent.
    rpc: { call: () => new Promise(() => undefined) },
  } as unknown as PeerSession;
  return { peer, cut: pair.cut, closeByPeer: (code) => pair.acceptor.close(code, 'because') };
}

interface Dial {
  readonly signal: AbortSignal;
  /** With a peer that is silent, or one that is always heard. */
  succeed(talks?: boolean): Dialled;
  fail(code: TunnelErrorCode): void;
}

/** A link whose dials are answered by the test, one after another. */
function start(random: () => number = () => 0.5, options: Partial<LinkOptions> = {}) {
  const states: LinkState[] = [];
  const dials: Dial[] = [];
  const link = new Link({
    dial: (signal) =>
      new Promise<PeerSession>((resolve, reject) => {
        signal.addEventListener('abort', () => reject(new TunnelError('ABORTED', 'cancelled')));
        dials.push({
          signal,
          succeed: (talks) => {
            const one = dialled(talks);
            resolve(one.peer);
            return one;
          },
          fail: (code) => reject(new TunnelError(code, 'no')),
        });
      }),
    onState: (state) => states.push(state),
    random,
    ...options,
  });
  return { link, states, dials };
}

/** Lets promises and the memory engine's deliveries go on; no fake time passes. */
async function settle(): Promise<void> {
  for (let i = 0; i < 6; i += 1) await new Promise((resolve) => setImmediate(resolve));
}

const names = (states: readonly LinkState[]) => states.map(({ state }) => state);
const nextTry = (state: LinkState | undefined) =>
  state?.state === 'reconnecting' ? state.nextTryMs : undefined;

describe('a link', () => {
  it('tells nobody anything before its constructor has returned', async () => {
    const { link, states, dials } = start();
    expect(states).toEqual([]);
    await settle();
    expect(names(states)).toEqual(['connecting']);
    expect(dials).toHaveLength(1);
    await link.close();
  });

  it('hands out its session, to those who waited and to those who come later', async () => {
    const { link, states, dials } = start();
    const early = [link.session(), link.session()];
    await settle();
    const { peer } = (dials[0] as Dial).succeed();
    expect(await Promise.all([...early, link.session()])).toEqual([peer, peer, peer]);
    expect(names(states)).toEqual(['connecting', 'connected']);
    await link.close();
    expect(await peer.session.closed).toMatchObject({ by: 'local', closeCode: 0 });
  });

  it('dials again after 250 ms, doubling to 10 s and no further', async () => {
    const { link, states, dials } = start();
    await settle();
    const delays: number[] = [];
    for (let i = 0; i < 9; i += 1) {
      dials[i]?.fail('UNREACHABLE');
      await settle();
      const delay = nextTry(states.at(-1)) as number;
      delays.push(delay);
      await vi.advanceTimersByTimeAsync(delay - 1);
      await settle();
      expect(dials).toHaveLength(i + 1);
      await vi.advanceTimersByTimeAsync(1);
      await settle();
      expect(dials).toHaveLength(i + 2);
    }
    expect(delays).toEqual([250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000, 10_000]);
    await link.close();
  });

  it.each([
    [0, 188],
    [0.5, 250],
    [0.999999, 312],
  ])('spreads its retries by a quarter: random %f makes 250 ms to %i ms', async (random, delay) => {
    const { link, states, dials } = start(() => random);
    await settle();
    dials[0]?.fail('UNREACHABLE');
    await settle();
    expect(nextTry(states.at(-1))).toBe(delay);
    await link.close();
  });

  it('serves those who waited after a session was lost from the next one', async () => {
    const { link, states, dials } = start();
    await settle();
    const first = (dials[0] as Dial).succeed();
    await settle();
    first.cut();
    await settle();
    const waiting = link.session();
    expect(states.at(-1)).toMatchObject({ state: 'reconnecting', error: { code: 'SESSION_LOST' } });
    await vi.advanceTimersByTimeAsync(250);
    await settle();
    const second = (dials[1] as Dial).succeed();
    expect(await waiting).toBe(second.peer);
    expect(await link.session()).toBe(second.peer);
    expect(names(states)).toEqual(['connecting', 'connected', 'reconnecting', 'connected']);
    await link.close();
  });

  it('starts from the first delay again only after a session that lasted', async () => {
    const { link, states, dials } = start();
    await settle();
    const lasting = async (ms: number) => {
      const session = (dials.at(-1) as Dial).succeed(true);
      await settle();
      await vi.advanceTimersByTimeAsync(ms);
      session.cut();
      await settle();
      const delay = nextTry(states.at(-1)) as number;
      await vi.advanceTimersByTimeAsync(delay);
      await settle();
      return delay;
    };
    expect(await lasting(0)).toBe(250);
    expect(await lasting(9_000)).toBe(500);
    expect(await lasting(1_000)).toBe(1000);
    expect(await lasting(10_001)).toBe(250);
    expect(await lasting(0)).toBe(500);
    await link.close();
  });

  it.each(['DENIED', 'VERSION', 'ENGINE_UNAVAILABLE'] as const)(
    'ends at %s, and says so to all',
    async (code) => {
      const { link, states, dials } = start();
      const waiting = rejected(link.session());
      await settle();
      dials[0]?.fail(code);
      expect((await waiting).code).toBe(code);
      expect(await link.closed).toMatchObject({ code });
      expect((await rejected(link.session())).code).toBe(code);
      expect(states.at(-1)).toMatchObject({ state: 'closed', error: { code } });
      await vi.advanceTimersByTimeAsync(60_000);
      expect(dials).toHaveLength(1);
      await link.close();
    },
  );

  it.each(['DENIED', 'VERSION'] as const)('ends when the peer closes the session with %s', async (code) => {
    const { link, dials } = start();
    await settle();
    const session = (dials[0] as Dial).succeed();
    await settle();
    session.closeByPeer(WIRE_CODES[code]);
    expect(await link.closed).toMatchObject({ code });
  });

  it.each<[string, Partial<CloseInfo>]>([
    ['plainly', { closeCode: 0 }],
    ['as it shuts down', { closeCode: WIRE_CODES.SHUTDOWN }],
    ['at its limit', { closeCode: WIRE_CODES.LIMIT }],
    ['with a code of a newer version', { closeCode: 0xfff }],
  ])('dials again when the peer closes the session %s', async (_how, { closeCode }) => {
    const { link, states, dials } = start();
    await settle();
    const session = (dials[0] as Dial).succeed();
    await settle();
    session.closeByPeer(closeCode as number);
    await settle();
    expect(states.at(-1)?.state).toBe('reconnecting');
    await link.close();
  });

  it('takes what a dial throws that is no TunnelError for UNREACHABLE, and goes on', async () => {
    const states: LinkState[] = [];
    const link = new Link({
      dial: () => Promise.reject(new Error('a library said so')),
      onState: (state) => states.push(state),
    });
    await settle();
    expect(states.at(-1)).toMatchObject({ state: 'reconnecting', error: { code: 'UNREACHABLE' } });
    await link.close();
  });

  it('that is closed rejects those who wait, and everyone after', async () => {
    const { link, states, dials } = start();
    const waiting = [rejected(link.session()), rejected(link.session())];
    await settle();
    await link.close();
    for (const error of await Promise.all(waiting)) expect(error.code).toBe('ABORTED');
    expect((await rejected(link.session())).code).toBe('ABORTED');
    expect(dials[0]?.signal.aborted).toBe(true);
    expect(await link.closed).toBeUndefined();
    expect(states.at(-1)).toEqual({ state: 'closed', error: undefined });
    await link.close();
  });

  it('that is closed between two dials does not wait for the next one', async () => {
    const { link, dials } = start();
    await settle();
    dials[0]?.fail('UNREACHABLE');
    await settle();
    await link.close();
    expect(dials).toHaveLength(1);
  });

  it('that is closed hands its code and reason to the session', async () => {
    const { link, dials } = start();
    await settle();
    const { peer } = (dials[0] as Dial).succeed();
    await settle();
    await link.close(WIRE_CODES.SHUTDOWN, 'bye');
    expect(await peer.session.closed).toEqual({ closeCode: WIRE_CODES.SHUTDOWN, reason: 'bye', by: 'local' });
  });

  it('that is closed gives out no session any more', async () => {
    const { link, dials } = start();
    await settle();
    dials[0]?.succeed();
    await settle();
    const closing = link.close();
    expect((await rejected(link.session())).code).toBe('ABORTED');
    await closing;
  });

  it('that is closed while a dial succeeds lets that session go', async () => {
    let resolve!: (peer: PeerSession) => void;
    const states: LinkState[] = [];
    const link = new Link({
      dial: () =>
        new Promise<PeerSession>((r) => {
          resolve = r;
        }),
      onState: (state) => states.push(state),
    });
    await settle();
    const closing = link.close();
    const { peer } = dialled();
    resolve(peer);
    await closing;
    expect(await peer.session.closed).toMatchObject({ by: 'local' });
    expect(names(states)).toEqual(['connecting', 'closed']);
  });

  describe("with a waiter's signal", () => {
    it('rejects that waiter alone when it fires', async () => {
      const { link, dials } = start();
      const controller = new AbortController();
      const given = rejected(link.session(controller.signal));
      const kept = link.session();
      await settle();
      controller.abort();
      expect((await given).code).toBe('ABORTED');
      const { peer } = (dials[0] as Dial).succeed();
      expect(await kept).toBe(peer);
      await link.close();
    });

    it('rejects at once when it has fired already', async () => {
      const { link } = start();
      expect((await rejected(link.session(AbortSignal.abort()))).code).toBe('ABORTED');
      await link.close();
    });

    it('leaves no listener on it after a session came', async () => {
      const { link, dials } = start();
      const { signal } = new AbortController();
      const waiting = link.session(signal);
      await settle();
      dials[0]?.succeed();
      await waiting;
      expect(getEventListeners(signal, 'abort')).toHaveLength(0);
      await link.close();
    });

    it('leaves no listener on it after the link ended', async () => {
      const { link } = start();
      const { signal } = new AbortController();
      const waiting = rejected(link.session(signal));
      await settle();
      await link.close();
      await waiting;
      expect(getEventListeners(signal, 'abort')).toHaveLength(0);
    });
  });

  describe('whose peer falls silent', () => {
    it('dials beside the session, and takes what comes through for it', async () => {
      const { link, states, dials } = start();
      await settle();
      const first = (dials[0] as Dial).succeed();
      await settle();
      await vi.advanceTimersByTimeAsync(2250);
      expect(dials).toHaveLength(1);
      await vi.advanceTimersByTimeAsync(250);
      expect(dials).toHaveLength(2);
      expect(await link.session()).toBe(first.peer);
      const second = (dials[1] as Dial).succeed();
      await settle();
      expect(await link.session()).toBe(second.peer);
      expect(await first.peer.session.closed).toMatchObject({ closeCode: WIRE_CODES.SESSION_LOST });
      // No time without a session was told of, but how long the peer had been silent.
      expect(names(states)).toEqual(['connecting', 'connected', 'connected']);
      expect(states.at(-1)).toMatchObject({ downMs: 2500 });
      await link.close();
    });

    it('gives the session up within 5 s, and says why', async () => {
      const { link, states, dials } = start();
      await settle();
      const { peer } = (dials[0] as Dial).succeed();
      await settle();
      await vi.advanceTimersByTimeAsync(4500);
      await settle();
      expect(await peer.session.closed).toMatchObject({ by: 'local' });
      expect(states.at(-1)).toMatchObject({
        state: 'reconnecting',
        error: { code: 'SESSION_LOST', message: 'no answer for 5 s' },
      });
      await link.close();
    });
  });

  it('tries again within a second while something waits, and begins new dials beside one that hangs', async () => {
    const { link, states, dials } = start(() => 0.5, { busy: () => true });
    await settle();
    (dials[0] as Dial).succeed().cut();
    await settle();
    for (let i = 1; i < 6; i += 1) {
      await vi.advanceTimersByTimeAsync(nextTry(states.at(-1)) as number);
      await settle();
      dials[i]?.fail('UNREACHABLE');
      await settle();
      expect(nextTry(states.at(-1))).toBeLessThanOrEqual(1000);
    }
    await vi.advanceTimersByTimeAsync(1000);
    await settle();
    const hanging = dials.length;
    await vi.advanceTimersByTimeAsync(10_000);
    expect(dials.length).toBe(hanging + 10);
    // The oldest ones were let go: what they wait for is long lost.
    expect(dials.slice(hanging - 1).filter(({ signal }) => !signal.aborted)).toHaveLength(6);
    await link.close();
  });

  it('tries at once when the network has changed', async () => {
    const { link, states, dials } = start();
    await settle();
    for (let i = 0; i < 5; i += 1) {
      dials[i]?.fail('UNREACHABLE');
      await settle();
      if (i < 4) await vi.advanceTimersByTimeAsync(nextTry(states.at(-1)) as number);
      await settle();
    }
    expect(dials).toHaveLength(5);
    link.networkChanged();
    await settle();
    expect(dials).toHaveLength(6);
    await link.close();
  });

  it('gives up after the time it was given, and says so', async () => {
    const { link, states, dials } = start(() => 0.5, { giveUpAfterMs: 600 });
    await settle();
    for (let i = 0; i < 3; i += 1) {
      dials[i]?.fail('UNREACHABLE');
      await settle();
      await vi.advanceTimersByTimeAsync(nextTry(states.at(-1)) ?? 0);
      await settle();
    }
    expect(await link.closed).toMatchObject({
      code: 'UNREACHABLE',
      message: expect.stringContaining('no session with the peer for 1 s'),
    });
    expect((await rejected(link.session())).code).toBe('UNREACHABLE');
  });

  it('gives up in time also while dials hang and new ones begin beside them', async () => {
    const { link, dials } = start(() => 0.5, { giveUpAfterMs: 5000, busy: () => true });
    await settle();
    (dials[0] as Dial).succeed().cut();
    await settle();
    await vi.advanceTimersByTimeAsync(4900);
    expect(dials.length).toBeGreaterThan(3);
    await vi.advanceTimersByTimeAsync(100);
    await settle();
    expect(await link.closed).toMatchObject({ code: 'UNREACHABLE' });
    expect(dials.every(({ signal }, index) => index === 0 || signal.aborted)).toBe(true);
  });
});
