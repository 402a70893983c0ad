import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { PeerSession } from '../../src/session/handshake.js';
import { Heartbeat } from '../../src/session/heartbeat.js';

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'performance', 'Date'] });
});

afterEach(() => {
  expect(vi.getTimerCount()).toBe(0);
  vi.useRealTimers();
});

/** A peer whose signs of life the test makes. */
function watch(options: { busy?: boolean; passive?: boolean; rttMs?: number } = {}) {
  const told: string[] = [];
  const session = { heard: 0, path: { rttMs: options.rttMs ?? 0 } };
  let asked = 0;
  const peer = {
    session,
    rpc: {
      call: async () => {
        asked += 1;
        return new Uint8Array();
      },
    },
  } as unknown as PeerSession;
  const heartbeat = new Heartbeat(peer, {
    busy: () => options.busy ?? false,
    passive: options.passive ?? false,
    onSuspect: (suspect) => told.push(suspect ? 'suspect' : 'fine'),
    onDead: () => told.push('dead'),
    onWake: () => told.push('awake'),
  });
  return { heartbeat, told, session, asked: () => asked, hear: () => (session.heard += 1) };
}

const pass = (ms: number) => vi.advanceTimersByTime(ms);

describe('a heartbeat', () => {
  it('asks nothing of a peer that is heard', () => {
    const { heartbeat, told, asked, hear } = watch({ busy: true });
    for (let i = 0; i < 40; i += 1) {
      hear();
      pass(250);
    }
    expect([asked(), told]).toEqual([0, []]);
    heartbeat.stop();
  });

  it('asks a silent one, suspects it, and knows it for dead within 5 s', () => {
    const { told, asked } = watch();
    pass(1500);
    expect([asked(), told]).toEqual([1, []]);
    pass(1000);
    expect(told).toEqual(['suspect']);
    pass(2000);
    expect(told).toEqual(['suspect', 'dead']);
  });

  it('asks sooner while something waits for the peer, and later where the other side is the one to ask', () => {
    const busy = watch({ busy: true });
    const passive = watch({ passive: true });
    pass(500);
    expect([busy.asked(), passive.asked()]).toEqual([1, 0]);
    pass(2500);
    expect(passive.asked()).toBe(1);
    busy.heartbeat.stop();
    passive.heartbeat.stop();
  });

  it('takes any sign of life for an answer', () => {
    const { heartbeat, told, hear } = watch();
    pass(2500);
    hear();
    pass(250);
    expect(told).toEqual(['suspect', 'fine']);
    heartbeat.stop();
  });

  it('waits four round trips on a slow path before it suspects', () => {
    const { heartbeat, told } = watch({ rttMs: 600 });
    pass(1500 + 2250);
    expect(told).toEqual([]);
    pass(250);
    expect(told).toEqual(['suspect']);
    heartbeat.stop();
  });

  it('asks anew after this process was asleep, and takes nothing for dead that it could not have heard', () => {
    const { heartbeat, told, asked } = watch();
    pass(250);
    // Stopped or suspended: time passed, and no timer ran.
    vi.setSystemTime(Date.now() + 60_000);
    pass(250);
    expect([asked(), told]).toEqual([1, ['awake']]);
    pass(4250);
    expect(told).toEqual(['awake', 'suspect']);
    pass(250);
    expect(told).toEqual(['awake', 'suspect', 'dead']);
    heartbeat.stop();
  });
});
