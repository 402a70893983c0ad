import { createHash, randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { TunnelError, WIRE_CODES } from '../../src/error.js';
import { EARLY_DATA_BYTES, INITIAL_WINDOW_BYTES, MAX_WINDOW_BYTES } from '../../src/session/channel.js';
import {
  encodeError,
  encodeFrame,
  FrameType,
  HEADER_BYTES,
  MAX_CONTROL_BYTES,
  MAX_DATA_BYTES,
  writeHeader,
} from '../../src/session/frame.js';
import { WindowBudget } from '../../src/session/window-budget.js';
import { CHANNEL_ID, channelPair, offsets, type RawPeer, rawPair, type Side } from '../support/channels.js';
import { eventually } from '../support/eventually.js';
import { checkLeaks } from '../support/leaks.js';
import { ticks } from '../support/ticks.js';

checkLeaks();
afterEach(() => {
  vi.useRealTimers();
});

const KIB = 1024;
const MIB = 1024 * KIB;
const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');

describe('a channel', () => {
  it('carries bytes both ways and ends cleanly on both sides', async () => {
    const { opener, acceptor, close } = await channelPair();
    opener.channel.write(Buffer.from('ping'));
    await acceptor.until(({ received }) => received === 4);
    acceptor.channel.write(Buffer.from('pong'));
    acceptor.channel.end();
    opener.channel.end();
    expect(await Promise.all([opener.over(), acceptor.over()])).toEqual(['closed', 'closed']);
    expect([opener.bytes.toString(), acceptor.bytes.toString()]).toEqual(['pong', 'ping']);
    expect(opener.events).toEqual(['opened', 'end', 'closed']);
    expect(acceptor.events).toEqual(['end', 'closed']);
    expect([opener.channel.bytesIn, opener.channel.bytesOut, opener.channel.unackedBytes]).toEqual([4, 4, 0]);
    close();
  });

  it.each(['opener', 'acceptor'] as const)(
    'ended by the %s still brings the late reply in full',
    async (first) => {
      const pair = await channelPair();
      const [early, late] = first === 'opener' ? [pair.opener, pair.acceptor] : [pair.acceptor, pair.opener];
      early.channel.write(Buffer.from('question'));
      early.channel.end();
      await late.until(({ events }) => events.includes('end'));
      expect(late.bytes.toString()).toBe('question');
      await ticks(20);
      expect([early.channel.isClosed, late.channel.isClosed]).toEqual([false, false]);
      const reply = randomBytes(3 * MIB);
      await late.write(reply, 50_000);
      late.channel.end();
      expect(await early.over()).toBe('closed');
      expect(await late.over()).toBe('closed');
      expect(sha256(early.bytes)).toBe(sha256(reply));
      pair.close();
    },
  );

  it('that carries nothing at all ends cleanly', async () => {
    const { opener, acceptor, close } = await channelPair();
    opener.channel.end();
    acceptor.channel.end();
    expect(await Promise.all([opener.over(), acceptor.over()])).toEqual(['closed', 'closed']);
    close();
  });

  it('brings every byte once and in order, both ways at once, in chunks of any size', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 1, max: 200_000 }), { maxLength: 12 }),
        fc.array(fc.integer({ min: 1, max: 200_000 }), { maxLength: 12 }),
        fc.boolean(),
        fc.integer({ min: 20_000, max: 400_000 }),
        async (there, back, patient, releaseSize) => {
          const { opener, acceptor, close } = await channelPair({ acceptorReads: patient });
          const send = async (from: Side, sizes: readonly number[]) => {
            const sent = sizes.map((size) => randomBytes(size));
            for (const chunk of sent) {
              // One side holds back as told, the other one does not: nothing may be lost either way.
              if (from === opener) await from.write(chunk, chunk.length);
              else from.channel.write(chunk);
            }
            from.channel.end();
            return Buffer.concat(sent);
          };
          let releasing = true;
          const slowly = (async () => {
            while (releasing && !acceptor.channel.isClosed) {
              acceptor.release(releaseSize);
              await ticks(1);
            }
          })();
          const [sent, answered] = await Promise.all([send(opener, there), send(acceptor, back)]);
          expect(await Promise.all([opener.over(), acceptor.over()])).toEqual(['closed', 'closed']);
          releasing = false;
          await slowly;
          expect(sha256(acceptor.bytes)).toBe(sha256(sent));
          expect(sha256(opener.bytes)).toBe(sha256(answered));
          close();
        },
      ),
      { numRuns: 40, timeout: 5000, endOnFailure: true },
    );
  });

  it('takes one write of any size', async () => {
    const { opener, acceptor, close } = await channelPair();
    const bytes = randomBytes(3 * MIB + 1);
    opener.channel.write(bytes);
    opener.channel.end();
    await acceptor.until(({ events }) => events.includes('end'));
    expect(sha256(acceptor.bytes)).toBe(sha256(bytes));
    close();
  });

  it('takes an empty write, also in front of others that wait for credit', async () => {
    const { opener, acceptor, close } = await channelPair({ acceptorReads: false });
    const bytes = randomBytes(INITIAL_WINDOW_BYTES + 1000);
    opener.channel.write(Buffer.alloc(0));
    opener.channel.write(bytes);
    opener.channel.write(Buffer.alloc(0));
    opener.channel.write(Buffer.from('last'));
    opener.channel.end();
    for (let i = 0; i < 20; i += 1) {
      acceptor.release();
      await ticks(2);
    }
    expect(acceptor.received).toBe(bytes.length + 4);
    expect(acceptor.events).toContain('end');
    close();
  });

  it('ignores what is written after its end', async () => {
    const { opener, acceptor, close } = await channelPair();
    opener.channel.end();
    opener.channel.end();
    expect(opener.channel.write(Buffer.from('late'))).toBe(true);
    await acceptor.until(({ events }) => events.includes('end'));
    await ticks();
    expect(acceptor.received).toBe(0);
    close();
  });
});

describe("a channel's credit", () => {
  it.each(['opener', 'acceptor'] as const)(
    'stops the %s at exactly the initial window when the other side takes nothing',
    async (from) => {
      const pair = await channelPair({ openerReads: false, acceptorReads: false });
      const [sender, receiver] =
        from === 'opener' ? [pair.opener, pair.acceptor] : [pair.acceptor, pair.opener];
      await pair.opener.accepted();
      let held = 0;
      for (let i = 0; i < 64; i += 1) if (!sender.channel.write(Buffer.alloc(64 * KIB))) held += 1;
      await ticks(50);
      expect(held).toBeGreaterThan(0);
      expect(sender.channel.bytesOut).toBe(INITIAL_WINDOW_BYTES);
      expect(receiver.received).toBe(INITIAL_WINDOW_BYTES);
      expect(receiver.channel.window).toBe(INITIAL_WINDOW_BYTES);
      expect(sender.channel.unackedBytes).toBe(INITIAL_WINDOW_BYTES);
      expect(sender.events).not.toContain('drain');
      pair.close();
    },
  );

  it('that comes back lets the sender go on by as much, and tells it', async () => {
    const { opener, acceptor, close } = await channelPair({ acceptorReads: false });
    await opener.accepted();
    opener.channel.write(Buffer.alloc(INITIAL_WINDOW_BYTES));
    expect(opener.channel.write(Buffer.alloc(100 * KIB))).toBe(false);
    await acceptor.until(({ received }) => received === INITIAL_WINDOW_BYTES);
    acceptor.release(INITIAL_WINDOW_BYTES / 4 - 1);
    await ticks();
    expect(opener.channel.bytesOut).toBe(INITIAL_WINDOW_BYTES);
    acceptor.release(1);
    await ticks();
    expect(opener.channel.bytesOut).toBeGreaterThanOrEqual(INITIAL_WINDOW_BYTES + INITIAL_WINDOW_BYTES / 4);
    expect(opener.events).not.toContain('drain');
    acceptor.release();
    await ticks();
    expect(opener.channel.bytesOut).toBe(INITIAL_WINDOW_BYTES + 100 * KIB);
    expect(opener.events).toContain('drain');
    close();
  });

  it('is 64 KiB before the channel is accepted, and the whole window after', async () => {
    const { opener, acceptor, close } = await channelPair({ accept: false, acceptorReads: false });
    opener.channel.write(Buffer.alloc(MIB));
    await ticks(20);
    expect(opener.channel.bytesOut).toBe(EARLY_DATA_BYTES);
    expect(acceptor.received).toBe(EARLY_DATA_BYTES);
    expect(opener.events).toEqual([]);
    acceptor.channel.accept();
    await ticks(20);
    expect(opener.events).toEqual(['opened']);
    expect(opener.channel.bytesOut).toBe(INITIAL_WINDOW_BYTES);
    close();
  });

  it('does not hold back an end', async () => {
    const { opener, acceptor, close } = await channelPair({ accept: false, acceptorReads: false });
    opener.channel.write(Buffer.alloc(EARLY_DATA_BYTES));
    opener.channel.end();
    await ticks();
    expect(acceptor.events).toEqual(['end']);
    close();
  });

  it('is acknowledged after a second where no quarter of the window came together', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const { side, peer } = await rawPair('acceptor');
    peer.send(FrameType.DATA, Buffer.from('abc'));
    await ticks();
    expect(peer.frames).toEqual([]);
    vi.advanceTimersByTime(1000);
    await ticks();
    expect(peer.frames).toEqual([{ type: FrameType.ACK, body: offsets(3, 3 + INITIAL_WINDOW_BYTES) }]);
    vi.advanceTimersByTime(10_000);
    await ticks();
    expect(peer.frames).toHaveLength(1);
    peer.send(FrameType.DATA, Buffer.from('d'));
    await ticks();
    expect(vi.getTimerCount()).toBe(1);
    side.channel.abort(new TunnelError('RESET', 'enough'));
    expect(vi.getTimerCount()).toBe(0);
    peer.close();
  });

  it('is acknowledged about four times a window, not once for each DATA', async () => {
    const { peer } = await rawPair('acceptor');
    for (let i = 0; i < 1024; i += 1) peer.send(FrameType.DATA, Buffer.alloc(256));
    await ticks(20);
    const acks = peer.frames.filter(({ type }) => type === FrameType.ACK);
    expect(acks.length).toBeGreaterThanOrEqual(4);
    expect(acks.length).toBeLessThanOrEqual(5);
    peer.close();
  });

  it('only ever grows, whatever order the peer gives it in', async () => {
    const { channel, peer } = await rawPair('opener');
    peer.send(FrameType.OPENED, offsets(100));
    peer.send(FrameType.ACK, offsets(0, EARLY_DATA_BYTES + 10));
    peer.send(FrameType.ACK, offsets(0, 5));
    await ticks();
    channel.write(Buffer.alloc(MIB));
    await ticks();
    expect(channel.bytesOut).toBe(EARLY_DATA_BYTES + 10);
    peer.send(FrameType.ACK, offsets(1000, 0));
    peer.send(FrameType.ACK, offsets(500, 0));
    await ticks();
    expect(channel.unackedBytes).toBe(EARLY_DATA_BYTES + 10 - 1000);
    expect(channel.isClosed).toBe(false);
    peer.close();
  });
});

describe("a channel's window", () => {
  it('stays as it is for a receiver that takes a little at a time from a full buffer', async () => {
    const { opener, acceptor, close } = await channelPair({ acceptorReads: false });
    await opener.accepted();
    opener.channel.write(Buffer.alloc(8 * MIB));
    for (let i = 0; i < 60; i += 1) {
      await ticks(4);
      acceptor.release(INITIAL_WINDOW_BYTES / 4);
    }
    expect(acceptor.received).toBeGreaterThan(2 * MIB);
    expect(acceptor.channel.window).toBe(INITIAL_WINDOW_BYTES);
    close();
  });

  it('grows for a receiver that takes all there is at each delivery, to its limit and no further', async () => {
    const { side, channel, peer } = await rawPair('acceptor', false);
    let sent = 0;
    let limit = INITIAL_WINDOW_BYTES;
    for (let round = 0; round < 12; round += 1) {
      for (; sent < limit; sent += MAX_DATA_BYTES / 4)
        peer.send(FrameType.DATA, Buffer.alloc(MAX_DATA_BYTES / 4));
      await ticks(2);
      side.release();
      side.pieces.length = 0;
      await ticks(2);
      limit = Number(peer.frames.at(-1)?.body.readBigUInt64BE(8));
    }
    expect(channel.window).toBe(MAX_WINDOW_BYTES);
    expect(limit - sent).toBe(MAX_WINDOW_BYTES);
    peer.close();
  });

  // A window that fits loopback would hold a transfer to 256 KiB a round trip: 2.5 MB/s at 100 ms.
  it('grows on a long path for a receiver that takes every piece at once', async () => {
    const { opener, acceptor, close } = await channelPair({ latencyMs: 10 });
    await acceptor.until(() => true);
    const sending = opener.write(Buffer.alloc(8 * MIB), 16 * KIB);
    await acceptor.until(({ received }) => received === 8 * MIB);
    await sending;
    expect(acceptor.channel.window).toBeGreaterThan(INITIAL_WINDOW_BYTES);
    close();
    await ticks();
  });

  it('grows no further than the budget it shares', async () => {
    const budget = 3 * INITIAL_WINDOW_BYTES;
    const { opener, acceptor, budgets, close } = await channelPair({ acceptorReads: false, budget });
    await opener.accepted();
    opener.channel.write(Buffer.alloc(16 * MIB));
    for (let i = 0; i < 60; i += 1) {
      await ticks(2);
      acceptor.release();
    }
    expect(acceptor.channel.window).toBe(4 * INITIAL_WINDOW_BYTES);
    expect(budgets[1].take(1)).toBe(false);
    close();
  });

  it.each<[string, (pair: Awaited<ReturnType<typeof channelPair>>) => void]>([
    ['aborted here', ({ acceptor }) => acceptor.channel.abort(new TunnelError('RESET', 'x'))],
    ['aborted there', ({ opener }) => opener.channel.abort(new TunnelError('RESET', 'x'))],
    ['lost', ({ cut }) => cut()],
  ])('gives back what it took from the budget when the channel is %s', async (_how, end) => {
    const budget = 3 * INITIAL_WINDOW_BYTES;
    const pair = await channelPair({ acceptorReads: false, budget });
    await pair.opener.accepted();
    pair.opener.channel.write(Buffer.alloc(16 * MIB));
    for (let i = 0; i < 60; i += 1) {
      await ticks(2);
      pair.acceptor.release();
    }
    expect(pair.budgets[1].take(1)).toBe(false);
    end(pair);
    await ticks();
    expect(pair.acceptor.channel.isClosed).toBe(true);
    expect(pair.budgets[1].take(budget)).toBe(true);
    expect(pair.budgets[1].take(1)).toBe(false);
    pair.close();
  });

  it('gives back what it took, once, when the channel ends cleanly', async () => {
    const budget = 3 * INITIAL_WINDOW_BYTES;
    const { opener, acceptor, budgets, close } = await channelPair({ acceptorReads: false, budget });
    await opener.accepted();
    opener.channel.write(Buffer.alloc(4 * MIB));
    opener.channel.end();
    acceptor.channel.end();
    while (!acceptor.channel.isClosed) {
      await ticks(2);
      acceptor.release();
    }
    expect(acceptor.events.at(-1)).toBe('closed');
    expect(budgets[1].take(budget)).toBe(true);
    expect(budgets[1].take(1)).toBe(false);
    close();
  });
});

describe('a window budget', () => {
  it('gives all that is asked or nothing', () => {
    const budget = new WindowBudget(10);
    expect([budget.take(7), budget.take(4), budget.take(3), budget.take(1)]).toEqual([
      true,
      false,
      true,
      false,
    ]);
    budget.give(4);
    expect([budget.take(5), budget.take(4)]).toEqual([false, true]);
  });
});

describe('the end of a channel', () => {
  it('is complete only when the last offset, EOS included, was acknowledged', async () => {
    const { side, channel, peer } = await rawPair('opener');
    peer.send(FrameType.OPENED, offsets(INITIAL_WINDOW_BYTES));
    channel.write(Buffer.from('hello'));
    channel.end();
    peer.send(FrameType.EOS, offsets(0));
    await eventually(() => peer.frames.length === 3);
    expect(peer.frames.map(({ type }) => type)).toEqual([FrameType.DATA, FrameType.EOS, FrameType.ACK]);
    expect(peer.frames[1]?.body).toEqual(offsets(5));
    expect(peer.frames[2]?.body.readBigUInt64BE(0)).toBe(1n);
    expect(side.events).toEqual(['opened', 'end']);
    peer.send(FrameType.ACK, offsets(5, INITIAL_WINDOW_BYTES));
    await ticks();
    expect(peer.seen.events).toEqual([]);
    expect(channel.isClosed).toBe(false);
    peer.send(FrameType.ACK, offsets(6, INITIAL_WINDOW_BYTES));
    await ticks();
    expect(peer.seen.events).toEqual(['end']);
    peer.stream.finish();
    await ticks();
    expect(side.events).toEqual(['opened', 'end', 'closed']);
    peer.close();
  });

  it('waits for the local side to have passed it on', async () => {
    const { opener, acceptor, close } = await channelPair({ acceptorReads: false });
    opener.channel.write(Buffer.from('last words'));
    opener.channel.end();
    acceptor.channel.end();
    await ticks(20);
    expect(acceptor.events).toEqual(['end']);
    expect([opener.channel.isClosed, acceptor.channel.isClosed]).toEqual([false, false]);
    acceptor.release();
    expect(await Promise.all([opener.over(), acceptor.over()])).toEqual(['closed', 'closed']);
    close();
  });

  it('stays clean when the session goes, or the stream is reset, after both ends were proven', async () => {
    for (const last of ['cut', 'reset'] as const) {
      const { side, channel, peer, cut } = await rawPair('opener');
      peer.send(FrameType.OPENED, offsets(INITIAL_WINDOW_BYTES));
      channel.end();
      peer.send(FrameType.EOS, offsets(0));
      await ticks();
      peer.send(FrameType.ACK, offsets(1, INITIAL_WINDOW_BYTES));
      await ticks();
      if (last === 'cut') cut();
      else peer.stream.reset(1);
      await ticks();
      expect(side.events.at(-1)).toBe('closed');
      peer.close();
    }
  });

  it('is lost with the session on both sides, and no end is made up', async () => {
    const { opener, acceptor, cut } = await channelPair();
    opener.channel.write(Buffer.alloc(100));
    opener.channel.end();
    cut();
    await ticks();
    expect([opener.events.at(-1), acceptor.events.at(-1)]).toEqual([
      'closed SESSION_LOST',
      'closed SESSION_LOST',
    ]);
    expect([...opener.events, ...acceptor.events]).not.toContain('end');
  });

  it('is lost with the session although the other side had ended', async () => {
    const { opener, acceptor, cut } = await channelPair();
    opener.channel.end();
    await acceptor.until(({ events }) => events.includes('end'));
    cut();
    await ticks();
    expect([opener.events.at(-1), acceptor.events.at(-1)]).toEqual([
      'closed SESSION_LOST',
      'closed SESSION_LOST',
    ]);
    expect(opener.events).not.toContain('end');
  });

  it('is lost when the session ends before the channel starts', async () => {
    const { opener, acceptor, cut } = await channelPair({ accept: false });
    cut();
    await ticks();
    acceptor.channel.accept();
    opener.channel.write(Buffer.from('x'));
    await ticks();
    expect(await Promise.all([opener.over(), acceptor.over()])).toEqual([
      'closed SESSION_LOST',
      'closed SESSION_LOST',
    ]);
  });

  it.each(['RESET', 'SHUTDOWN', 'INTERNAL'] as const)(
    'by abort with %s is that at the other side',
    async (code) => {
      const { opener, acceptor, close } = await channelPair();
      opener.channel.write(Buffer.from('before'));
      await acceptor.until(({ received }) => received === 6);
      acceptor.channel.abort(new TunnelError(code, 'x'));
      acceptor.channel.abort(new TunnelError('DENIED', 'only the first counts'));
      expect(acceptor.events).toEqual([`closed ${code}`]);
      expect(await opener.over()).toBe(`closed ${code}`);
      expect(opener.events).not.toContain('end');
      close();
    },
  );

  it('by abort of one that has ended its half is a reset all the same', async () => {
    const { opener, acceptor, close } = await channelPair({ acceptorReads: false });
    opener.channel.write(Buffer.alloc(1000));
    opener.channel.end();
    await ticks();
    opener.channel.abort(new TunnelError('RESET', 'x'));
    await ticks();
    expect(acceptor.events.at(-1)).toBe('closed RESET');
    close();
  });

  it('by abort drops what waited to be sent', async () => {
    const { opener, acceptor, close } = await channelPair({ acceptorReads: false });
    await opener.accepted();
    opener.channel.write(Buffer.alloc(4 * MIB));
    opener.channel.abort(new TunnelError('RESET', 'x'));
    await ticks();
    acceptor.release();
    await ticks();
    expect(acceptor.received).toBeLessThanOrEqual(INITIAL_WINDOW_BYTES);
    expect(acceptor.events).toEqual(['closed RESET']);
    close();
  });

  it('by reject brings code and message to the opener', async () => {
    const { opener, acceptor, close } = await channelPair({ accept: false });
    opener.channel.write(Buffer.from('early'));
    await ticks();
    acceptor.channel.reject(new TunnelError('REFUSED', 'target 127.0.0.1:1 refused the connection'));
    expect(acceptor.events).toEqual(['closed REFUSED']);
    expect(await opener.over()).toBe('closed REFUSED');
    expect(opener.error?.message).toContain('127.0.0.1:1');
    expect(opener.events).toEqual(['closed REFUSED']);
    close();
  });

  it('by an ERROR of a newer version is a reset, and its text is safe to print', async () => {
    const { side, peer } = await rawPair('opener');
    peer.send(FrameType.ERROR, encodeError(0xfffff, '\u001b[2Jgone'));
    expect(await side.over()).toBe('closed RESET');
    expect(side.error?.message).not.toMatch(/\p{Cc}/u);
    expect(side.error?.message).toContain('gone');
    peer.close();
  });

  it('makes every later call harmless', async () => {
    const { opener, acceptor, close } = await channelPair();
    opener.channel.abort(new TunnelError('RESET', 'x'));
    await acceptor.over();
    for (const { channel, events } of [opener, acceptor]) {
      const before = [...events];
      channel.accept();
      channel.reject(new TunnelError('REFUSED', 'x'));
      expect(channel.write(Buffer.from('x'))).toBe(true);
      channel.end();
      channel.consumed(1);
      channel.endConsumed();
      channel.abort(new TunnelError('RESET', 'x'));
      expect(events).toEqual(before);
    }
    await ticks();
    close();
  });
});

describe('a peer that breaks the protocol', () => {
  const header = (type: number, length: number) => {
    const bytes = Buffer.alloc(HEADER_BYTES);
    writeHeader(bytes, CHANNEL_ID, type, length);
    return bytes;
  };
  const OTHER = CHANNEL_ID + 2;
  type Violation = (peer: RawPeer) => void;

  const anyRole: readonly [what: string, violate: Violation][] = [
    ['an EOS behind what came', (peer) => peer.send(FrameType.EOS, offsets(1))],
    [
      'an EOS before what came',
      (peer) => {
        peer.send(FrameType.DATA, Buffer.from('abc'));
        peer.send(FrameType.EOS, offsets(2));
      },
    ],
    ['an EOS of the wrong length', (peer) => peer.send(FrameType.EOS, offsets(0).subarray(1))],
    ['an EOS beyond 2^53', (peer) => peer.send(FrameType.EOS, offsets(2n ** 64n - 1n))],
    ['an EOS of another channel', (peer) => peer.send(FrameType.EOS, offsets(0), OTHER)],
    [
      'DATA over its credit',
      (peer) => {
        for (let i = 0; i < 4; i += 1) peer.send(FrameType.DATA, Buffer.alloc(INITIAL_WINDOW_BYTES / 4));
        peer.send(FrameType.DATA, Buffer.alloc(1));
      },
    ],
    ['DATA of another channel', (peer) => peer.send(FrameType.DATA, Buffer.from('x'), OTHER)],
    ['DATA over its limit', (peer) => peer.stream.write(header(FrameType.DATA, MAX_DATA_BYTES + 1), null)],
    ['an ACK of bytes never sent', (peer) => peer.send(FrameType.ACK, offsets(1, INITIAL_WINDOW_BYTES))],
    ['an ACK beyond 2^53', (peer) => peer.send(FrameType.ACK, offsets(2n ** 53n, 0))],
    ['a limit beyond 2^53', (peer) => peer.send(FrameType.ACK, offsets(0, 2n ** 63n))],
    ['an ACK of the wrong length', (peer) => peer.send(FrameType.ACK, offsets(0))],
    ['an ACK of another channel', (peer) => peer.send(FrameType.ACK, offsets(0, 0), OTHER)],
    ['an ERROR that is malformed', (peer) => peer.send(FrameType.ERROR, Buffer.from('oops'))],
    ['an ERROR of another channel', (peer) => peer.send(FrameType.ERROR, encodeError(1, ''), OTHER)],
    ['a frame of an unknown type', (peer) => peer.send(0x7f, Buffer.from('x'))],
    ['an empty frame of an unknown type', (peer) => peer.send(0x00, Buffer.alloc(0))],
    ['a HELLO', (peer) => peer.send(FrameType.HELLO, Buffer.from('{}'))],
    [
      'a control frame over its limit',
      (peer) => peer.stream.write(header(FrameType.ACK, MAX_CONTROL_BYTES + 1), null),
    ],
    ['the end of its stream', (peer) => peer.stream.finish()],
    [
      'the end of its stream behind DATA',
      (peer) => {
        peer.send(FrameType.DATA, Buffer.from('abc'));
        peer.stream.finish();
      },
    ],
    [
      'the end of its stream inside DATA',
      (peer) => {
        peer.stream.write(header(FrameType.DATA, 10), Buffer.from('abc'));
        peer.stream.finish();
      },
    ],
    [
      'the end of its stream inside an EOS',
      (peer) => {
        peer.stream.write(encodeFrame(CHANNEL_ID, FrameType.EOS, offsets(0)).subarray(0, -1), null);
        peer.stream.finish();
      },
    ],
  ];
  const opened = offsets(INITIAL_WINDOW_BYTES);
  const asAcceptor: readonly [what: string, violate: Violation][] = [
    ['an OPENED, being the opener', (peer) => peer.send(FrameType.OPENED, opened)],
  ];
  const asOpener: readonly [what: string, violate: Violation][] = [
    ['an OPENED of the wrong length', (peer) => peer.send(FrameType.OPENED, Buffer.alloc(7))],
    ['an OPENED beyond 2^53', (peer) => peer.send(FrameType.OPENED, offsets(2n ** 60n))],
    ['an OPENED of another channel', (peer) => peer.send(FrameType.OPENED, opened, OTHER)],
    [
      'a second OPENED',
      (peer) => {
        peer.send(FrameType.OPENED, opened);
        peer.send(FrameType.OPENED, opened);
      },
    ],
  ];
  const table = [
    ...anyRole.flatMap(([what, violate]) => [
      ['opener', what, violate] as const,
      ['acceptor', what, violate] as const,
    ]),
    ...asAcceptor.map(([what, violate]) => ['acceptor', what, violate] as const),
    ...asOpener.map(([what, violate]) => ['opener', what, violate] as const),
  ];

  it.each(table)('fails the %s with PROTOCOL, and never ends it, by %s', async (role, _what, violate) => {
    const { side, peer } = await rawPair(role, false);
    violate(peer);
    await ticks();
    expect(side.events.filter((event) => event !== 'opened')).toEqual(['closed PROTOCOL']);
    expect(peer.seen.events).toContain('reset 7');
    peer.close();
  });

  const afterEos: readonly [what: string, violate: Violation][] = [
    ['DATA after its EOS', (peer) => peer.send(FrameType.DATA, Buffer.from('x'))],
    ['a second EOS', (peer) => peer.send(FrameType.EOS, offsets(0))],
    ['the end of its stream before ours', (peer) => peer.stream.finish()],
    ['an ACK of an EOS never sent', (peer) => peer.send(FrameType.ACK, offsets(1, 0))],
  ];
  it.each(afterEos)('fails the channel by %s', async (_what, violate) => {
    const { side, peer } = await rawPair('acceptor', false);
    peer.send(FrameType.EOS, offsets(0));
    violate(peer);
    await ticks();
    expect(side.events).toEqual(['end', 'closed PROTOCOL']);
    peer.close();
  });

  it('is told nothing of what came behind the violation', async () => {
    const { side, peer } = await rawPair('acceptor', false);
    peer.stream.write(
      Buffer.concat([
        encodeFrame(CHANNEL_ID, FrameType.DATA, Buffer.from('good')),
        encodeFrame(CHANNEL_ID, 0x7f, Buffer.from('bad')),
        encodeFrame(CHANNEL_ID, FrameType.DATA, Buffer.from('late')),
        encodeFrame(CHANNEL_ID, FrameType.EOS, offsets(8)),
      ]),
      null,
    );
    await ticks();
    expect(side.bytes.toString()).toBe('good');
    expect(side.events).toEqual(['closed PROTOCOL']);
    peer.close();
  });

  it('never ends a channel cleanly by random bytes, and never crashes the process', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom('opener' as const, 'acceptor' as const),
        fc.array(fc.uint8Array({ minLength: 1, maxLength: 64 }), { maxLength: 6 }),
        async (role, chunks) => {
          const { side, peer } = await rawPair(role);
          for (const chunk of chunks) peer.stream.write(chunk, null);
          peer.stream.finish();
          await ticks(4);
          expect(side.events.at(-1)).toMatch(/^closed (PROTOCOL|RESET)$/);
          expect(side.events).not.toContain('end');
          peer.close();
        },
      ),
      { numRuns: 300 },
    );
  });

  it('ends a channel by frames in any order only where the end is proven', async () => {
    const frame = fc.oneof(
      {
        weight: 4,
        arbitrary: fc
          .uint8Array({ minLength: 1, maxLength: 5 })
          .map((body) => [FrameType.DATA, body] as const),
      },
      { weight: 2, arbitrary: fc.nat({ max: 12 }).map((at) => [FrameType.EOS, offsets(at)] as const) },
      {
        weight: 2,
        arbitrary: fc
          .tuple(fc.nat({ max: 6 }), fc.nat({ max: 9 }))
          .map(([a, b]) => [FrameType.ACK, offsets(a, b)] as const),
      },
      { weight: 1, arbitrary: fc.constant([FrameType.OPENED, opened] as const) },
      {
        weight: 1,
        arbitrary: fc.uint8Array({ maxLength: 9 }).map((body) => [FrameType.ERROR, body] as const),
      },
    );
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom('opener' as const, 'acceptor' as const),
        fc.array(frame, { maxLength: 8 }),
        fc.boolean(),
        async (role, frames, weEnd) => {
          const { side, channel, peer } = await rawPair(role);
          channel.write(Buffer.from('12345'));
          if (weEnd) channel.end();
          for (const [type, body] of frames) peer.send(type, body);
          peer.stream.finish();
          await ticks(4);
          let received = 0;
          let proven = false;
          for (const [type, body] of frames) {
            if (type === FrameType.DATA) received += body.length;
            if (type === FrameType.EOS && (body as Buffer).readBigUInt64BE(0) === BigInt(received))
              proven = true;
          }
          const acked = frames.some(
            ([type, body]) => type === FrameType.ACK && (body as Buffer).readBigUInt64BE(0) === 6n,
          );
          expect(channel.isClosed).toBe(true);
          if (side.events.includes('end')) expect(proven).toBe(true);
          if (side.events.at(-1) === 'closed') expect([proven, acked, weEnd]).toEqual([true, true, true]);
          expect(side.events.filter((event) => event === 'end').length).toBeLessThanOrEqual(1);
          expect(side.events.filter((event) => event.startsWith('closed'))).toHaveLength(1);
          peer.close();
        },
      ),
      { numRuns: 500 },
    );
  });

  it('knows its codes: PROTOCOL is 7 on the wire', () => {
    expect(WIRE_CODES.PROTOCOL).toBe(7);
  });
});
