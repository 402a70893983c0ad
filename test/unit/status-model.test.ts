/** The status model: what it counts, what it smooths, and what it keeps. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterEach, describe, expect, it } from 'vitest';
import type { PeerSession } from '../../src/session/handshake.js';
import { Rate, SecondsHistory, sampleWeight } from '../../src/tunnel/status-rates.js';
import { ModelBench, PEER } from '../support/figures.js';
import { checkLeaks } from '../support/leaks.js';

checkLeaks();

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

const benches: ModelBench[] = [];

function bench(...args: ConstructorParameters<typeof ModelBench>): ModelBench {
  const one = new ModelBench(...args);
  benches.push(one);
  return one;
}

afterEach(() => {
  for (const { model } of benches.splice(0)) model.close();
});

describe('rates', () => {
  it('come to what flows steadily, whatever the pace of the samples', () => {
    for (const pace of [250, 1000, 1700]) {
      const rate = new Rate();
      for (let now = 0; now < 20_000; now += pace) rate.sample(pace * 5, pace, sampleWeight(pace));
      expect(rate.perSecond).toBeGreaterThan(4950);
      expect(rate.perSecond).toBeLessThanOrEqual(5000);
    }
  });

  it('are nothing at all after 4 s of silence', () => {
    const rate = new Rate();
    rate.sample(1e9, 1000, sampleWeight(1000));
    for (let now = 0; now < 3900; now += 300) rate.sample(0, 300, sampleWeight(300));
    expect(rate.perSecond).toBeGreaterThan(0);
    rate.sample(0, 300, sampleWeight(300));
    expect(rate.perSecond).toBe(0);
  });

  it('leave a history of whole seconds, sixty at most', () => {
    const history = new SecondsHistory();
    for (let second = 1; second <= 70; second += 1) {
      for (let part = 0; part < 4; part += 1) history.add(second * 25, second, 250);
    }
    const { in: received, out } = history.snapshot();
    expect(received).toHaveLength(60);
    expect(received[0]).toBe(1100);
    expect(received.at(-1)).toBe(7000);
    expect(out.at(-1)).toBe(280);
  });

  it('fill a gap of the clock with its mean, and no more than a minute of it', () => {
    const history = new SecondsHistory();
    history.add(3000, 0, 3000);
    expect(history.snapshot().in).toEqual([1000, 1000, 1000]);
    history.add(1_000_000, 0, 1_000_000);
    expect(history.snapshot().in).toEqual(Array.from({ length: 60 }, () => 1000));
  });
});

describe('channels', () => {
  it('count for their tunnel and the totals, those that ended between two samples too', () => {
    const model = bench();
    model.listening('127.0.0.1:1');
    model.listening('127.0.0.1:2');
    const first = model.open(1);
    model.open(2, { local: '127.0.0.1:2', bytesIn: 7, bytesOut: 9 });
    model.close(2, 'reset');
    first.bytesIn = 1000;
    model.after(1000);
    const { tunnels, totals, closed, events } = model.snapshot();
    expect(tunnels).toMatchObject([
      { local: '127.0.0.1:1', open: 1, total: 1, bytesIn: 1000, bytesOut: 0 },
      { local: '127.0.0.1:2', open: 0, total: 1, bytesIn: 7, bytesOut: 9 },
    ]);
    expect(totals).toMatchObject({ channelsOpen: 1, channelsTotal: 2, bytesIn: 1007, bytesOut: 9 });
    expect(closed).toMatchObject([{ id: 2, state: 'closed', reason: 'reset', bytesIn: 7 }]);
    expect(events.at(-1)?.text).toBe('a channel of db ended: reset');
  });

  it('are sorted, turned round, filtered and cut as asked', () => {
    const model = bench();
    for (let id = 1; id <= 5; id += 1) {
      const figures = model.open(id, { service: id === 3 ? 'web' : 'db' });
      figures.bytesOut = id === 2 ? 900 : id;
    }
    model.after(1000);
    const ids = (query: Parameters<ModelBench['snapshot']>[0]) =>
      model.snapshot(query).channels.map(({ id }) => id);
    expect(ids({ sort: 'rate' })).toEqual([2, 5, 4, 3, 1]);
    expect(ids({ sort: 'rate', limit: 2 })).toEqual([2, 5]);
    expect(ids({ sort: 'bytes', reverse: true })).toEqual([1, 3, 4, 5, 2]);
    expect(ids({ sort: 'age' })).toEqual([1, 2, 3, 4, 5]);
    expect(ids({ filter: 'WEB' })).toEqual([3]);
    expect(ids({ filter: '40004' })).toEqual([4]);
    expect(model.snapshot({ filter: 'db', limit: 1 })).toMatchObject({ matching: 4, channels: [{ id: 5 }] });
    model.close(5);
    expect(ids({ sort: 'id' })).toEqual([4, 3, 2, 1]);
  });

  it.each(['rate', 'service', 'age'] as const)('cut short are the first of all by %s', (sort) => {
    const model = bench();
    for (let id = 1; id <= 100; id += 1) {
      model.open(id, { service: `s${(id * 37) % 10}` }).bytesIn = (id * 7919) % 60;
    }
    model.after(1000);
    for (const reverse of [false, true]) {
      const all = model.snapshot({ sort, reverse }).channels;
      expect(all).toHaveLength(100);
      for (const limit of [0, 1, 7, 30, 99, 100, 101]) {
        const { channels, matching } = model.snapshot({ sort, reverse, limit });
        expect(channels).toEqual(all.slice(0, limit));
        expect(matching).toBe(100);
      }
    }
  });

  it('keep the last 64 that ended', () => {
    const model = bench();
    for (let id = 1; id <= 100; id += 1) {
      model.open(id);
      model.close(id);
    }
    const { closed } = model.snapshot();
    expect(closed.map(({ id }) => id)).toEqual(Array.from({ length: 64 }, (_, index) => index + 37));
  });

  it('let go of the others, also when nobody ever looks', async () => {
    const model = bench();
    const figures: WeakRef<object>[] = [];
    for (let id = 1; id <= 1000; id += 1) {
      figures.push(new WeakRef(model.open(id)));
      model.close(id);
    }
    // What a WeakRef was made of lives until the end of the turn.
    await new Promise((resolve) => setImmediate(resolve));
    collectGarbage();
    expect(figures.filter((one) => one.deref()).length).toBeLessThanOrEqual(160);
  });

  it('are reset by the source alone', () => {
    const model = bench();
    model.open(7);
    expect(model.model.resetChannel(7)).toBe(true);
    expect(model.model.resetChannel(8)).toBe(false);
    expect(model.resets).toEqual([7, 8]);
  });

  it('a snapshot never changes afterwards', () => {
    const model = bench();
    model.listening('127.0.0.1:1');
    const figures = model.open(1);
    model.after(1000);
    const before = model.snapshot();
    const copy = structuredClone(before);
    figures.bytesIn = 5_000_000;
    model.open(2);
    model.close(1, 'reset');
    model.model.observe({ event: 'session', peer: PEER as never, state: 'connecting' });
    model.after(3000);
    expect(before).toEqual(copy);
  });
});

describe('peers', () => {
  const error = { code: 'SESSION_LOST' as const, message: 'the session ended: timed out' };

  it('without a session say since when, why, and when the next try is', () => {
    const model = bench();
    const peer = PEER as never;
    model.model.observe({ event: 'session', peer, state: 'reconnecting', error, nextTryMs: 60_000 });
    const [first] = model.snapshot().sessions;
    expect(first).toMatchObject({ state: 'reconnecting', error, channels: 0 });
    expect(Date.parse(first?.nextTryAt ?? '')).toBeGreaterThan(Date.now() + 50_000);
    model.model.observe({ event: 'session', peer, state: 'reconnecting', error, nextTryMs: 1 });
    expect(model.snapshot().sessions[0]?.since).toBe(first?.since);
    model.model.observe({ event: 'session', peer, state: 'connected', path: 'iroh-direct', rttMs: 1 });
    expect(model.snapshot().sessions).toEqual([]);
  });

  it('keep their key when their session is another one, and while there is none', () => {
    const model = bench();
    const connect = () => {
      model.sessions.push({
        peer: PEER,
        session: {
          path: { kind: 'iroh-direct', remote: '192.0.2.7:1', rttMs: 3 },
          stats: () => ({ rttMs: 3, bytesSent: 0, bytesReceived: 0, packetsSent: 0, packetsLost: 0 }),
        },
      } as unknown as PeerSession);
      model.after(1000);
    };
    const keys = () => model.snapshot().sessions.map(({ key }) => key);
    connect();
    const [key] = keys();
    connect();
    expect(keys()).toEqual([key, expect.not.stringMatching(`^${key}$`)]);
    model.sessions.splice(0, 2);
    model.after(1000);
    expect(keys()).toEqual([]);
    model.model.observe({ event: 'session', peer: PEER as never, state: 'reconnecting', error });
    expect(keys()).toEqual([key]);
    model.model.observe({ event: 'session', peer: PEER as never, state: 'connected' });
    connect();
    expect(keys()).toEqual([key]);
  });

  it('that do not answer are shown as reconnecting, with the reason, before the session is given up', () => {
    const model = bench();
    const session = {
      peer: PEER,
      session: {
        path: { kind: 'iroh-direct', remote: '192.0.2.7:1', rttMs: 3 },
        stats: () => ({ rttMs: 3, bytesSent: 0, bytesReceived: 0, packetsSent: 0, packetsLost: 0 }),
      },
    } as unknown as PeerSession;
    model.sessions.push(session);
    model.after(1000);
    const told = () => model.snapshot().sessions.map(({ state, error: why }) => [state, why?.message]);
    model.model.peerSilent(session, 2200);
    expect(told()).toEqual([['reconnecting', 'no answer for 2 s']]);
    const since = model.snapshot().sessions[0]?.since ?? '';
    expect(Date.now() - Date.parse(since)).toBeGreaterThanOrEqual(2200);
    model.model.peerSilent(session, undefined);
    expect(told()).toEqual([['connected', undefined]]);
    // Given up, it has been down for as long.
    model.model.peerSilent(session, 4500);
    model.model.observe({ event: 'session', peer: PEER as never, state: 'reconnecting', error });
    model.sessions.pop();
    model.after(1000);
    expect(told()).toEqual([['reconnecting', error.message]]);
    expect(Date.now() - Date.parse(model.snapshot().sessions[0]?.since ?? '')).toBeGreaterThanOrEqual(4500);
  });

  it('with one show its path, its rates, and what is lost lately', () => {
    const model = bench();
    const stats = { rttMs: 3.25, bytesSent: 0, bytesReceived: 0, packetsSent: 0, packetsLost: 0 };
    model.sessions.push({
      peer: PEER,
      session: { path: { kind: 'iroh-direct', remote: '192.0.2.7:1', rttMs: 3 }, stats: () => stats },
    } as unknown as PeerSession);
    model.open(1);
    for (let second = 0; second < 30; second += 1) {
      Object.assign(stats, { packetsSent: stats.packetsSent + 100, packetsLost: stats.packetsLost + 2 });
      stats.bytesReceived += 8000;
      model.after(1000);
    }
    expect(model.snapshot().sessions).toMatchObject([
      {
        state: 'connected',
        remote: '192.0.2.7:1',
        rttMs: 3.25,
        lossRatio: 0.02,
        channels: 1,
        bytesIn: 240_000,
      },
    ]);
    expect(model.snapshot().sessions[0]?.rateIn).toBeGreaterThan(7900);
    for (let second = 0; second < 90; second += 1) {
      stats.packetsSent += 100;
      model.after(1000);
    }
    expect(model.snapshot().sessions[0]?.lossRatio).toBe(0);
  });
});

describe('events', () => {
  it('alike in a row are one with a count, and five hundred are kept', () => {
    const model = bench();
    const error = (message: string) => model.model.observe({ event: 'error', code: 'REFUSED', message });
    error('the target refused');
    const [first] = model.snapshot().events;
    for (let count = 1; count < 3; count += 1) error('the target refused');
    // Who looks at it goes on looking at it.
    expect(model.snapshot().events).toMatchObject([{ level: 'error', count: 3, seq: first?.seq }]);
    for (let count = 0; count < 600; count += 1) error(`number ${count}`);
    const { events } = model.snapshot();
    expect(events).toHaveLength(500);
    expect(events.at(-1)?.text).toBe('REFUSED number 599');
  });

  it('have nothing in them that a terminal obeys', () => {
    const model = bench();
    model.model.observe({ event: 'error', code: 'DENIED', message: 'a\x1b[2Jb\u202ec\nd' });
    expect(model.snapshot().events[0]?.text).toBe('DENIED a�[2Jb�c�d');
  });
});

describe('the clock', () => {
  it('tells who looks at most four times a second, and stops with the model', async () => {
    const model = bench({ now: () => performance.now() });
    let told = 0;
    const started = performance.now();
    // News at every turn of the loop.
    const news = setInterval(() => model.model.note(`news ${told}`), 1);
    await new Promise<void>((resolve) => {
      model.model.subscribe(() => {
        told += 1;
        if (told === 5) resolve();
      });
    });
    clearInterval(news);
    expect(performance.now() - started).toBeGreaterThan(4 * 250 - 20);
    model.model.close();
  });
});
