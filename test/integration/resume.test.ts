/** Connections that outlive their session: everything but the engine is real. */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { TunnelError } from '../../src/error.js';
import { type Channel, INITIAL_WINDOW_BYTES } from '../../src/session/channel.js';
import { Identity } from '../../src/session/identity.js';
import { OpenedChannels } from '../../src/session/opened-channels.js';
import { encodePreamble, StreamKind } from '../../src/session/preamble.js';
import { encodeResume } from '../../src/session/resume.js';
import type { TunnelEvent } from '../../src/tunnel/events.js';
import { Forward } from '../../src/tunnel/forward.js';
import { encodeOpen } from '../../src/tunnel/open.js';
import { Side } from '../support/channels.js';
import { eventually } from '../support/eventually.js';
import { checkLeaks } from '../support/leaks.js';
import { MemoryNetwork } from '../support/memory-network.js';
import { Recorder } from '../support/recorder.js';
import { dial, endOf, listen, random, readAll, sha256, writeAll } from '../support/sockets.js';

const MIB = 1024 * 1024;
/** What the target does with its connections. */
let onConnection: (socket: Socket) => void;
let target: Awaited<ReturnType<typeof listen>>;
let network: MemoryNetwork;

checkLeaks();

beforeEach(async () => {
  target = await listen((socket) => onConnection(socket));
  network = new MemoryNetwork({ svc: target.port });
});

afterEach(async () => {
  await network.close();
  await target.close();
});

const echo = (socket: Socket) => {
  socket.pipe(socket);
};

async function forwarding(options: { resumeTimeoutMs?: number } = {}) {
  const events: TunnelEvent[] = [];
  const forward = await Forward.start({
    identity: network.client,
    peer: network.identity.nodeId,
    ways: [network.way],
    token: network.token,
    specs: [{ local: { kind: 'socket', host: '127.0.0.1', port: 0 }, service: 'svc', protocol: 'tcp' }],
    report: (event) => events.push(event),
    ...options,
  });
  const seen = (find: (event: TunnelEvent) => boolean) => eventually(async () => events.some(find), 10_000);
  await seen((event) => event.event === 'session' && event.state === 'connected');
  const { local } = events.find(({ event }) => event === 'listening') as { local: string };
  return { forward, events, seen, port: Number(local.replace(/^.*:/, '')) };
}

const closed = (event: TunnelEvent) => event.event === 'channel.close';
const isResume = ({ event }: TunnelEvent) => event === 'resume';
const isReconnecting = (event: TunnelEvent) => event.event === 'session' && event.state === 'reconnecting';

describe('a connection whose sessions are cut again and again', () => {
  it('carries every byte once, in order, both ways', async () => {
    onConnection = echo;
    const { forward, events, port } = await forwarding();
    const data = random(24 * MIB);
    const app = await dial(port);
    let back = 0;
    let cuts = 0;
    app.on('data', (chunk: Buffer) => {
      back += chunk.length;
      // Offsets, not times: the same cuts on any machine.
      if (back > (cuts + 1) * 2 * MIB && cuts < 10) {
        cuts += 1;
        network.cut();
      }
    });
    const whole = readAll(app);
    await writeAll(app, data);
    app.end();
    expect(await whole).toEqual({ ending: 'end', bytes: data.length, sha256: sha256(data) });
    expect(cuts).toBe(10);
    app.destroy();
    await eventually(async () => events.some(closed), 5000);
    expect(events.filter(closed)).toMatchObject([{ reason: 'eos', bytesOut: data.length }]);
    expect(events.filter(({ event }) => event === 'resume').length).toBeGreaterThanOrEqual(10);
    await forward.close(0);
  }, 60_000);
});

describe('during an outage', () => {
  it('new connections are held, and served afterwards', async () => {
    onConnection = echo;
    const { forward, seen, port } = await forwarding();
    network.up = false;
    network.cut();
    await seen(isReconnecting);
    const app = await dial(port);
    app.end('hello');
    const whole = readAll(app);
    network.up = true;
    expect(await whole).toMatchObject({ ending: 'end', bytes: 5 });
    app.destroy();
    await forward.close(0);
  });

  it('a local reset reaches the far side as a reset', async () => {
    const accepted = new Promise<Socket>((resolve) => {
      onConnection = resolve;
    });
    const { forward, seen, port } = await forwarding();
    const app = await dial(port);
    const service = await accepted;
    const ending = endOf(service);
    service.resume();
    network.up = false;
    network.cut();
    await seen(isReconnecting);
    app.resetAndDestroy();
    await seen(closed);
    network.up = true;
    expect(await ending).toBe('reset');
    await forward.close(0);
  });

  it('a reset at the far side reaches the local one as a reset', async () => {
    const accepted = new Promise<Socket>((resolve) => {
      onConnection = resolve;
    });
    const { forward, events, seen, port } = await forwarding();
    const app = await dial(port);
    const service = await accepted;
    const ending = endOf(app);
    app.resume();
    network.up = false;
    network.cut();
    await seen(isReconnecting);
    service.resetAndDestroy();
    await eventually(async () => network.events.some(closed), 5000);
    network.up = true;
    expect(await ending).toBe('reset');
    await seen(isResume);
    expect(events.filter(isResume)).toMatchObject([{ resumed: 0, lost: 0 }]);
    await forward.close(0);
  });

  it('both ends of a finished exchange are told apart from a loss', async () => {
    onConnection = (socket) => {
      socket.on('data', () => undefined);
      socket.on('end', () => socket.end('bye'));
    };
    const { forward, seen, port } = await forwarding();
    const app = await dial(port);
    await eventually(async () => network.events.some(({ event }) => event === 'channel.open'), 5000);
    network.up = false;
    network.cut();
    await seen(isReconnecting);
    app.end('question');
    const whole = readAll(app);
    network.up = true;
    expect(await whole).toMatchObject({ ending: 'end', bytes: 3 });
    app.destroy();
    await forward.close(0);
  });

  it.each([
    ['the forwarding side', { resumeTimeoutMs: 300 }],
    ['the exposing side', {}],
  ])('what waits too long for %s is reset, with the reason', async (_who, options) => {
    if (!('resumeTimeoutMs' in options)) {
      await network.close();
      network = new MemoryNetwork({ svc: target.port }, { resumeTimeoutMs: 300 });
    }
    const accepted = new Promise<Socket>((resolve) => {
      onConnection = resolve;
    });
    const { forward, events, seen, port } = await forwarding(options);
    const app = await dial(port);
    const service = await accepted;
    const ends = Promise.all([endOf(app), endOf(service)]);
    app.resume();
    service.resume();
    network.up = false;
    network.cut();
    await seen(isReconnecting);
    await eventually(async () => network.events.some(closed), 5000);
    network.up = true;
    expect(await ends).toEqual(['reset', 'reset']);
    await seen(closed);
    expect([...events, ...network.events].filter(closed)).toMatchObject([
      { reason: 'resume-expired' },
      { reason: 'resume-expired' },
    ]);
    await seen(isResume);
    expect(events.filter(isResume)).toMatchObject([{ resumed: 0, lost: 1 }]);
    await forward.close(0);
  });
});

describe('a channel', () => {
  /** An open channel to the echoing target, over a session of its own. */
  async function open(channels: OpenedChannels) {
    onConnection = echo;
    const peer = await network.dial();
    await channels.attach(peer);
    const channel = await channels.open(peer, (channelId) =>
      encodeOpen({ channelId, epoch: 0, service: 'svc', limit: INITIAL_WINDOW_BYTES }),
    );
    const side = new Side(channel, true);
    channel.start(side);
    await side.until(({ events }) => events.includes('opened'));
    return { peer, channel, side };
  }

  it('moves between two live sessions under load, and loses nothing', async () => {
    const channels = new OpenedChannels();
    const { peer, channel, side } = await open(channels);
    const other = await network.dial();
    const data = random(16 * MIB);
    const writing = side.write(data, 64 * 1024);
    const hash = createHash('sha256');
    for (let move = 1; move <= 8; move += 1) {
      await side.until(({ received }) => received >= move * 1.5 * MIB);
      const to = move % 2 === 1 ? other : peer;
      expect(await channels.attach(to)).toEqual({ resumed: 1, lost: 0 });
      expect(channels.sessionOf(channel)).toBe(to);
    }
    await writing;
    channel.end();
    expect(await side.over()).toBe('closed');
    for (const piece of side.pieces) hash.update(piece);
    expect(side.received).toBe(data.length);
    expect(hash.digest('hex')).toBe(sha256(data));
    expect(channel.epoch).toBe(8);
    for (const { session } of [peer, other]) session.close();
  }, 60_000);

  it('is reset when the peer comes back as another process', async () => {
    const channels = new OpenedChannels();
    const { peer, side } = await open(channels);
    network.cut();
    await peer.session.closed;
    const again = await network.dial();
    const restarted = { ...again, remote: { ...again.remote, instanceId: 'f'.repeat(32) } };
    expect(await channels.attach(restarted)).toEqual({ resumed: 0, lost: 1 });
    expect(side.events.at(-1)).toBe('closed PEER_RESTARTED');
    again.session.close();
  });

  it('cannot be taken up by another identity, which learns nothing of it', async () => {
    const channels = new OpenedChannels();
    const { peer, channel, side } = await open(channels);
    const thief = await network.dial(Identity.generate());
    const stream = await thief.session.createBidirectionalStream();
    const request = { ...channel.resumePoint, channelId: channel.channelId, epoch: 9, open: Buffer.alloc(0) };
    const seen = new Recorder();
    stream.receive(seen.sink(stream));
    stream.write(encodePreamble(StreamKind.RESUME, encodeResume(request)), null);
    await seen.seen('reset');
    expect(seen.received).toBe(0);
    await side.write(Buffer.from('mine'), 4);
    await side.until(({ received }) => received === 4);
    expect(side.bytes.toString()).toBe('mine');
    channel.abort(new TunnelError('RESET', 'done'));
    for (const { session } of [peer, thief]) session.close();
  });

  it('whose OPEN was lost with its session is begun on the next one', async () => {
    onConnection = echo;
    const channels = new OpenedChannels();
    const peer = await network.dial();
    await channels.attach(peer);
    const channel = await channels.open(peer, (channelId) =>
      encodeOpen({ channelId, epoch: 0, service: 'svc', limit: INITIAL_WINDOW_BYTES }),
    );
    const side = new Side(channel, true);
    channel.start(side);
    channel.write(Buffer.from('early'));
    network.cut();
    await peer.session.closed;
    expect(channels.waiting).toBe(1);
    const next = await network.dial();
    expect(await channels.attach(next)).toEqual({ resumed: 1, lost: 0 });
    await side.until(({ received }) => received === 5);
    channel.end();
    expect(await side.over()).toBe('closed');
    next.session.close();
  });

  it('that ended with a loss of the last acknowledgement is a clean end on both sides', async () => {
    const channels = new OpenedChannels();
    const { peer, channel, side } = await open(channels);
    // The opener proves both ends and lets go; what tells the acceptor so is lost with the session.
    const proven = new Promise<void>((resolve) => {
      const end = side.end.bind(side);
      side.end = () => {
        end();
        resolve();
      };
    });
    channel.end();
    await proven;
    network.cut();
    await peer.session.closed;
    const next = await network.dial();
    await channels.attach(next);
    expect(await side.over()).toBe('closed');
    await eventually(async () => network.events.some(closed), 5000);
    expect(network.events.filter(closed)).toMatchObject([{ reason: 'eos' }]);
    next.session.close();
  });

  it('does not follow a RESUME that has been overtaken', async () => {
    const channels = new OpenedChannels();
    const { peer, channel, side } = await open(channels);
    const other = await network.dial();
    await channels.attach(other);
    const stale = await peer.session.createBidirectionalStream();
    const seen = new Recorder();
    stale.receive(seen.sink(stale));
    const request = { ...channel.resumePoint, channelId: channel.channelId, epoch: 1, open: Buffer.alloc(0) };
    stale.write(encodePreamble(StreamKind.RESUME, encodeResume(request)), null);
    await seen.seen('reset');
    await side.write(Buffer.from('still'), 5);
    await side.until(({ received }) => received === 5);
    channel.abort(new TunnelError('RESET', 'done'));
    for (const { session } of [peer, other]) session.close();
  });
});

describe('the process at the other end', () => {
  it('is told what the opener no longer has, on the next session', async () => {
    const accepted = new Promise<Socket>((resolve) => {
      onConnection = resolve;
    });
    const channels = new OpenedChannels();
    const peer = await network.dial();
    await channels.attach(peer);
    const channel: Channel = await channels.open(peer, (channelId) =>
      encodeOpen({ channelId, epoch: 0, service: 'svc', limit: INITIAL_WINDOW_BYTES }),
    );
    channel.start(new Side(channel, true));
    const service = await accepted;
    const ending = endOf(service);
    service.resume();
    network.cut();
    await peer.session.closed;
    channel.abort(new TunnelError('RESET', 'gone'));
    const next = await network.dial();
    await channels.attach(next);
    expect(await ending).toBe('reset');
    await once(service, 'close');
    next.session.close();
  });
});
