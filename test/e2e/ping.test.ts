/** `tunnel ping`: what a script relies on. */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Identity } from '../../src/session/identity.js';
import { shortNodeId } from '../../src/session/node-id.js';
import { type JsonEvent, Machine, type TunnelProcess } from '../support/tunnel-process.js';

let far: Machine;
let near: Machine;

beforeEach(() => {
  far = new Machine();
  near = new Machine();
});

afterEach(async () => {
  await near.dispose();
  await far.dispose();
});

const named = ({ events }: TunnelProcess, name: string) => events.filter(({ event }) => event === name);
const keys = (event: JsonEvent | undefined) => Object.keys(event ?? {}).sort();

describe('tunnel ping', () => {
  it('ends with the first answer on a direct path', async () => {
    const { ticket } = await far.expose('8080');
    const ping = near.start('ping', ticket);
    expect(await ping.exited).toBe(0);
    const [first, ...more] = named(ping, 'ping');
    expect(more).toEqual([]);
    expect(keys(first)).toEqual(['event', 'path', 'remote', 'rttMs', 'seq', 'time']);
    expect(first).toMatchObject({ seq: 1, path: 'iroh-direct', rttMs: expect.any(Number) });
    const summary = ping.events.at(-1);
    expect(keys(summary)).toEqual(['direct', 'event', 'received', 'rttMs', 'sent', 'time']);
    expect(summary).toMatchObject({ event: 'summary', sent: 1, received: 1, direct: true });
    const rttMs = first?.rttMs as number;
    expect(rttMs).toBeGreaterThan(0);
    expect(summary?.rttMs).toEqual({ min: rttMs, p50: rttMs, max: rttMs });
  });

  it('sends as many as it is told, at the pace it is told', async () => {
    const { ticket } = await far.expose('8080');
    const ping = near.start('ping', ticket, '--count', '5', '--interval', '100ms');
    expect(await ping.exited).toBe(0);
    const pings = named(ping, 'ping');
    expect(pings.map(({ seq }) => seq)).toEqual([1, 2, 3, 4, 5]);
    const [first, last] = [pings[0], pings[4]].map(
      (one) => Date.parse(one?.time as string) - (one?.rttMs as number),
    );
    expect((last as number) - (first as number), 'from the first sent to the last').toBeGreaterThan(350);
    const rtts = pings.map(({ rttMs }) => rttMs as number).sort((a, b) => a - b);
    expect(ping.events.at(-1)?.rttMs).toEqual({ min: rtts[0], p50: rtts[2], max: rtts[4] });
  });

  it('goes over WebTransport where it is told to', async () => {
    const { ticket } = await far.expose('8080', '--webtransport', '127.0.0.1:0');
    const ping = near.start('ping', ticket, '--via', 'webtransport');
    expect(await ping.exited).toBe(0);
    expect(named(ping, 'ping')[0]?.path).toMatch(/^webtransport-h[23]$/);
  });

  it('prints its summary when it is interrupted, and ends with 130', async () => {
    const { ticket } = await far.expose('8080');
    const ping = near.start('ping', ticket, '--count', '1000', '--interval', '20ms');
    await ping.event('ping', { seq: 3 });
    ping.kill('SIGINT');
    expect(await ping.exited).toBe(130);
    const summary = ping.events.at(-1);
    expect(summary).toMatchObject({ event: 'summary', direct: true });
    expect(summary?.received).toBe(named(ping, 'ping').length);
  });

  it('counts what was not answered in time', async () => {
    const { process: expose, ticket } = await far.expose('8080');
    const ping = near.start('ping', ticket, '--count', '3', '--interval', '10ms', '--timeout', '2s');
    await ping.event('ping', { seq: 1 });
    expose.kill('SIGSTOP');
    const late = await ping.event('error', { code: 'TIMEOUT' });
    expect(late.message).toContain('within 2 s');
    expose.kill('SIGCONT');
    expect(await ping.exited).toBe(0);
    const { sent, received } = ping.events.at(-1) as JsonEvent;
    expect(sent).toBe(3);
    expect(received).toBe(named(ping, 'ping').length);
    expect(received).toBeLessThan(3);
  });

  it('69 for a peer that is not there, within the time it is given', async () => {
    const { process: expose, ticket } = await far.expose('8080');
    expose.kill('SIGKILL');
    await expose.exited;
    const ping = near.start('ping', ticket, '--timeout', '1500ms');
    expect(await ping.exited).toBe(69);
    expect(ping.events).toHaveLength(1);
    expect(ping.events[0]).toMatchObject({ event: 'error', code: 'UNREACHABLE', hint: expect.any(String) });
  });

  it('69 for a node ID of which nothing is known, naming it and what tells more', async () => {
    const { nodeId } = Identity.generate();
    const ping = near.start('ping', nodeId);
    expect(await ping.exited).toBe(69);
    expect(ping.events).toEqual([
      expect.objectContaining({
        event: 'error',
        code: 'UNREACHABLE',
        message: expect.stringContaining(`${shortNodeId(nodeId)} cannot be reached: `),
        hint: expect.stringContaining('tunnel doctor --peer'),
      }),
    ]);
  });

  it('69, with what was measured, when the session breaks in between', async () => {
    const { process: expose, ticket } = await far.expose('8080');
    const ping = near.start('ping', ticket, '--count', '1000', '--interval', '50ms', '--timeout', '30s');
    await ping.event('ping', { seq: 2 });
    expose.kill('SIGKILL');
    expect(await ping.exited).toBe(69);
    expect(named(ping, 'summary')[0]?.received).toBeGreaterThanOrEqual(2);
    expect(ping.events.at(-1)).toMatchObject({ event: 'error', code: 'SESSION_LOST' });
  });

  it('77 for a peer that does not let this side in', async () => {
    const { ticket } = await far.expose('8080');
    const ping = near.start('ping', ticket.replace(/token=[^&]*/, `token=${'A'.repeat(22)}`));
    expect(await ping.exited).toBe(77);
    expect(ping.events.at(-1)).toMatchObject({ event: 'error', code: 'DENIED' });
  });

  it('130 while it is still connecting', async () => {
    const silent = createSocket('udp4').bind(0, '127.0.0.1');
    await once(silent, 'listening');
    const addr = `127.0.0.1:${silent.address().port}`;
    const ping = near.startPlain(
      'ping',
      `tunnel://${Identity.generate().nodeId}?addr=${addr}&token=${'A'.repeat(22)}`,
    );
    await once(silent, 'message');
    ping.kill('SIGINT');
    expect(await ping.exited).toBe(130);
    expect(ping.stdout).toBe('0 sent, 0 received\n');
    silent.close();
  });

  it.each([
    ["'0'", ['--count', '0']],
    ["'soon'", ['--interval', 'soon']],
    ["'1ms'", ['--interval', '1ms']],
    ["'0'", ['--timeout', '0']],
  ])('64 for %s', async (token, args) => {
    const { code, stderr } = await near.run('ping', 'ab'.repeat(32), ...args);
    expect(code).toBe(64);
    expect(stderr).toContain(token);
  });
});
