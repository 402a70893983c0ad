/** RpcSession over a stream of the in-memory engine: calls, streaming calls, tunnels, limits. */
import { describe, expect, it } from 'vitest';
import { TunnelError } from '../../src/error.js';
import type { Channel, ChannelReceiver } from '../../src/session/channel.js';
import { memorySessionPair } from '../../src/session/engines/memory.js';
import { encodeFrame, FrameType } from '../../src/session/frame.js';
import { methodId, RpcSession, type RpcSessionOptions } from '../../src/session/rpc-session.js';
import type { BidirectionalStream } from '../../src/session/session.js';

interface Pair {
  readonly a: RpcSession;
  readonly b: RpcSession;
  readonly aStream: BidirectionalStream;
  cut(): void;
}

async function streams(): Promise<{ a: BidirectionalStream; b: BidirectionalStream; cut(): void }> {
  const { dialler, acceptor, cut } = memorySessionPair();
  const a = await dialler.createBidirectionalStream();
  const next = await acceptor.incomingBidirectionalStreams[Symbol.asyncIterator]().next();
  return { a, b: next.value as BidirectionalStream, cut };
}

async function pair(options: Partial<RpcSessionOptions> = {}): Promise<Pair> {
  const { a, b, cut } = await streams();
  return {
    a: new RpcSession(a, { role: 'dialler' }),
    b: new RpcSession(b, { role: 'acceptor', ...options }),
    aStream: a,
    cut,
  };
}

const text = (bytes: Uint8Array) => Buffer.from(bytes).toString();
const bytes = (value: string) => Buffer.from(value);
const codeOf = (promise: Promise<unknown>) =>
  promise.then(
    () => 'none',
    (error: TunnelError) => error.code,
  );

/** Collects what arrives on a channel, at once or when told to. */
function collect(channel: Channel, options: { consume: boolean } = { consume: true }) {
  const chunks: Buffer[] = [];
  let ended!: (how: string) => void;
  const done = new Promise<string>((resolve) => {
    ended = resolve;
  });
  let sawEnd = false;
  let draining: (() => void) | undefined;
  const receiver: ChannelReceiver = {
    data: (piece) => {
      chunks.push(Buffer.from(piece));
      if (options.consume) channel.consumed(piece.length);
    },
    flush: () => undefined,
    end: () => {
      sawEnd = true;
      channel.endConsumed();
    },
    drain: () => draining?.(),
    opened: () => undefined,
    closed: (error) => ended(error ? error.code : sawEnd ? 'eos' : 'none'),
  };
  return {
    receiver,
    done,
    get received() {
      return Buffer.concat(chunks);
    },
    drained: () =>
      new Promise<void>((resolve) => {
        draining = resolve;
      }),
  };
}

async function nextTunnel(rpc: RpcSession) {
  const { value } = await rpc.incomingTunnels[Symbol.asyncIterator]().next();
  return value as { channel: Channel; body: Buffer };
}

describe('a session whose transport ends under a write', () => {
  it('is lost, whatever the write says: the reason is on its way', async () => {
    const { a, cut } = await streams();
    a.write = () => {
      throw new TunnelError('STREAM_CLOSED', 'closed by peer: no answer for 5 s (code 11)');
    };
    const rpc = new RpcSession(a, { role: 'dialler' });
    expect(await codeOf(rpc.call('ping'))).toBe('SESSION_LOST');
    expect(await rpc.closed).toMatchObject({ code: 'SESSION_LOST' });
    cut();
  });
});

describe('method ids', () => {
  it('are FNV-1a of 32 bits', () => {
    // The vectors of the hash's authors (http://www.isthe.com/chongo/tech/comp/fnv/).
    expect(methodId('')).toBe(0x811c9dc5);
    expect(methodId('a')).toBe(0xe40c292c);
    expect(methodId('foobar')).toBe(0xbf9cf968);
  });

  it('refuse two methods with one id', async () => {
    const { a } = await pair();
    // A known collision of 32-bit FNV-1a.
    expect(methodId('costarring')).toBe(methodId('liquid'));
    expect(() => a.setDispatcher({ costarring: async (p) => p, liquid: async (p) => p })).toThrow(
      TunnelError,
    );
  });
});

describe('calls', () => {
  it('are answered, many at once and out of order', async () => {
    const { a, b } = await pair();
    b.setDispatcher({
      wait: async (payload) => {
        const ms = Number(text(payload));
        await new Promise((resolve) => setTimeout(resolve, ms));
        return payload;
      },
    });
    const order: string[] = [];
    const answers = await Promise.all(
      ['20', '0', '10'].map(async (ms) => {
        const answer = text(await a.call('wait', bytes(ms)));
        order.push(answer);
        return answer;
      }),
    );
    expect(answers).toEqual(['20', '0', '10']);
    expect(order).toEqual(['0', '10', '20']);
  });

  it('that arrived with the stream find the dispatcher that is set right after', async () => {
    const { a, b } = await streams();
    const client = new RpcSession(a, { role: 'dialler' });
    const frame = Buffer.concat([encodeFrame(1, FrameType.CALL, Buffer.alloc(8))]);
    frame.writeUInt32BE(methodId('echo'), 12);
    const answer = client.call('echo', bytes('first'));
    const server = new RpcSession(b, { role: 'acceptor', rest: Buffer.alloc(0) });
    server.setDispatcher({ echo: (payload) => payload });
    expect(text(await answer)).toBe('first');
    const other = await streams();
    const late = new RpcSession(other.b, { role: 'acceptor', rest: frame });
    let called = 0;
    late.setDispatcher({
      echo: (payload) => {
        called += 1;
        return payload;
      },
    });
    await new Promise((resolve) => setImmediate(resolve));
    expect(called).toBe(1);
  });

  it('go both ways at once over one stream', async () => {
    const { a, b } = await pair();
    a.setDispatcher({ who: async () => bytes('a') });
    b.setDispatcher({ who: async () => bytes('b') });
    const answers = await Promise.all(
      Array.from({ length: 100 }, (_, i) => (i % 2 ? a : b).call('who').then(text)),
    );
    expect(answers.filter((answer) => answer === 'a')).toHaveLength(50);
    expect(answers.filter((answer) => answer === 'b')).toHaveLength(50);
  });

  it('carry every size up to the largest, and refuse one byte more', async () => {
    const { a, b } = await pair();
    b.setDispatcher({ echo: async (payload) => payload });
    const largest = 256 * 1024 - 8;
    for (const size of [0, 1, 11, 12, 13, 65_536, largest]) {
      expect((await a.call('echo', Buffer.alloc(size, 7))).length).toBe(size);
    }
    expect(await codeOf(a.call('echo', Buffer.alloc(largest + 1)))).toBe('TOO_LARGE');
  });

  it('of an unknown method are answered UNIMPLEMENTED', async () => {
    const { a } = await pair();
    expect(await codeOf(a.call('nothing'))).toBe('UNIMPLEMENTED');
  });

  it('fail with the code and message the handler threw, and hide what was not meant for a peer', async () => {
    const { a, b } = await pair();
    b.setDispatcher({
      known: async () => {
        throw new TunnelError('NOT_FOUND', 'no such thing');
      },
      bug: async () => {
        throw new Error('/secret/path is missing');
      },
    });
    await expect(a.call('known')).rejects.toMatchObject({ code: 'NOT_FOUND', message: 'no such thing' });
    await expect(a.call('bug')).rejects.toMatchObject({ code: 'INTERNAL' });
    await expect(a.call('bug')).rejects.not.toThrow(/secret/);
  });

  it('give up at their deadline, and the other side is told', async () => {
    const { a, b } = await pair();
    let aborted!: () => void;
    const told = new Promise<void>((resolve) => {
      aborted = resolve;
    });
    b.setDispatcher({
      never: (_payload, { signal }) => {
        signal.addEventListener('abort', aborted);
        return new Promise(() => undefined);
      },
    });
    expect(await codeOf(a.call('never', bytes(''), { deadlineMs: 20 }))).toBe('DEADLINE_EXCEEDED');
    await told;
  });

  it('are cancelled by their signal, and the other side is told', async () => {
    const { a, b } = await pair();
    const controller = new AbortController();
    const told = new Promise<void>((resolve) => {
      b.setDispatcher({
        never: (_payload, { signal }) => {
          signal.addEventListener('abort', () => resolve());
          controller.abort();
          return new Promise(() => undefined);
        },
      });
    });
    expect(await codeOf(a.call('never', bytes(''), { signal: controller.signal }))).toBe('CANCELLED');
    await told;
    expect(await codeOf(a.call('never', bytes(''), { signal: controller.signal }))).toBe('CANCELLED');
  });

  it('fail at once when the session dies, with a code', async () => {
    const { a, b, cut } = await pair();
    b.setDispatcher({ never: () => new Promise(() => undefined) });
    const calls = [a.call('never'), a.call('never')].map(codeOf);
    cut();
    expect(await Promise.all(calls)).toEqual(['SESSION_LOST', 'SESSION_LOST']);
    expect(await codeOf(a.call('never'))).toBe('SESSION_LOST');
    expect((await a.closed)?.code).toBe('SESSION_LOST');
    expect((await b.closed)?.code).toBe('SESSION_LOST');
  });

  it('beyond the limit of calls served at once are answered RESOURCE_EXHAUSTED', async () => {
    const { a, b } = await pair({ limits: { maxIncomingCalls: 2 } });
    b.setDispatcher({ never: () => new Promise(() => undefined), echo: async (p) => p });
    void codeOf(a.call('never'));
    void codeOf(a.call('never'));
    expect(await codeOf(a.call('echo'))).toBe('RESOURCE_EXHAUSTED');
  });
});

describe('streaming calls', () => {
  it('yield every item in order, then end', async () => {
    const { a, b } = await pair();
    b.setDispatcher({
      count: async function* (payload) {
        for (let i = 0; i < Number(text(payload)); i += 1) yield bytes(`item ${i}`);
      },
    });
    const items: string[] = [];
    for await (const item of a.streamingCall('count', bytes('1000'))) items.push(text(item));
    expect(items).toEqual(Array.from({ length: 1000 }, (_, i) => `item ${i}`));
  });

  it('yield no faster than the loop takes', async () => {
    const { a, b } = await pair();
    let yielded = 0;
    b.setDispatcher({
      flood: async function* () {
        for (;;) {
          yielded += 1;
          yield Buffer.alloc(16 * 1024);
        }
      },
    });
    const items = a.streamingCall('flood')[Symbol.asyncIterator]();
    await items.next();
    let before = -1;
    while (before !== yielded) {
      before = yielded;
      await new Promise((resolve) => setTimeout(resolve, 30));
    }
    // A window of 256 KiB, and what one write may be ahead.
    expect(yielded).toBeLessThan(40);
    await items.return?.(undefined);
  });

  it('end on the other side when the loop is left', async () => {
    const { a, b } = await pair();
    let left!: () => void;
    const told = new Promise<void>((resolve) => {
      left = resolve;
    });
    b.setDispatcher({
      forever: async function* () {
        try {
          for (;;) yield Buffer.alloc(1024);
        } finally {
          left();
        }
      },
    });
    for await (const _ of a.streamingCall('forever')) break;
    await told;
  });

  it('bring a failure in mid-stream behind the items before it', async () => {
    const { a, b } = await pair();
    b.setDispatcher({
      some: async function* () {
        yield bytes('one');
        yield bytes('two');
        throw new TunnelError('FAILED_PRECONDITION', 'no more');
      },
    });
    const items: string[] = [];
    const failure = (async () => {
      for await (const item of a.streamingCall('some')) items.push(text(item));
    })();
    await expect(failure).rejects.toMatchObject({ code: 'FAILED_PRECONDITION', message: 'no more' });
    expect(items).toEqual(['one', 'two']);
  });

  it('of an unknown method, past a deadline, cancelled, or on a dead session fail with their code', async () => {
    const { a, b, cut } = await pair();
    const drain = async (options?: object, method = 'never') => {
      for await (const _ of a.streamingCall(method, bytes(''), options));
    };
    b.setDispatcher({
      never: async function* () {
        yield bytes('first');
        await new Promise(() => undefined);
      },
    });
    expect(await codeOf(drain({}, 'nothing'))).toBe('UNIMPLEMENTED');
    expect(await codeOf(drain({ deadlineMs: 20 }))).toBe('DEADLINE_EXCEEDED');
    const controller = new AbortController();
    const cancelled = codeOf(drain({ signal: controller.signal }));
    controller.abort();
    expect(await cancelled).toBe('CANCELLED');
    const lost = codeOf(drain());
    cut();
    expect(await lost).toBe('SESSION_LOST');
  });
});

describe('tunnels', () => {
  it('use odd ids from the dialler and even ones from the acceptor, two apart', async () => {
    const { a, b } = await pair();
    const ids = [a, a, b, b].map((rpc) => rpc.openTunnel(bytes('x')).channelId);
    expect(ids).toEqual([1, 3, 2, 4]);
  });

  it('carry bytes both ways and end each direction on its own', async () => {
    const { a, b } = await pair();
    const near = a.openTunnel(bytes('what for'));
    const nearSide = collect(near);
    near.start(nearSide.receiver);
    near.write(bytes('early'));
    near.end();
    const { channel: far, body } = await nextTunnel(b);
    expect(text(body)).toBe('what for');
    const farSide = collect(far);
    far.start(farSide.receiver);
    far.accept();
    far.write(Buffer.alloc(100_000, 1));
    far.end();
    expect([await nearSide.done, await farSide.done]).toEqual(['eos', 'eos']);
    expect(text(farSide.received)).toBe('early');
    expect(nearSide.received.length).toBe(100_000);
  });

  it('that are rejected tell why, and that are aborted arrive as a reset', async () => {
    const { a, b } = await pair();
    const rejected = a.openTunnel(bytes(''));
    const rejectedSide = collect(rejected);
    rejected.start(rejectedSide.receiver);
    const first = await nextTunnel(b);
    first.channel.start(collect(first.channel).receiver);
    first.channel.reject(new TunnelError('REFUSED', 'nobody there'));
    expect(await rejectedSide.done).toBe('REFUSED');

    const aborted = a.openTunnel(bytes(''));
    aborted.start(collect(aborted).receiver);
    const second = await nextTunnel(b);
    const secondSide = collect(second.channel);
    second.channel.start(secondSide.receiver);
    aborted.abort(new TunnelError('RESET', 'gone'));
    expect(await secondSide.done).toBe('RESET');
  });

  it('that nobody reads delay neither calls nor other tunnels', async () => {
    const { a, b } = await pair();
    b.setDispatcher({ echo: async (payload) => payload });
    const stalled = a.openTunnel(bytes('stalled'));
    stalled.start(collect(stalled).receiver);
    const far = await nextTunnel(b);
    const farSide = collect(far.channel, { consume: false });
    far.channel.start(farSide.receiver);
    far.channel.accept();
    // Far more than its credit: most of it has to wait on this side.
    stalled.write(Buffer.alloc(8 * 1024 * 1024));
    for (let i = 0; i < 50; i += 1) await a.call('echo', bytes('x'));
    const other = a.openTunnel(bytes('other'));
    const otherSide = collect(other);
    other.start(otherSide.receiver);
    other.write(Buffer.alloc(1024 * 1024, 2));
    other.end();
    const otherFar = await nextTunnel(b);
    const otherFarSide = collect(otherFar.channel);
    otherFar.channel.start(otherFarSide.receiver);
    otherFar.channel.accept();
    otherFar.channel.end();
    expect(await otherFarSide.done).toBe('eos');
    expect(otherFarSide.received.length).toBe(1024 * 1024);
    expect(farSide.received.length).toBeLessThanOrEqual(256 * 1024);
  });

  it('are lost with the session', async () => {
    const { a, b, cut } = await pair();
    const near = a.openTunnel(bytes(''));
    const nearSide = collect(near);
    near.start(nearSide.receiver);
    const far = await nextTunnel(b);
    const farSide = collect(far.channel);
    far.channel.start(farSide.receiver);
    cut();
    expect([await nearSide.done, await farSide.done]).toEqual(['SESSION_LOST', 'SESSION_LOST']);
  });

  it('come and go by the thousand and leave nothing behind', async () => {
    const { a, b } = await pair();
    const serve = (async () => {
      for await (const { channel } of b.incomingTunnels) {
        const side = collect(channel);
        channel.start(side.receiver);
        channel.accept();
        channel.end();
      }
    })();
    for (let i = 0; i < 3000; i += 1) {
      const channel = a.openTunnel(bytes('x'));
      const side = collect(channel);
      channel.start(side.receiver);
      channel.end();
      expect(await side.done).toBe('eos');
    }
    a.close();
    await serve;
    expect(a.openTunnels + b.openTunnels).toBe(0);
  });
});

describe('a peer that breaks the protocol ends the session with PROTOCOL', () => {
  it.each<[string, Buffer]>([
    ['a frame too long', Buffer.from([0, 0, 0, 1, 0x10, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])],
    ['an unknown type on a channel never opened', encodeFrame(7, 0x7f, Buffer.alloc(0))],
    ['DATA on a channel never opened', encodeFrame(9, FrameType.DATA, Buffer.alloc(5))],
    ['an answer to nothing', encodeFrame(2, FrameType.RESULT, Buffer.alloc(5))],
    ['a call without a method', encodeFrame(1, FrameType.CALL, Buffer.alloc(3))],
    ['a call on an id of the other side', encodeFrame(2, FrameType.CALL, Buffer.alloc(8))],
    ['a session frame nobody expects', encodeFrame(0, FrameType.HELLO, Buffer.alloc(1))],
  ])('%s', async (_what, frame) => {
    const { a, b } = await streams();
    const rpc = new RpcSession(b, { role: 'acceptor' });
    a.write(null, frame);
    expect((await rpc.closed)?.code).toBe('PROTOCOL');
  });

  it('an id used twice', async () => {
    const { a, b } = await streams();
    const rpc = new RpcSession(b, { role: 'acceptor' });
    const call = encodeFrame(1, FrameType.CALL, Buffer.alloc(8));
    a.write(call, call);
    expect((await rpc.closed)?.code).toBe('PROTOCOL');
  });

  it('anything before it was admitted', async () => {
    const { a, b } = await streams();
    const rpc = new RpcSession(b, { role: 'acceptor', admitted: false });
    a.write(null, encodeFrame(1, FrameType.CALL, Buffer.alloc(8)));
    expect((await rpc.closed)?.code).toBe('PROTOCOL');
  });

  it('more early data than the window, before anyone took the tunnel', async () => {
    const { a, b } = await streams();
    const rpc = new RpcSession(b, { role: 'acceptor' });
    a.write(null, encodeFrame(1, FrameType.OPEN, Buffer.alloc(0)));
    for (let i = 0; i < 5; i += 1) a.write(null, encodeFrame(1, FrameType.DATA, Buffer.alloc(64 * 1024)));
    expect((await rpc.closed)?.code).toBe('PROTOCOL');
  });
});
