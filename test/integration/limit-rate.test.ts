/** Limits of bytes a second on real sockets: nothing is lost or cut off, and small traffic does not wait. */
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import type { TunnelEvent } from '../../src/tunnel/events.js';
import { Forward } from '../../src/tunnel/forward.js';
import { Rates } from '../../src/tunnel/rates.js';
import { AT_ONCE_MS } from '../support/at-once.js';
import { eventually } from '../support/eventually.js';
import { checkLeaks } from '../support/leaks.js';
import { MemoryNetwork } from '../support/memory-network.js';
import { dial, endOf, listen, random, readAll, sha256, writeAll } from '../support/sockets.js';
import { echo as echoPacket, UdpTunnel, udpPeer, udpService } from '../support/udp.js';

const MIB = 1024 * 1024;
const open: { close(): unknown }[] = [];

checkLeaks();
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.close();
});

const all = (bytesPerSecond: number) => new Rates([{ scope: 'all', name: '', bytesPerSecond }]);

async function tunnel(
  onConnection: (socket: Socket) => void,
  { near, far }: { near?: Rates; far?: Rates },
): Promise<{ port: number; network: MemoryNetwork; events: TunnelEvent[] }> {
  const target = await listen(onConnection);
  open.push(target);
  const network = new MemoryNetwork({ svc: target.port }, far ? { rates: far } : {});
  open.push(network);
  const events: TunnelEvent[] = [];
  const forward = await Forward.start({
    identity: network.client,
    peer: network.identity.nodeId,
    ways: [network.way],
    token: network.token,
    specs: [{ local: { kind: 'socket', host: '127.0.0.1', port: 0 }, service: 'svc', protocol: 'tcp' }],
    report: (event) => events.push(event),
    rates: near,
  });
  open.push({ close: () => forward.close(0) });
  await eventually(
    async () => events.some((event) => event.event === 'session' && event.state === 'connected'),
    5000,
  );
  const { local } = events.find(({ event }) => event === 'listening') as { local: string };
  return { port: Number(local.replace(/^.*:/, '')), network, events };
}

/** Round trips of one byte, milliseconds, the slowest first. */
async function roundTrips(socket: Socket, count: number): Promise<number[]> {
  const times: number[] = [];
  for (let i = 0; i < count; i += 1) {
    const startedAt = performance.now();
    socket.write('x');
    await once(socket, 'data');
    times.push(performance.now() - startedAt);
  }
  return times.sort((a, b) => b - a);
}

describe.each([
  ['near', { near: all(4 * MIB) }],
  ['far', { far: all(4 * MIB) }],
])('with a limit on the %s side', (_side, rates) => {
  it('an echo arrives whole, in its time, and ends as it should', async () => {
    const { port, events } = await tunnel((socket) => socket.pipe(socket), rates);
    const data = random(6 * MIB);
    const app = await dial(port);
    const whole = readAll(app);
    const startedAt = performance.now();
    await writeAll(app, data);
    app.end();
    expect(await whole).toEqual({ ending: 'end', bytes: data.length, sha256: sha256(data) });
    const seconds = (performance.now() - startedAt) / 1000;
    // Both directions run beside each other, each at 4 MiB/s, behind a first burst.
    expect(seconds).toBeGreaterThan(1.3);
    expect(seconds).toBeLessThan(4);
    app.destroy();
    await eventually(async () => events.some(({ event }) => event === 'channel.close'), 5000);
    expect(events.find(({ event }) => event === 'channel.close')).toMatchObject({ reason: 'eos' });
  });

  it('a reset passes at once, whatever waits', async () => {
    const arrived: Socket[] = [];
    const { port } = await tunnel((socket) => {
      socket.resume();
      arrived.push(socket);
    }, rates);
    const app = await dial(port);
    void writeAll(app, random(8 * MIB));
    await eventually(async () => arrived.length === 1, 5000);
    const ending = endOf(arrived[0] as Socket);
    const startedAt = performance.now();
    app.resetAndDestroy();
    expect(await ending).toBe('reset');
    expect(performance.now() - startedAt).toBeLessThan(AT_ONCE_MS);
  });

  it('a byte beside a bulk transfer does not wait for it', async () => {
    const { port } = await tunnel((socket) => socket.pipe(socket), rates);
    const bulk = await dial(port);
    bulk.resume();
    const ended = endOf(bulk);
    void writeAll(bulk, random(40 * MIB));
    await once(bulk, 'data');
    const app = await dial(port);
    await roundTrips(app, 5);
    const times = await roundTrips(app, 100);
    // Behind what waits of the bulk they would all be seconds.
    expect(times[50]).toBeLessThan(500);
    app.destroy();
    bulk.resetAndDestroy();
    await ended;
  });
});

describe('UDP above the rate', () => {
  it('is dropped and counted for that reason, and passes again below it', async () => {
    const target = await udpPeer({ answer: echoPacket });
    open.push(target);
    const udp = new UdpTunnel({ services: [udpService('svc', target.port)], nearRates: all(50_000) });
    open.push(udp);
    const entry = await udp.entries.listen({ kind: 'socket', host: '127.0.0.1', port: 0 }, 'svc');
    await udp.connect();
    const app = await udpPeer({ connectTo: Number(entry.local.replace(/^.*:/, '')) });
    open.push(app);
    const packet = Buffer.alloc(1000);
    for (let i = 0; i < 200; i += 1) await app.send(packet);
    await eventually(async () => app.received.length >= 60, 5000);
    await new Promise<void>((resolve) => {
      const again = async () => {
        const before = app.received.length;
        await app.send(Buffer.from('small'));
        setTimeout(() => (app.received.length > before ? resolve() : void again()), 100);
      };
      void again();
    });
    await udp.entries.close();
    const near = await udp.near.one('channel.close');
    const dropped = near.dropped?.['rate-limit'] ?? 0;
    expect(dropped).toBeGreaterThan(80);
    expect(near.packetsOut).toBeLessThan(120);
  });
});
