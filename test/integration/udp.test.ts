/** UDP flows between real sockets, over sessions in memory that lose, reorder, repeat and end on demand. */
import { randomBytes } from 'node:crypto';
import { lookup } from 'node:dns/promises';
import { once } from 'node:events';
import { afterEach, describe, expect, it } from 'vitest';
import { decodeBody, encodeWhole, flowOf } from '../../src/tunnel/fragment.js';
import type { Service } from '../../src/tunnel/spec.js';
import { eventually } from '../support/eventually.js';
import { checkLeaks } from '../support/leaks.js';
import { ticks } from '../support/ticks.js';
import { echo, type UdpPeer, UdpTunnel, type UdpTunnelOptions, udpPeer, udpService } from '../support/udp.js';

/** What a datagram of the memory engine holds. */
const MAX = 1200;

checkLeaks();
const open: { close(): unknown }[] = [];
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.close();
});

async function peer(options: Parameters<typeof udpPeer>[0] = {}): Promise<UdpPeer> {
  const made = await udpPeer(options);
  open.push(made);
  return made;
}

async function tunnelTo(
  port: number,
  options: Partial<UdpTunnelOptions> & { readonly host?: string; readonly listen?: string } = {},
): Promise<{ tunnel: UdpTunnel; port: number }> {
  const tunnel = new UdpTunnel({ services: [udpService('svc', port, options.host)], ...options });
  open.push(tunnel);
  const local = { kind: 'socket', host: options.listen ?? '127.0.0.1', port: 0 } as const;
  const entry = await tunnel.entries.listen(local, 'svc');
  await tunnel.connect();
  return { tunnel, port: Number(entry.local.replace(/^.*:/, '')) };
}

/** Until both sides have reported the flow's end. */
async function ended(tunnel: UdpTunnel) {
  await tunnel.entries.close();
  const [near, far] = [await tunnel.near.one('channel.close'), await tunnel.far.one('channel.close')];
  return { near, far };
}

const sum = (drops: Readonly<Record<string, number>> | undefined, ...but: string[]) =>
  Object.entries(drops ?? {}).reduce((total, [why, count]) => total + (but.includes(why) ? 0 : count), 0);

describe('a UDP flow', () => {
  it('carries packets of every size from 0 to 65,507 bytes there and back', async () => {
    const target = await peer({ answer: echo });
    const { tunnel, port } = await tunnelTo(target.port);
    const app = await peer({ connectTo: port });
    const room = MAX - 11;
    const sizes = [
      0,
      1,
      2,
      511,
      512,
      513,
      MAX - 6,
      MAX - 5,
      MAX - 4,
      MAX,
      MAX + 1,
      1472,
      1473,
      4096,
      9012,
      9013,
    ];
    for (const count of [2, 3, 17, 54]) sizes.push(count * room - 1, count * room, count * room + 1);
    sizes.push(32_768, 65_506, 65_507);
    for (let size = 700; size < 65_507; size += 1999) sizes.push(size);
    for (const size of sizes) {
      const payload = randomBytes(size);
      const answered = once(app.socket, 'message');
      await app.send(payload);
      const [answer] = (await answered) as [Buffer];
      expect(answer.equals(payload), `${size} bytes`).toBe(true);
    }
    const { near, far } = await ended(tunnel);
    const bytes = sizes.reduce((a, b) => a + b, 0);
    const counts = {
      packetsIn: sizes.length,
      packetsOut: sizes.length,
      bytesIn: bytes,
      bytesOut: bytes,
      dropped: {},
      lostIn: 0,
      lostOut: 0,
    };
    expect(near).toMatchObject({ protocol: 'udp', service: 'svc', reason: 'shutdown', ...counts });
    expect(far).toMatchObject({ protocol: 'udp', service: 'svc', reason: 'closed', ...counts });
  });

  it('delivers each packet intact or counts it, under 10 % loss, reordering and duplicates', async () => {
    const target = await peer();
    let whole = 0;
    let touched = 0;
    /** Packets of which something was sent, and those of which something arrived. */
    const sent = new Set<string>();
    const arrived = new Set<string>();
    const name = (datagram: Uint8Array) => {
      const body = decodeBody(Buffer.from(datagram));
      return body === undefined || Buffer.isBuffer(body)
        ? `whole ${Buffer.from(datagram).toString('hex', 5, 13)}`
        : `fragments ${body.packet}`;
    };
    const shapeDatagrams = (datagrams: readonly Uint8Array[]) => {
      const out: Uint8Array[] = [];
      for (const datagram of datagrams) {
        sent.add(name(datagram));
        if (Math.random() < 0.1) continue;
        arrived.add(name(datagram));
        // Whole packets that come twice are delivered twice, as UDP does; QUIC makes no duplicates.
        const isFragment = datagram[0] === 2;
        out.splice(Math.floor(Math.random() * (out.length + 1)), 0, datagram);
        if (isFragment && Math.random() < 0.05) out.push(datagram);
        if (!isFragment) whole += 1;
        touched += 1;
      }
      return out;
    };
    const { tunnel, port } = await tunnelTo(target.port, { memory: { shapeDatagrams } });
    const app = await peer({ connectTo: port });
    const sizes = [8, 64, 900, 1195, 1196, 3000, 8000];
    const payloads = new Map<string, Buffer>();
    const COUNT = 1500;
    for (let i = 0; i < COUNT; i += 1) {
      const payload = randomBytes(sizes[i % sizes.length] as number);
      payloads.set(payload.toString('hex', 0, 8), payload);
      await app.send(payload);
      if (i % 20 === 19) await ticks(3);
    }
    await ticks(50);
    const { near, far } = await ended(tunnel);
    expect(near.packetsOut).toBe(COUNT);
    expect(sent.size).toBe(COUNT);
    expect(touched).toBeGreaterThan(whole);
    // Every packet is accounted for, and by the right reason.
    expect(far.packetsIn).toBe(target.received.length);
    expect(near.lostOut).toBe(COUNT - arrived.size);
    expect(COUNT).toBe(target.received.length + (near.lostOut ?? 0) + sum(far.dropped, 'duplicate'));
    // Incomplete ones are given up when their time, or their room, is over.
    expect(sum(far.dropped, 'duplicate')).toBeGreaterThan(50);
    expect(far.dropped?.duplicate).toBeGreaterThan(10);
    expect(Object.keys(far.dropped ?? {}).sort()).toEqual([
      'duplicate',
      'reassembly-full',
      'reassembly-timeout',
    ]);
    for (const payload of target.received) {
      expect(payloads.get(payload.toString('hex', 0, 8))?.equals(payload)).toBe(true);
    }
    expect(target.received.length).toBeGreaterThan(COUNT / 3);
  });

  it('keeps its source port at the target over a cut, and sends nothing later that came without a path', async () => {
    const target = await peer({ answer: echo });
    const { tunnel, port } = await tunnelTo(target.port);
    const app = await peer({ connectTo: port });
    await app.send(Buffer.from('before'));
    await once(app.socket, 'message');
    tunnel.pair?.cut();
    await ticks();
    for (let i = 0; i < 5; i += 1) await app.send(Buffer.from(`lost ${i}`));
    const source = target.sources[0] as number;
    for (let i = 0; i < 3; i += 1) target.socket.send('lost too', source, '127.0.0.1');
    const dropped = () =>
      [tunnel.entries.totals()[0], tunnel.exits.totals()[0]].map((one) => one?.counters.dropped);
    expect(await eventually(() => sum(dropped()[0]) === 5 && sum(dropped()[1]) === 3)).toBe(true);
    expect(dropped()).toEqual([{ 'no-path': 5 }, { 'no-path': 3 }]);
    await tunnel.connect();
    // First from the target's side: the flow is there again without a word from the application.
    await ticks();
    target.socket.send('from the target', source, '127.0.0.1');
    const [first] = (await once(app.socket, 'message')) as [Buffer];
    expect(first.toString()).toBe('from the target');
    await app.send(Buffer.from('after'));
    await once(app.socket, 'message');
    expect(target.received.map(String)).toEqual(['before', 'after']);
    expect(new Set(target.sources).size).toBe(1);
    expect(tunnel.near.all('channel.open')).toHaveLength(1);
    expect(tunnel.far.all('channel.open')).toHaveLength(1);
  });

  it('is another one after the far process was restarted', async () => {
    const target = await peer({ answer: echo });
    const { tunnel, port } = await tunnelTo(target.port);
    const app = await peer({ connectTo: port });
    await app.send(Buffer.from('one'));
    await once(app.socket, 'message');
    tunnel.pair?.cut();
    tunnel.restartFar();
    await tunnel.connect({}, 'f'.repeat(32));
    expect(await tunnel.near.one('channel.close')).toMatchObject({ reason: 'peer-restarted' });
    await app.send(Buffer.from('two'));
    await once(app.socket, 'message');
    expect(new Set(target.sources).size).toBe(2);
  });

  it('is another one where the far side has given it up meanwhile', async () => {
    const target = await peer({ answer: echo });
    const { tunnel, port } = await tunnelTo(target.port);
    const app = await peer({ connectTo: port });
    await app.send(Buffer.from('one'));
    await once(app.socket, 'message');
    tunnel.pair?.cut();
    tunnel.restartFar();
    await tunnel.connect();
    expect(await tunnel.near.one('channel.close')).toMatchObject({ reason: 'closed' });
    await app.send(Buffer.from('two'));
    await once(app.socket, 'message');
    expect(tunnel.errors).toEqual([]);
  });

  it('ends when it was idle, counted from the last packet either way, and begins anew', async () => {
    const target = await peer({ answer: echo });
    const { tunnel, port } = await tunnelTo(target.port, { idleMs: 300 });
    const app = await peer({ connectTo: port });
    await app.send(Buffer.from('x'));
    await once(app.socket, 'message');
    // Only the target speaks, for three idle times.
    const began = performance.now();
    const timer = setInterval(() => target.socket.send('y', target.sources[0] as number, '127.0.0.1'), 50);
    while (performance.now() - began < 900) await once(app.socket, 'message');
    clearInterval(timer);
    expect(tunnel.near.all('channel.close')).toEqual([]);
    const quietSince = performance.now();
    const { reason } = await tunnel.near.one('channel.close');
    expect(reason).toBe('idle');
    expect(performance.now() - quietSince).toBeGreaterThan(200);
    expect(await tunnel.far.one('channel.close')).toMatchObject({ reason: 'closed', dropped: {} });
    expect([tunnel.entries.openFlows, tunnel.exits.openFlows]).toEqual([0, 0]);
    await app.send(Buffer.from('z'));
    await once(app.socket, 'message');
    expect(tunnel.near.all('channel.open')).toHaveLength(2);
  });

  it('makes room for a new one at the cap: the one that has been idle longest goes', async () => {
    const target = await peer({ answer: echo });
    const { tunnel, port } = await tunnelTo(target.port, { maxFlows: 8 });
    const apps: UdpPeer[] = [];
    const speak = async (app: UdpPeer) => {
      await app.send(Buffer.from('x'));
      await once(app.socket, 'message');
    };
    for (let i = 0; i < 40; i += 1) {
      const app = await peer({ connectTo: port });
      apps.push(app);
      await speak(app);
      // The first one stays in use.
      await speak(apps[0] as UdpPeer);
      expect(tunnel.entries.openFlows).toBeLessThanOrEqual(8);
      expect(tunnel.exits.openFlows).toBeLessThanOrEqual(8);
    }
    const evicted = tunnel.near.all('channel.close');
    expect(evicted).toHaveLength(32);
    expect(new Set(evicted.map(({ reason }) => reason))).toEqual(new Set(['evicted']));
    expect(evicted.some(({ packetsIn }) => packetsIn !== 1)).toBe(false);
    expect(tunnel.far.all('channel.close')).toHaveLength(32);
  });

  it('stays within the cap under a flood from many sources, and every packet is accounted for', async () => {
    const target = await peer();
    const { tunnel, port } = await tunnelTo(target.port, { maxFlows: 16 });
    const apps = await Promise.all(Array.from({ length: 600 }, () => peer({ connectTo: port })));
    for (const app of apps) await app.send(Buffer.from('x'));
    expect(
      await eventually(() => {
        expect(tunnel.entries.openFlows).toBeLessThanOrEqual(16);
        expect(tunnel.exits.openFlows).toBeLessThanOrEqual(16);
        return tunnel.near.all('channel.close').length >= 584;
      }),
    ).toBe(true);
    await ticks(50);
    await tunnel.entries.close();
    const near = tunnel.near.all('channel.close');
    const far = tunnel.far.all('channel.close');
    const total = (events: typeof near, what: (event: (typeof near)[number]) => number | undefined) =>
      events.reduce((all, event) => all + (what(event) ?? 0), 0);
    tunnel.exits.close();
    const unassigned = sum(
      tunnel.far.all('udp.totals').find(({ service }) => service === undefined)?.dropped,
    );
    const delivered = target.received.length;
    expect(total(near, ({ packetsOut }) => packetsOut) + total(near, ({ dropped }) => sum(dropped))).toBe(
      600,
    );
    // What was on its way when its flow was closed is held for it in vain, and counted there.
    expect(total(near, ({ packetsOut }) => packetsOut)).toBe(
      delivered + total(far, ({ dropped }) => sum(dropped)) + unassigned,
    );
  });
});

describe('the right to a service', () => {
  it('is asked for at each opening: a denied flow drops and counts, and says so once', async () => {
    const target = await peer();
    const { tunnel, port } = await tunnelTo(target.port, { authorise: () => undefined });
    const app = await peer({ connectTo: port });
    for (let i = 0; i < 5; i += 1) {
      await app.send(Buffer.from('x'));
      await ticks(20);
    }
    expect(await eventually(() => tunnel.errors.length > 0)).toBe(true);
    await app.send(Buffer.from('x'));
    expect(await eventually(() => sum(tunnel.entries.totals()[0]?.counters.dropped) > 0)).toBe(true);
    expect(tunnel.errors).toEqual(['DENIED']);
    expect(Object.keys(tunnel.entries.totals()[0]?.counters.dropped ?? {})).toEqual(['denied']);
    expect(target.received).toEqual([]);
    tunnel.exits.close();
    const [{ dropped } = { dropped: {} }] = tunnel.far.all('udp.totals');
    // There the packet came before or behind the call that was denied.
    expect(['denied', 'no-flow']).toEqual(expect.arrayContaining(Object.keys(dropped)));
    expect(sum(dropped)).toBeGreaterThan(0);
  });

  it('is asked for again after a reconnect: what was allowed before ends', async () => {
    const target = await peer({ answer: echo });
    let allowed: Service | undefined = udpService('svc', target.port);
    const { tunnel, port } = await tunnelTo(target.port, { authorise: () => allowed });
    const app = await peer({ connectTo: port });
    await app.send(Buffer.from('x'));
    await once(app.socket, 'message');
    tunnel.pair?.cut();
    allowed = undefined;
    await tunnel.connect();
    expect(await tunnel.far.one('channel.close')).toMatchObject({ reason: 'denied' });
    expect(tunnel.exits.openFlows).toBe(0);
    expect(await eventually(() => tunnel.errors.length > 0)).toBe(true);
    expect(tunnel.errors).toEqual(['DENIED']);
  });

  it('is the peer’s own: another identity cannot speak for its flows', async () => {
    const target = await peer({ answer: echo });
    const { tunnel, port } = await tunnelTo(target.port);
    const app = await peer({ connectTo: port });
    await app.send(Buffer.from('x'));
    await once(app.socket, 'message');
    const other = new UdpTunnel({ services: [] });
    open.push(other);
    other.exits.close();
    // The same far process, another peer.
    other.exits = tunnel.exits;
    await other.connect();
    for (let id = 0; id < 64; id += 1)
      other.pair?.dialler.datagrams.send([encodeWhole(id, Buffer.from('forged'))]);
    await ticks(20);
    expect(target.received.map(String)).toEqual(['x']);
  });
});

describe('the target', () => {
  it('is the only one that is heard on a flow’s socket', async () => {
    const target = await peer({ answer: echo });
    const { port } = await tunnelTo(target.port);
    const app = await peer({ connectTo: port });
    await app.send(Buffer.from('one'));
    await once(app.socket, 'message');
    const stranger = await peer();
    stranger.socket.send('forged', target.sources[0] as number, '127.0.0.1');
    await app.send(Buffer.from('two'));
    expect(await eventually(() => app.received.length >= 2)).toBe(true);
    await ticks(20);
    expect(app.received.map(String)).toEqual(['one', 'two']);
  });

  it('may be away: what ICMP says is soft, and the flow works once it is there', async () => {
    const gone = await udpPeer();
    const { port: targetPort } = gone;
    gone.close();
    const { tunnel, port } = await tunnelTo(targetPort);
    const app = await peer({ connectTo: port });
    for (let i = 0; i < 10; i += 1) {
      await app.send(Buffer.from('into the void'));
      await ticks(5);
    }
    const target = await peer();
    await new Promise<void>((resolve, reject) => {
      target.socket.close(resolve);
      target.socket.once('error', reject);
    });
    open.splice(open.indexOf(target), 1);
    const back = (await import('node:dgram')).createSocket('udp4');
    back.on('message', (payload, source) => back.send(payload, source.port, source.address));
    const bound = once(back, 'listening');
    back.bind(targetPort, '127.0.0.1');
    await bound;
    const answered = once(app.socket, 'message');
    await app.send(Buffer.from('there?'));
    expect(String((await answered)[0])).toBe('there?');
    expect(tunnel.far.all('channel.open')).toHaveLength(1);
    expect(tunnel.errors).toEqual([]);
    back.close();
  });

  it('may be a name that is served on one family only', async (context) => {
    const addresses = await lookup('localhost', { all: true });
    if (addresses.length < 2) context.skip('localhost has one address on this machine');
    for (const address of ['127.0.0.1', '::1']) {
      const target = await peer({ answer: echo, address });
      const { port } = await tunnelTo(target.port, { host: 'localhost' });
      const app = await peer({ connectTo: port });
      // The first packet may be what finds out that nobody is there on the other family.
      const timer = setInterval(() => app.socket.send('hello'), 50);
      const [answer] = (await once(app.socket, 'message')) as [Buffer];
      clearInterval(timer);
      expect(String(answer)).toBe('hello');
    }
  });

  it('and the application may each be on IPv4 or IPv6', async () => {
    for (const [near, far] of [
      ['::1', '127.0.0.1'],
      ['127.0.0.1', '::1'],
      ['::1', '::1'],
    ] as const) {
      const target = await peer({ answer: echo, address: far });
      const { port } = await tunnelTo(target.port, { host: far, listen: near });
      const app = await peer({ connectTo: port, address: near });
      for (const size of [0, 3000]) {
        const payload = randomBytes(size);
        const answered = once(app.socket, 'message');
        await app.send(payload);
        expect(((await answered)[0] as Buffer).equals(payload)).toBe(true);
      }
    }
  });

  it('whose name does not resolve refuses the flow with a code that names it', async () => {
    const { tunnel, port } = await tunnelTo(53, { host: 'no-such-host.invalid' });
    const app = await peer({ connectTo: port });
    await app.send(Buffer.from('x'));
    expect(await eventually(() => tunnel.errors.length > 0, 20_000)).toBe(true);
    expect(tunnel.errors).toEqual(['TARGET_UNRESOLVED']);
    await app.send(Buffer.from('x'));
    expect(await eventually(() => tunnel.entries.totals()[0]?.counters.dropped.refused === 1)).toBe(true);
    expect(await tunnel.far.one('channel.close')).toMatchObject({ reason: 'refused' });
  });
});

describe('datagrams from a peer', () => {
  it('of no flow, or of no sense, are held briefly at most, and counted', async () => {
    const target = await peer();
    const { tunnel } = await tunnelTo(target.port);
    const junk = [Buffer.alloc(0), Buffer.from('07', 'hex'), Buffer.from('0900000001', 'hex')];
    tunnel.pair?.dialler.datagrams.send([...junk, encodeWhole(999_999, Buffer.from('x'))]);
    await ticks();
    tunnel.exits.close();
    const [totals] = tunnel.far.all('udp.totals');
    expect(totals?.dropped).toEqual({ inconsistent: 3, 'no-flow': 1 });
  });

  it('to the side that opened flows are counted when no flow is theirs', async () => {
    const { tunnel } = await tunnelTo(1);
    tunnel.pair?.acceptor.datagrams.send([encodeWhole(999_999, Buffer.from('x')), Buffer.from('junk')]);
    await ticks();
    await tunnel.entries.close();
    expect(tunnel.near.all('udp.totals').map(({ dropped }) => dropped)).toEqual([
      { 'no-flow': 1, inconsistent: 1 },
    ]);
  });

  it('flow numbers travel in them as they are', () => {
    expect(flowOf(encodeWhole(0xffff_ffff, Buffer.alloc(0)))).toBe(0xffff_ffff);
  });
});
