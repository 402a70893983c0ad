/** `stats.watch`: what the peer tells of itself is checked before it is shown, and asked for only while someone looks. */
import { afterEach, describe, expect, it } from 'vitest';
import type { PeerSession } from '../../src/session/handshake.js';
import { decodeFigures, PeerWatch, statsMethods } from '../../src/tunnel/stats-watch.js';
import { thrown } from '../support/errors.js';
import { eventually } from '../support/eventually.js';
import { ModelBench, PEER } from '../support/figures.js';
import { checkLeaks } from '../support/leaks.js';

checkLeaks();

const FIGURES = {
  bytesIn: 1,
  bytesOut: 2,
  rateIn: 3,
  rateOut: 4,
  channels: 5,
  rttMs: 6.5,
  path: 'iroh-relay',
};
const closing: (() => void)[] = [];

afterEach(() => {
  for (const close of closing.splice(0)) close();
});

function session(items: (signal: AbortSignal) => AsyncGenerator<Uint8Array, void>) {
  const calls: AbortSignal[] = [];
  const stats = { rttMs: 1, bytesSent: 0, bytesReceived: 0, packetsSent: 0, packetsLost: 0 };
  const peer = {
    peer: PEER,
    session: { path: { kind: 'iroh-direct', remote: '192.0.2.7:1', rttMs: 1 }, stats: () => stats },
    rpc: {
      streamingCall: (_method: string, _payload: unknown, { signal }: { signal: AbortSignal }) => {
        calls.push(signal);
        return items(signal);
      },
    },
  } as unknown as PeerSession;
  return { peer, calls };
}

function watched(peer: PeerSession) {
  const bench = new ModelBench({ now: () => performance.now() });
  bench.sessions.push(peer);
  bench.model.sample();
  const watch = new PeerWatch(bench.model);
  closing.push(() => {
    watch.close();
    bench.model.close();
  });
  return bench;
}

describe('figures of a peer', () => {
  it('are taken as they are, without what is not asked for', () => {
    const sent = { ...FIGURES, lossRatio: 3, secret: 'x' };
    expect(decodeFigures(Buffer.from(JSON.stringify(sent)))).toEqual({ ...FIGURES, lossRatio: 1 });
    const hostile = { ...FIGURES, path: '\x1b[2Jpath' };
    expect(decodeFigures(Buffer.from(JSON.stringify(hostile))).path).toBe('�[2Jpath');
  });

  it.each([
    'null',
    '{',
    '[]',
    JSON.stringify({ ...FIGURES, bytesIn: -1 }),
    JSON.stringify({ ...FIGURES, rttMs: '6' }),
    JSON.stringify({ ...FIGURES, channels: null }),
    JSON.stringify({ ...FIGURES, lossRatio: 'x' }),
  ])('%s are a violation', (text) => {
    expect(thrown(() => decodeFigures(Buffer.from(text))).code).toBe('PROTOCOL');
  });
});

describe('asking', () => {
  it('begins when someone looks, and ends when nobody does', async () => {
    const { peer, calls } = session(async function* (signal) {
      yield Buffer.from(JSON.stringify(FIGURES));
      await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
    });
    const bench = watched(peer);
    const stop = bench.model.subscribe(() => undefined);
    expect(await eventually(() => calls.length === 1)).toBe(true);
    expect(await eventually(() => bench.snapshot().sessions[0]?.theirs?.channels === 5)).toBe(true);
    stop();
    expect(await eventually(() => calls[0]?.aborted === true)).toBe(true);
    expect(await eventually(() => bench.snapshot().sessions[0]?.theirs === undefined)).toBe(true);
  });

  it('is done once of a peer that does not tell', async () => {
    // biome-ignore lint/correctness/useYield: it refuses before it yields anything
    const { peer, calls } = session(async function* () {
      throw new Error('UNIMPLEMENTED');
    });
    const bench = watched(peer);
    let told = 0;
    bench.model.subscribe(() => {
      told += 1;
    });
    const news = setInterval(() => bench.model.note('news'), 100);
    closing.push(() => clearInterval(news));
    expect(await eventually(() => told >= 6, 10_000)).toBe(true);
    expect(calls).toHaveLength(1);
  });
});

it('tells a peer of its own sessions, and nothing when there is none', async () => {
  const { peer } = session(async function* () {});
  const bench = watched(peer);
  const ending = new AbortController();
  const method = statsMethods(bench.model, PEER)['stats.watch'];
  const items = method?.(new Uint8Array(), { signal: ending.signal }) as AsyncIterable<Uint8Array>;
  const first = await items[Symbol.asyncIterator]().next();
  expect(decodeFigures(first.value)).toMatchObject({ channels: 0, path: 'iroh-direct', rttMs: 1 });
  ending.abort();
  const other = statsMethods(bench.model, 'ff'.repeat(32))['stats.watch'];
  const nothing = other?.(new Uint8Array(), { signal: AbortSignal.abort() }) as AsyncIterable<Uint8Array>;
  expect((await nothing[Symbol.asyncIterator]().next()).done).toBe(true);
});
