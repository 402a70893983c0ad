import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { eventLine, jsonOutput } from '../../src/cli/output.js';
import type { TunnelEvent } from '../../src/tunnel/events.js';

describe('an event as a line', () => {
  it.each([
    { event: 'ready' },
    { event: 'listening', local: '127.0.0.1:1' },
    { event: 'odd", "name', text: '{"event":"ready"' },
    { local: 'first', event: 'later' },
  ])('%j has the time, and all it had', (event) => {
    const before = Date.now();
    const { time, ...rest } = JSON.parse(eventLine(event));
    expect(rest).toEqual(event);
    expect(Date.parse(time)).toBeGreaterThanOrEqual(before);
  });

  it('names itself first', () => {
    const event = { event: 'listening', local: 'here' };
    expect(eventLine(event)).toMatch(/^\{"event":"listening","time":"[^"]+","local":"here"\}$/);
  });
});

describe('JSON lines', () => {
  const log = { toFile: false, write: () => undefined, close: () => undefined } as never;
  let writes: string[];

  beforeEach(() => {
    vi.useFakeTimers();
    writes = [];
    vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
      writes.push(String(text));
      return true;
    });
  });

  afterEach(() => {
    vi.useRealTimers();
    vi.restoreAllMocks();
  });

  const opened = (id: number) =>
    ({ event: 'channel.open', id, peer: 'p', service: 's', protocol: 'tcp', path: 'x' }) as TunnelEvent;
  const ids = () =>
    writes.map((text) =>
      text
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line).id),
    );

  it('of one turn go out at its end, those close behind together', async () => {
    const output = jsonOutput(log);
    output.report(opened(1));
    output.report(opened(2));
    expect(writes).toEqual([]);
    await vi.advanceTimersByTimeAsync(0);
    expect(ids()).toEqual([[1, 2]]);
    output.report(opened(3));
    await vi.advanceTimersByTimeAsync(4);
    output.report(opened(4));
    expect(ids()).toEqual([[1, 2]]);
    await vi.advanceTimersByTimeAsync(6);
    expect(ids()).toEqual([
      [1, 2],
      [3, 4],
    ]);
    await vi.advanceTimersByTimeAsync(100);
    output.report(opened(5));
    await vi.advanceTimersByTimeAsync(0);
    expect(ids().at(-1)).toEqual([5]);
  });

  it('are all out once it is closed', async () => {
    const output = jsonOutput(log);
    output.report(opened(1));
    await vi.advanceTimersByTimeAsync(0);
    output.report(opened(2));
    output.close();
    expect(ids()).toEqual([[1], [2]]);
  });

  it('have no token in them', () => {
    const output = jsonOutput(log);
    output.report({
      event: 'error',
      code: 'USAGE',
      message: "'tunnel://x?token=secret' is no ticket",
    } as TunnelEvent);
    output.close();
    expect(writes.join('')).toContain('token=…');
    expect(writes.join('')).not.toContain('secret');
  });
});
