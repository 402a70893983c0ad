/** Speed tests below the command: the messages, the counting of datagrams, and the bounds of the server. */
import { afterEach, describe, expect, it } from 'vitest';
import { memorySessionPair } from '../../src/session/engines/memory.js';
import { acceptHandshake, dialHandshake, type PeerSession } from '../../src/session/handshake.js';
import { Identity } from '../../src/session/identity.js';
import { encodePreamble, readPreamble, StreamKind } from '../../src/session/preamble.js';
import { measureBulk } from '../../src/tunnel/speed-client.js';
import { DatagramSink } from '../../src/tunnel/speed-datagrams.js';
import {
  decodeAccepted,
  decodeFigures,
  decodeRequest,
  encodeSpeedStream,
  MAX_DURATION_MS,
} from '../../src/tunnel/speed-messages.js';
import { SpeedServer } from '../../src/tunnel/speed-server.js';
import { thrown } from '../support/errors.js';
import { eventually } from '../support/eventually.js';
import { checkLeaks } from '../support/leaks.js';

checkLeaks();

const json = (value: unknown) => Buffer.from(JSON.stringify(value));

describe('messages', () => {
  it('of a request are cut to the limits', () => {
    const request = { direction: 'up', kind: 'datagram', durationMs: 1e9, bitsPerSecond: 1e12 };
    expect(decodeRequest(json(request))).toEqual({
      direction: 'up',
      kind: 'datagram',
      durationMs: MAX_DURATION_MS,
      bitsPerSecond: 1e9,
    });
  });

  it.each([
    null,
    {},
    { direction: 'sideways', kind: 'stream', durationMs: 1 },
    { direction: 'up', kind: 'x', durationMs: 1 },
    { direction: 'up', kind: 'stream', durationMs: 0 },
    { direction: 'up', kind: 'stream', durationMs: '5' },
    { direction: 'up', kind: 'datagram', durationMs: 1 },
  ])('%j is no request', (value) => {
    expect(thrown(() => decodeRequest(json(value))).code).toBe('INVALID_ARGUMENT');
  });

  it.each([
    null,
    {},
    { test: 0, durationMs: 1 },
    { test: 1.5, durationMs: 1 },
    { test: 2 ** 32, durationMs: 1 },
    { test: 1 },
  ])('%j accepts nothing', (value) => {
    expect(thrown(() => decodeAccepted(json(value))).code).toBe('PROTOCOL');
  });

  it('of figures have every number', () => {
    const figures = {
      ms: 1,
      bytes: 2,
      datagrams: 3,
      jitterMs: 0,
      packetsSent: 5,
      packetsLost: 0,
      final: true,
    };
    expect(decodeFigures(json(figures))).toEqual(figures);
    for (const key of Object.keys(figures).filter((one) => one !== 'final')) {
      expect(thrown(() => decodeFigures(json({ ...figures, [key]: -1 }))).code).toBe('PROTOCOL');
    }
  });
});

describe('datagrams', () => {
  const datagram = (test: number, number: number, sentMs: number) => {
    const bytes = Buffer.alloc(100);
    bytes[0] = 3;
    bytes.writeUInt32BE(test, 1);
    bytes.writeUInt32BE(number, 5);
    bytes.writeDoubleBE(sentMs, 9);
    return bytes;
  };

  it('count once each, in any order, of the test only', () => {
    const sink = new DatagramSink(7);
    for (const number of [0, 2, 1, 1, 0, 3]) sink.accept(datagram(7, number, 0), 10);
    sink.accept(datagram(8, 9, 0), 10);
    sink.accept(datagram(7, 4, 0).subarray(0, 16), 10);
    expect([sink.received, sink.bytes]).toEqual([4, 400]);
    // One that comes 8,192 numbers late can not be told from a copy.
    sink.accept(datagram(7, 8192, 0), 10);
    sink.accept(datagram(7, 0, 0), 10);
    expect(sink.received).toBe(5);
  });

  it('that take equally long have no jitter, whatever the clocks say', () => {
    const even = new DatagramSink(1);
    for (let i = 0; i < 50; i += 1) even.accept(datagram(1, i, 1e6 + i * 10), i * 10);
    expect(even.jitterMs).toBe(0);
    const uneven = new DatagramSink(1);
    for (let i = 0; i < 200; i += 1) uneven.accept(datagram(1, i, i * 10), i * 10 + (i % 2) * 8);
    // Every other one takes 8 ms longer.
    expect(uneven.jitterMs).toBeCloseTo(8, 1);
  });
});

describe('the server', () => {
  const owner = Identity.generate();
  const closing: (() => void)[] = [];
  afterEach(() => {
    for (const close of closing.splice(0)) close();
  });

  /** A session of `client` to `server`, served as an expose serves it. */
  async function connect(server: SpeedServer, client = Identity.generate(), allowed = { now: true }) {
    const pair = memorySessionPair({ ids: [Identity.generate().nodeId, owner.nodeId] });
    const connection = server.connection({
      peer: client.nodeId,
      session: pair.acceptor,
      mayMeasure: () => allowed.now,
    });
    const [peer, { streams }] = await Promise.all([
      dialHandshake(pair.dialler, { identity: client, tokens: [] }),
      acceptHandshake(pair.acceptor, {
        identity: owner,
        admit: () => true,
        services: () => [],
        dispatcher: () => connection.dispatcher,
      }),
    ]);
    const refused: string[] = [];
    void (async () => {
      for await (const stream of streams) {
        readPreamble(
          stream,
          (preamble) => {
            try {
              connection.stream(stream, preamble);
            } catch (error) {
              refused.push((error as { code: string }).code);
              stream.reset(6);
              stream.stop(6);
            }
          },
          () => undefined,
        );
      }
    })();
    closing.push(() => pair.dialler.close());
    return { peer, refused };
  }

  const test = (peer: PeerSession) =>
    measureBulk(peer, {
      direction: 'up',
      durationMs: 300,
      onProgress: () => undefined,
      signal: new AbortController().signal,
    });

  /** Resolves when one is under way that ends when it is left. */
  function begin(peer: PeerSession, signal: AbortSignal): Promise<{ readonly code: Promise<string> }> {
    return new Promise((resolve) => {
      const code = measureBulk(peer, {
        direction: 'up',
        durationMs: 30_000,
        onProgress: () => resolve({ code }),
        signal,
      }).then(
        () => 'over',
        (error) => error.code as string,
      );
    });
  }

  it('refuses a second test of a peer, also on another session, and lets go of one that was left', async () => {
    const server = new SpeedServer();
    const client = Identity.generate();
    const [first, second] = [await connect(server, client), await connect(server, client)];
    const leaving = new AbortController();
    const running = await begin(first.peer, leaving.signal);
    await expect(test(second.peer)).rejects.toMatchObject({ code: 'RESOURCE_EXHAUSTED' });
    leaving.abort();
    expect(await running.code).toBe('CANCELLED');
    expect(await eventually(() => test(second.peer).then(Boolean, () => false))).toBe(true);
  });

  it('serves four at once', async () => {
    const server = new SpeedServer();
    const leaving = new AbortController();
    const running: { readonly code: Promise<string> }[] = [];
    for (let i = 0; i < 4; i += 1) running.push(await begin((await connect(server)).peer, leaving.signal));
    const { peer } = await connect(server);
    await expect(test(peer)).rejects.toMatchObject({ code: 'RESOURCE_EXHAUSTED' });
    leaving.abort();
    expect(await Promise.all(running.map(({ code }) => code))).toEqual(Array(4).fill('CANCELLED'));
  });

  it('denies who may not, asked anew each time', async () => {
    const allowed = { now: false };
    const { peer } = await connect(new SpeedServer(), Identity.generate(), allowed);
    await expect(test(peer)).rejects.toMatchObject({ code: 'DENIED' });
    allowed.now = true;
    expect((await test(peer)).bytes).toBeGreaterThan(0);
  });

  it('refuses a stream of no test', async () => {
    const { peer, refused } = await connect(new SpeedServer());
    const stream = await peer.session.createBidirectionalStream();
    stream.write(encodePreamble(StreamKind.SPEED, encodeSpeedStream(1)), null);
    expect(await eventually(() => refused[0] === 'DENIED')).toBe(true);
    const malformed = await peer.session.createBidirectionalStream();
    malformed.write(encodePreamble(StreamKind.SPEED, Buffer.alloc(3)), null);
    expect(await eventually(() => refused.length === 2)).toBe(true);
  });
});
