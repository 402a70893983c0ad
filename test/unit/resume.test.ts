import { describe, expect, it } from 'vitest';
import { TunnelError } from '../../src/error.js';
import { type Carrier, StreamCarrier } from '../../src/session/carrier.js';
import {
  Channel,
  type ChannelHost,
  EARLY_DATA_BYTES,
  INITIAL_WINDOW_BYTES,
} from '../../src/session/channel.js';
import { DetachedChannels } from '../../src/session/detached.js';
import { encodeFrame, FrameType } from '../../src/session/frame.js';
import {
  decodeLists,
  decodeResume,
  decodeResumed,
  encodeLists,
  encodeResume,
  encodeResumed,
} from '../../src/session/resume.js';
import { RpcSession } from '../../src/session/rpc-session.js';
import { LINK_WINDOW_BYTES, WindowBudget } from '../../src/session/window-budget.js';
import { CHANNEL_ID, RawPeer, Side } from '../support/channels.js';
import { thrown } from '../support/errors.js';
import { random } from '../support/sockets.js';
import { streamPair } from '../support/stream-pair.js';

const point = { received: 70_001, consumed: 65_536, limit: 300_000, opened: true };

describe('the bodies of RESUME, RESUMED and the lists', () => {
  it('say what they were made of', () => {
    const request = { ...point, channelId: 7, epoch: 3, open: Buffer.from('open') };
    expect(decodeResume(encodeResume(request))).toEqual(request);
    expect(decodeResumed(encodeResumed(point))).toEqual(point);
    const lists = { live: [1, 3, 5], ended: [7] };
    expect(decodeLists(encodeLists(lists))).toEqual(lists);
    expect(decodeLists(encodeLists({ live: [], ended: [] }))).toEqual({ live: [], ended: [] });
  });

  it.each<[string, () => unknown]>([
    [
      'a RESUME cut short',
      () =>
        decodeResume(encodeResume({ ...point, channelId: 1, epoch: 1, open: Buffer.alloc(0) }).subarray(1)),
    ],
    [
      'a RESUMED with more behind it',
      () => decodeResumed(Buffer.concat([encodeResumed(point), Buffer.alloc(1)])),
    ],
    ['more consumed than received', () => decodeResumed(encodeResumed({ ...point, consumed: 70_002 }))],
    ['more received than granted', () => decodeResumed(encodeResumed({ ...point, limit: 69_999 }))],
    ['lists that claim more than there is', () => decodeLists(Buffer.from([0, 0, 0, 9, 0, 0, 0, 1]))],
    ['lists of broken ids', () => decodeLists(Buffer.from([0, 0, 0, 0, 1]))],
  ])('refuse %s', (_what, work) => {
    expect(thrown(work).code).toBe('PROTOCOL');
  });
});

/** Keeps channels waiting and counts what it is told. */
function host(): ChannelHost & { readonly told: string[] } {
  const told: string[] = [];
  return {
    told,
    detached: () => told.push('detached'),
    resumed: () => told.push('resumed'),
    ended: (_channel, error) => told.push(error ? error.code : 'ended'),
  };
}

function channelOver(carrier: Carrier, role: 'opener' | 'acceptor', hosted: ChannelHost): Side {
  const channel = new Channel(carrier, {
    channelId: CHANNEL_ID,
    role,
    peerLimit: role === 'opener' ? EARLY_DATA_BYTES : INITIAL_WINDOW_BYTES,
    budget: new WindowBudget(LINK_WINDOW_BYTES),
    host: hosted,
  });
  const side = new Side(channel, true);
  channel.start(side);
  return side;
}

/** An opener that has lost its first carrier and sent RESUME on a second one, whose other end is the test. */
async function resuming() {
  const first = await streamPair();
  const hosted = host();
  const side = channelOver(new StreamCarrier(first.near, CHANNEL_ID), 'opener', hosted);
  await side.write(Buffer.from('0123456789'), 10);
  first.cut();
  const second = await streamPair();
  const peer = new RawPeer(second.far, () => second.dialler.close());
  side.channel.leaveCarrier();
  side.channel.resumeOver(new StreamCarrier(second.near, CHANNEL_ID));
  return { side, channel: side.channel, peer, told: hosted.told, close: () => second.dialler.close() };
}

describe('a channel that waits for the answer to its RESUME', () => {
  it('sends again from where the peer stands', async () => {
    const { peer, told, close } = await resuming();
    peer.send(FrameType.RESUMED, encodeResumed({ received: 4, consumed: 4, limit: 100, opened: true }));
    await peer.seen.until(() => peer.frames.length > 0);
    expect(peer.frames).toEqual([{ type: FrameType.DATA, body: Buffer.from('456789') }]);
    expect(told.at(-1)).toBe('resumed');
    close();
  });

  it.each<[string, (peer: RawPeer) => void, string]>([
    [
      'a peer that has what was never sent',
      (p) => p.send(FrameType.RESUMED, encodeResumed({ ...point })),
      'PROTOCOL',
    ],
    ['DATA before RESUMED', (p) => p.send(FrameType.DATA, Buffer.from('x')), 'PROTOCOL'],
    ['an ACK before RESUMED', (p) => p.send(FrameType.ACK, Buffer.alloc(16)), 'PROTOCOL'],
    ['an ENDED it cannot believe', (p) => p.send(FrameType.ENDED, Buffer.alloc(0)), 'PROTOCOL'],
    ['a peer that does not know it', (p) => p.stream.reset(0x10), 'RESUME_UNKNOWN'],
  ])('ends as a failure, never as an end, for %s', async (_what, act, code) => {
    const { side, peer, close } = await resuming();
    act(peer);
    expect(await side.over()).toBe(`closed ${code}`);
    expect(side.events).not.toContain('end');
    close();
  });
});

describe('a channel', () => {
  it('goes on over a tunnel of the mux, both ways, from a stream of its own', async () => {
    const stream = await streamPair();
    const shared = await streamPair();
    const [a, b] = [
      new RpcSession(shared.near, { role: 'dialler' }),
      new RpcSession(shared.far, { role: 'acceptor' }),
    ];
    const near = channelOver(new StreamCarrier(stream.near, CHANNEL_ID), 'opener', host());
    const far = channelOver(new StreamCarrier(stream.far, CHANNEL_ID), 'acceptor', host());
    far.channel.accept();
    const there = random(3 * 1024 * 1024);
    const back = random(1024 * 1024);
    const writing = Promise.all([near.write(there, 50_000), far.write(back, 50_000)]);
    await far.until(({ received }) => received > 1024 * 1024);
    stream.cut();
    const epoch = near.channel.leaveCarrier();
    const request = { channelId: CHANNEL_ID, epoch, ...near.channel.resumePoint, open: Buffer.alloc(0) };
    near.channel.resumeOver(a.openCarrier(encodeResume(request)));
    const { value } = await b.incomingTunnels[Symbol.asyncIterator]().next();
    const { carrier, body } = value as { carrier: Carrier; body: Buffer };
    const received = decodeResume(body);
    expect(far.channel.resumeFrom(carrier, received.epoch, received)).toBe(true);
    await writing;
    near.channel.end();
    far.channel.end();
    expect([await near.over(), await far.over()]).toEqual(['closed', 'closed']);
    expect(far.bytes.equals(there) && near.bytes.equals(back)).toBe(true);
    a.close();
    shared.dialler.close();
  });

  it('leaves an overtaken epoch alone', async () => {
    const { near, far, dialler } = await streamPair();
    const side = channelOver(new StreamCarrier(far, CHANNEL_ID), 'acceptor', host());
    const other = await streamPair();
    const carrier = new StreamCarrier(other.far, CHANNEL_ID);
    expect(side.channel.resumeFrom(carrier, 0, { ...point, received: 0, consumed: 0 })).toBe(false);
    near.write(encodeFrame(CHANNEL_ID, FrameType.DATA, Buffer.from('still')), null);
    await side.until(({ received }) => received === 5);
    for (const one of [dialler, other.dialler]) one.close();
  });
});

describe('channels that wait', () => {
  /** Channels that hold so many bytes each, none of them sent. */
  function waiting(count: number, bytes: number): Side[] {
    return Array.from({ length: count }, (_, index) => {
      const channel = new Channel(undefined, {
        channelId: 2 * index + 1,
        role: 'opener',
        peerLimit: 0,
        budget: new WindowBudget(0),
        host: host(),
      });
      const side = new Side(channel, true);
      channel.start(side);
      channel.write(Buffer.alloc(bytes));
      return side;
    });
  }

  it('hold no more memory together than the bound; what goes beyond is reset, with the reason', () => {
    const detached = new DetachedChannels({ maxBytes: 1024 * 1024 });
    const sides = waiting(10, 200 * 1024);
    for (const { channel } of sides) detached.add(channel, detached, 60_000);
    expect(detached.bytes).toBeLessThanOrEqual(1024 * 1024);
    const kept = sides.filter(({ channel }) => !channel.isClosed);
    expect(kept).toHaveLength(3);
    expect(sides.at(-1)?.events).toEqual(['closed RESUME_LIMIT']);
    for (const { channel } of kept) detached.remove(channel);
    expect([detached.bytes, detached.count(detached)]).toEqual([0, 0]);
  });

  it('are bounded in number for each peer, not for all of them', () => {
    const detached = new DetachedChannels({ maxPerPeer: 2 });
    const [one, other] = [{}, {}];
    const sides = waiting(6, 1);
    for (const [index, { channel }] of sides.entries()) {
      detached.add(channel, index % 2 === 0 ? one : other, 60_000);
    }
    expect([detached.count(one), detached.count(other)]).toEqual([2, 2]);
    expect(sides.filter(({ error }) => error?.code === 'RESUME_LIMIT')).toHaveLength(2);
    for (const { channel } of sides) {
      channel.abort(new TunnelError('RESET', 'done'));
      detached.remove(channel);
    }
  });
});
