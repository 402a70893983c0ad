/**
 * What every engine must pass: the promises of `src/session/session.ts`, told as tests. An engine's
 * own test file calls `sessionContract` with what makes a pair of connected sessions.
 */
import { randomBytes } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type {
  BidirectionalStream,
  CloseInfo,
  ReceiveStream,
  SendStream,
  Session,
} from '../../src/session/session.js';
import { rejected, thrown } from '../support/errors.js';
import { eventually } from '../support/eventually.js';
import { checkLeaks, type LeakOptions } from '../support/leaks.js';
import { Recorder } from '../support/recorder.js';
import { ticks } from '../support/ticks.js';

export interface Sessions {
  readonly dialler: Session;
  readonly acceptor: Session;
}

export interface SessionPair extends Sessions {
  readonly diallerId: string;
  readonly acceptorId: string;
  /** One more session between the same two nodes. */
  again(): Promise<Sessions>;
  /** Closes everything that belongs to the pair. */
  dispose(): Promise<void>;
}

/** A session whose peer can die without a word. */
export interface MortalPeer {
  readonly session: Session;
  /** A stream on which the peer has sent `alive`, and goes on holding open. */
  readonly stream: BidirectionalStream;
  kill(): void;
  dispose(): Promise<void>;
}

export interface Engine {
  makePair(): Promise<SessionPair>;
  makeMortalPeer(): Promise<MortalPeer>;
  readonly leaks?: LeakOptions;
  /** What it takes at most of a stream that nobody reads, bytes, where that is more than `MOST_IN_FLIGHT`. */
  readonly mostUnread?: number;
}

/** No engine may take more than this before it first says that it is enough: all windows and buffers together. */
const MOST_IN_FLIGHT = 16 * 1024 * 1024;
/** No engine may hand a receiver more than this without getting any of it back. */
const MOST_UNCONSUMED = 2 * 1024 * 1024;
const CHUNK = Buffer.alloc(64 * 1024, 0x61);
const SIDES = ['dialler', 'acceptor'] as const;

export function sessionContract(name: string, engine: Engine): void {
  describe(`${name}: a session`, { timeout: 15_000 }, () => {
    checkLeaks(engine.leaks);
    let pair: SessionPair;

    beforeEach(async () => {
      pair = await engine.makePair();
    });
    afterEach(async () => {
      await pair.dispose();
      // Nothing here may keep what the engine is to let go of.
      pair = undefined as unknown as SessionPair;
    });

    const other = (side: (typeof SIDES)[number]) => (side === 'dialler' ? pair.acceptor : pair.dialler);

    /** A stream from one side to the other, both ends of it; its first byte, 0, is read already. */
    async function openStream(
      from: Session = pair.dialler,
      to: Session = pair.acceptor,
    ): Promise<{ near: BidirectionalStream; far: BidirectionalStream }> {
      const near = await from.createBidirectionalStream();
      near.write(null, Buffer.of(0));
      const far = await next(to.incomingBidirectionalStreams);
      return { near, far };
    }

    /** As `openStream`, with recorders on both ends that read, and the first byte out of the way. */
    async function recorded(options: { farReads?: boolean } = {}) {
      const { near, far } = await openStream();
      const nearSeen = new Recorder();
      const farSeen = new Recorder();
      near.receive(nearSeen.sink(near));
      far.receive(farSeen.sink(far, { consume: options.farReads ?? true }));
      await farSeen.until(({ received }) => received === 1);
      return { near, far, nearSeen, farSeen };
    }

    describe('who is there', () => {
      it('names the other end, and its own role', () => {
        expect([pair.dialler.remoteId, pair.acceptor.remoteId]).toEqual([pair.acceptorId, pair.diallerId]);
        expect([pair.dialler.role, pair.acceptor.role]).toEqual(['dialler', 'acceptor']);
      });

      it('is ready, and has a path', async () => {
        for (const session of [pair.dialler, pair.acceptor]) {
          await session.ready;
          expect(session.path.kind).toMatch(/^(memory|iroh-direct|iroh-relay|webtransport-h[23])$/);
          expect(session.path.rttMs).toBeGreaterThanOrEqual(0);
          session.onPathChange(() => undefined)();
          expect(session.paths().filter(({ selected }) => selected)).toMatchObject([
            { kind: session.path.kind, remote: session.path.remote },
          ]);
        }
      });

      it('exports the same keying material at both ends, by label and length', () => {
        const here = pair.dialler.exportKeyingMaterial('EXPORTER-test', 32);
        expect(here).toHaveLength(32);
        expect(pair.acceptor.exportKeyingMaterial('EXPORTER-test', 32)).toEqual(here);
        expect(pair.dialler.exportKeyingMaterial('EXPORTER-other', 32)).not.toEqual(here);
        expect(pair.dialler.exportKeyingMaterial('EXPORTER-test', 48)).toHaveLength(48);
      });

      it('exports other keying material than another session of the same two nodes', async () => {
        const again = await pair.again();
        const [first, second] = [pair, again].map(({ dialler }) =>
          dialler.exportKeyingMaterial('EXPORTER-test', 32),
        );
        expect(second).not.toEqual(first);
        again.dialler.close();
      });

      it('counts what it carries', async () => {
        const { near, farSeen } = await recorded();
        near.write(null, CHUNK);
        await farSeen.until(({ received }) => received > CHUNK.length);
        expect(pair.dialler.stats().bytesSent).toBeGreaterThanOrEqual(CHUNK.length);
        expect(pair.acceptor.stats().bytesReceived).toBeGreaterThanOrEqual(CHUNK.length);
      });
    });

    describe('streams', () => {
      it.each(SIDES)('opened by the %s carry bytes both ways', async (side) => {
        const { near, far } = await openStream(pair[side], other(side));
        const [nearSeen, farSeen] = [new Recorder(), new Recorder()];
        near.receive(nearSeen.sink(near));
        far.receive(farSeen.sink(far));
        near.write(Buffer.from('head '), Buffer.from('body'));
        far.write(null, Buffer.from('answer'));
        near.finish();
        far.finish();
        await Promise.all([nearSeen.seen('end'), farSeen.seen('end')]);
        expect(farSeen.bytes.toString()).toBe('\0head body');
        expect(nearSeen.bytes.toString()).toBe('answer');
      });

      it.each(SIDES)('in one direction, opened by the %s, carry bytes', async (side) => {
        const near = await pair[side].createUnidirectionalStream();
        near.write(null, Buffer.from('one way'));
        near.finish();
        const far = await next(other(side).incomingUnidirectionalStreams);
        const seen = new Recorder();
        far.receive(seen.sink(far));
        await seen.seen('end');
        expect(seen.bytes.toString()).toBe('one way');
        expect(seen.events).toEqual(['end']);
      });

      it('in one direction carry resets and stops', async () => {
        const reset = await pair.dialler.createUnidirectionalStream();
        reset.write(null, Buffer.of(0));
        const resetFar = await next(pair.acceptor.incomingUnidirectionalStreams);
        const seen = new Recorder();
        resetFar.receive(seen.sink(resetFar));
        reset.reset(77);
        await seen.seen('reset 77');
        const stopped = await pair.dialler.createUnidirectionalStream();
        stopped.write(null, Buffer.of(0));
        const stoppedFar = await next(pair.acceptor.incomingUnidirectionalStreams);
        stoppedFar.stop(78);
        expect(await eventually(() => isClosedForWriting(stopped))).toBe(true);
      });

      it('deliver a large transfer intact, both ways at once', async () => {
        const { near, far, nearSeen, farSeen } = await recorded();
        const [there, back] = [randomBytes(8 * 1024 * 1024), randomBytes(8 * 1024 * 1024)];
        await Promise.all([writeAll(near, nearSeen, there), writeAll(far, farSeen, back)]);
        near.finish();
        far.finish();
        await Promise.all([nearSeen.seen('end'), farSeen.seen('end')]);
        expect(farSeen.bytes.subarray(1).equals(there)).toBe(true);
        expect(nearSeen.bytes.equals(back)).toBe(true);
      });

      it('take the bytes before write returns', async () => {
        const { near, farSeen } = await recorded();
        const [head, body] = [Buffer.from('aa'), Buffer.alloc(100_000, 'b')];
        near.write(head, body);
        head.fill('x');
        body.fill('x');
        await farSeen.until(({ received }) => received === 1 + 100_002);
        expect(farSeen.bytes.includes('x')).toBe(false);
      });

      it('take nothing at all as nothing', async () => {
        const { near, farSeen } = await recorded();
        expect(near.write(null, null)).toBe(true);
        expect(near.write(Buffer.alloc(0), Buffer.alloc(0))).toBe(true);
        near.write(null, Buffer.from('x'));
        near.finish();
        await farSeen.seen('end');
        expect(farSeen.bytes.toString()).toBe('\0x');
      });

      it('finished by one side still bring the late reply in full', async () => {
        const { near, far, nearSeen, farSeen } = await recorded();
        near.finish();
        await farSeen.seen('end');
        expect(nearSeen.events).toEqual([]);
        const reply = randomBytes(1024 * 1024);
        await writeAll(far, farSeen, reply);
        far.finish();
        await nearSeen.seen('end');
        expect(nearSeen.bytes.equals(reply)).toBe(true);
      });

      it('whose end may come late end by themselves, and with the last bytes', async () => {
        const { near, far, nearSeen, farSeen } = await recorded();
        near.finish(Buffer.from('last'), 'late');
        await farSeen.seen('end');
        // Nothing has gone this way for a while, so no other packet takes it along.
        await setTimeout(50);
        far.finish(undefined, 'late');
        await nearSeen.seen('end');
        expect(farSeen.bytes.toString()).toBe('\0last');
        expect(nearSeen.received).toBe(0);
      });

      it('that sent much before they are read deliver it all, in order', async () => {
        const near = await pair.dialler.createBidirectionalStream();
        const sent = randomBytes(300_000);
        near.write(null, sent);
        near.finish();
        const far = await next(pair.acceptor.incomingBidirectionalStreams);
        // More than is read ahead has arrived by now.
        await setTimeout(50);
        const seen = new Recorder();
        far.receive(seen.sink(far));
        await seen.seen('end');
        expect(seen.bytes.equals(sent)).toBe(true);
      });

      it('refuse a write after their end, and take their end twice', async () => {
        const { near, farSeen } = await recorded();
        near.finish();
        near.finish();
        expect(thrown(() => near.write(null, Buffer.of(1))).code).toBe('STREAM_CLOSED');
        await farSeen.seen('end');
        expect(farSeen.events).toEqual(['end']);
        expect(farSeen.received).toBe(1);
      });

      it('move on to another sink without losing a byte', async () => {
        const { near, far } = await openStream();
        const [first, second] = [new Recorder(), new Recorder()];
        far.receive(first.sink(far));
        await first.until(({ received }) => received === 1);
        far.receive(second.sink(far));
        near.write(null, Buffer.from('for the second'));
        near.finish();
        await second.seen('end');
        expect(second.bytes.toString()).toBe('for the second');
        expect([first.received, first.events]).toEqual([1, []]);
      });

      it('begun to be read inside the delivery of another one keep their order', async () => {
        const one = await openStream();
        const two = await openStream();
        for (let i = 0; i < 50; i += 1) two.near.write(null, Buffer.from(`${i},`));
        await eventually(async () => {
          await ticks(2);
          return true;
        });
        const seen = new Recorder();
        one.far.receive({
          ...new Recorder().sink(),
          data: (chunk) => {
            one.far.consumed(chunk.length);
            if (chunk.includes('go')) two.far.receive(seen.sink(two.far));
          },
        });
        one.near.write(null, Buffer.from('go'));
        for (let i = 50; i < 100; i += 1) two.near.write(null, Buffer.from(`${i},`));
        two.near.finish();
        await seen.seen('end');
        const expected = Array.from({ length: 100 }, (_, i) => `${i},`).join('');
        expect(seen.bytes.subarray(1).toString()).toBe(expected);
      });

      it('work a thousand in turn', async () => {
        const echoing = echo(pair.acceptor, 1000);
        for (let i = 0; i < 1000; i += 1) {
          const text = `stream ${i}`;
          expect(await ask(pair.dialler, text)).toBe(text);
        }
        await echoing;
      });

      it('work five hundred at once', async () => {
        const echoing = echo(pair.acceptor, 500);
        const texts = Array.from({ length: 500 }, (_, i) => `stream ${i} ${'x'.repeat(i)}`);
        expect(await Promise.all(texts.map((text) => ask(pair.dialler, text)))).toEqual(texts);
        await echoing;
      });
    });

    describe('a reset', () => {
      it('reaches an idle receiver with its code, and is no end', async () => {
        const { near, farSeen } = await recorded();
        near.reset(5);
        near.reset(6);
        await farSeen.seen('reset');
        expect(farSeen.events).toEqual(['reset 5']);
        expect(thrown(() => near.write(null, Buffer.of(1))).code).toBe('STREAM_CLOSED');
      });

      it('works while a write is pending, and is no end', async () => {
        const { near, farSeen } = await recorded({ farReads: false });
        await fill(near);
        near.reset(0xffffffff);
        await farSeen.seen('reset');
        expect(farSeen.events).toEqual([`reset ${0xffffffff}`]);
      });

      it('reaches a receiver that starts only afterwards, however long', async () => {
        for (const wait of [0, 1, 2, 3, 5, 8, 13, 20, 40]) {
          const { near, far } = await openStream();
          near.reset(5);
          await ticks(wait);
          const seen = new Recorder();
          far.receive(seen.sink(far));
          await seen.seen('reset 5');
          expect(seen.events).toEqual(['reset 5']);
        }
      });

      it('leaves the other direction as it is', async () => {
        const { near, far, nearSeen, farSeen } = await recorded();
        near.reset(5);
        await farSeen.seen('reset');
        far.write(null, Buffer.from('still here'));
        far.finish();
        await nearSeen.seen('end');
        expect(nearSeen.bytes.toString()).toBe('still here');
      });
    });

    describe('a stop', () => {
      it('of an idle stream reaches the sender with its code, with its next write at the latest', async () => {
        const { near, far, nearSeen } = await recorded();
        far.stop(9);
        far.stop(10);
        expect(await eventually(() => isClosedForWriting(near))).toBe(true);
        await nearSeen.seen('stopped');
        expect(nearSeen.events.filter((event) => event !== 'drain')).toEqual(['stopped 9']);
      });

      it('reaches a sender whose write is pending, without another write', async () => {
        const { near, far, nearSeen } = await recorded({ farReads: false });
        // An engine may take more after a while; a write is pending once it takes nothing for some time.
        let taken = true;
        while (taken) {
          const before = nearSeen.events.length;
          await fill(near);
          taken = await eventually(() => nearSeen.events.length > before, 300);
        }
        far.stop(9);
        await nearSeen.seen('stopped 9');
        expect(thrown(() => near.write(null, Buffer.of(1))).code).toBe('STREAM_CLOSED');
      });

      it('works while a read is pending, which is told nothing more', async () => {
        const { near, far, nearSeen, farSeen } = await recorded();
        far.stop(9);
        await eventually(() => isClosedForWriting(near));
        near.finish();
        await nearSeen.seen('stopped 9');
        await ticks(20);
        expect([farSeen.received, farSeen.events]).toEqual([1, []]);
      });

      it('leaves the other direction as it is', async () => {
        const { near, far, nearSeen } = await recorded();
        far.stop(9);
        await eventually(() => isClosedForWriting(near));
        far.write(null, Buffer.from('still here'));
        far.finish();
        await nearSeen.seen('end');
        expect(nearSeen.bytes.toString()).toBe('still here');
      });
    });

    describe('backpressure', () => {
      it('holds a sender whose receiver gives nothing back, and bounds what the receiver gets', async () => {
        const { near, far, nearSeen, farSeen } = await recorded({ farReads: false });
        // On a busy machine an engine may take what a write left over a moment later, and more after that.
        let sent = await fill(near);
        for (let drains = 0; drains !== nearSeen.events.length; ) {
          drains = nearSeen.events.length;
          sent += await fill(near);
          await ticks(50);
        }
        expect(sent).toBeLessThan(MOST_IN_FLIGHT);
        expect(farSeen.received).toBeLessThan(MOST_UNCONSUMED);
        far.consumed(farSeen.received);
        far.receive({ ...farSeen.sink(far) });
        const drains = nearSeen.events.length;
        await nearSeen.until(({ events }) => events.length > drains);
        near.finish();
        await farSeen.seen('end');
        expect(farSeen.received).toBe(1 + sent);
      });

      it('holds a sender whose receiver has not begun to read', async () => {
        const { near, far } = await openStream();
        const sent = await fill(near);
        expect(sent).toBeLessThan(MOST_IN_FLIGHT);
        const seen = new Recorder();
        far.receive(seen.sink(far));
        near.finish();
        await seen.seen('end');
        expect(seen.received).toBe(1 + sent);
      });

      it('that was announced ends with a drain, also when more was written in between', async () => {
        const { near, far, nearSeen, farSeen } = await recorded({ farReads: false });
        await fill(near);
        // Gives back a little at a time, as a slow socket does, and writes a little each time, as ACKs do.
        let given = 1;
        far.consumed(1);
        const drained = () => nearSeen.events.includes('drain');
        await eventually(async () => {
          const step = Math.min(16 * 1024, farSeen.received - given);
          far.consumed(step);
          given += step;
          if (!drained()) near.write(null, Buffer.of(1));
          await ticks(1);
          return drained();
        });
        expect(drained()).toBe(true);
      });

      it('of one stream does not hold another one', async () => {
        const { near } = await recorded({ farReads: false });
        await fill(near);
        const echoing = echo(pair.acceptor, 1);
        expect(await ask(pair.dialler, 'free')).toBe('free');
        await echoing;
      });
    });

    describe('datagrams', () => {
      it.each(SIDES)('sent by the %s arrive as they were', async (side) => {
        const { datagrams } = pair[side];
        // It may grow at any moment, as the path's MTU becomes known.
        const size = pair[side].maxDatagramSize;
        expect(size).toBeGreaterThan(1000);
        expect(datagrams.maxDatagramSize).toBeGreaterThanOrEqual(size);
        const sent = [1, 2, 100, size].map((length, index) => Buffer.alloc(length, 97 + index));
        expect(datagrams.send(sent)).toBe(sent.length);
        const received = await collect(other(side), sent.length);
        expect(received.map((one) => `${one.length}${one[0]}`).sort()).toEqual(
          sent.map((one) => `${one.length}${one[0]}`).sort(),
        );
      });

      it('either share a stream or do not, and both sides know', () => {
        expect(typeof pair.dialler.reliableDatagrams).toBe('boolean');
        expect(pair.acceptor.reliableDatagrams).toBe(pair.dialler.reliableDatagrams);
      });

      it('are taken before send returns: the memory is the caller’s again', async () => {
        const mine = Buffer.from('mine');
        pair.dialler.datagrams.send([mine]);
        mine.fill(0);
        expect(String((await collect(pair.acceptor, 1))[0])).toBe('mine');
      });

      it('of no bytes are datagrams too', async () => {
        pair.dialler.datagrams.send([Buffer.alloc(0), Buffer.from('x')]);
        const lengths = (await collect(pair.acceptor, 2)).map(({ length }) => length);
        expect(lengths.sort()).toEqual([0, 1]);
      });

      it('that are too large are TOO_LARGE', () => {
        expect(pair.dialler.maxDatagramSize).toBeLessThan(65_536);
        expect(thrown(() => pair.dialler.datagrams.send([Buffer.alloc(65_536)])).code).toBe('TOO_LARGE');
      });

      it('that nobody reads are bounded, and harm nothing', async () => {
        const echoing = echo(pair.acceptor, 1);
        for (let i = 0; i < 5000; i += 1) pair.dialler.datagrams.send([Buffer.alloc(1000)]);
        expect(await ask(pair.dialler, 'alive')).toBe('alive');
        await echoing;
      });
    });

    describe('the end', () => {
      it.each(SIDES)('made by the %s has its code and reason on both sides', async (side) => {
        pair[side].close(42, 'that is all');
        pair[side].close(43, 'only the first counts');
        expect(await pair[side].closed).toEqual({ closeCode: 42, reason: 'that is all', by: 'local' });
        expect(await other(side).closed).toEqual({ closeCode: 42, reason: 'that is all', by: 'peer' });
      });

      it.each([0, 0xffffffff])('carries the code %i', async (code) => {
        pair.dialler.close(code, '');
        expect(await pair.acceptor.closed).toMatchObject({ closeCode: code, by: 'peer' });
      });

      it('without a code is a plain one', async () => {
        pair.acceptor.close();
        expect(await pair.acceptor.closed).toEqual({ closeCode: 0, reason: '', by: 'local' });
        expect(await pair.dialler.closed).toMatchObject({ closeCode: 0, by: 'peer' });
      });

      it('made by both at once is told to both', async () => {
        pair.dialler.close(1, 'one');
        pair.acceptor.close(2, 'two');
        expect(await pair.dialler.closed).toMatchObject({ closeCode: 1, by: 'local' });
        expect(await pair.acceptor.closed).toMatchObject({ closeCode: 2, by: 'local' });
      });

      it('ends its iterators cleanly on both sides', async () => {
        const iterators = [pair.dialler, pair.acceptor].flatMap((session) => [
          drainAll(session.incomingBidirectionalStreams),
          drainAll(session.incomingUnidirectionalStreams),
          drainAll(session.datagrams.incoming),
        ]);
        await openUnread(pair.dialler);
        pair.dialler.close();
        await Promise.all(iterators);
        for (const session of [pair.dialler, pair.acceptor]) {
          await session.closed;
          expect((await session.incomingBidirectionalStreams[Symbol.asyncIterator]().next()).done).toBe(true);
        }
      });

      it('is told to every stream, and is no end of the stream', async () => {
        const { near, nearSeen, farSeen } = await recorded({ farReads: false });
        await fill(near);
        pair.acceptor.close(3, 'x');
        await Promise.all([nearSeen.seen('lost'), farSeen.seen('lost')]);
        // What was left over may have been accepted between the last write and the close.
        const told = nearSeen.events.filter((event) => event !== 'drain');
        expect([told, farSeen.events]).toEqual([['lost'], ['lost']]);
      });

      it('is told to a stream that begins to be read afterwards', async () => {
        const { near, far } = await openStream();
        pair.dialler.close();
        await pair.acceptor.closed;
        for (const stream of [near, far]) {
          const seen = new Recorder();
          stream.receive(seen.sink(stream));
          await seen.seen('lost');
          expect(seen.events).toEqual(['lost']);
        }
      });

      it('with data in flight never makes an end of what is only a part', async () => {
        for (let round = 0; round < 5; round += 1) {
          const { dialler, acceptor } = await pair.again();
          const { near, far } = await openStream(dialler, acceptor);
          const seen = new Recorder();
          far.receive(seen.sink(far));
          const bytes = Buffer.alloc(1024 * 1024);
          near.write(null, bytes);
          near.finish();
          dialler.close();
          await acceptor.closed;
          await seen.until(({ events }) => events.length > 0);
          const whole = seen.received === 1 + bytes.length;
          if (!whole) expect(seen.events).toEqual(['lost']);
          expect(seen.events.every((event) => event === 'end' || event === 'lost')).toBe(true);
        }
      });

      it('makes every later call an error with a code, or harmless', async () => {
        const { near, far } = await openStream();
        const one = await pair.dialler.createUnidirectionalStream();
        pair.dialler.close();
        await pair.acceptor.closed;
        for (const session of [pair.dialler, pair.acceptor]) {
          expect((await rejected(session.createBidirectionalStream())).code).toBe('SESSION_LOST');
          expect((await rejected(session.createUnidirectionalStream())).code).toBe('SESSION_LOST');
          expect(thrown(() => session.datagrams.send([Buffer.of(1)])).code).toBe('SESSION_LOST');
          expect(() => [
            session.stats(),
            session.path,
            session.maxDatagramSize,
            session.remoteId,
          ]).not.toThrow();
          try {
            session.exportKeyingMaterial('EXPORTER-test', 32);
          } catch (error) {
            expect(error).toMatchObject({ code: 'SESSION_LOST', name: 'TunnelError' });
          }
          session.close(1, 'again');
        }
        for (const stream of [near, far]) {
          expect(thrown(() => stream.write(null, Buffer.of(1))).code).toBe('STREAM_CLOSED');
          stream.consumed(1);
          stream.finish();
          stream.stop(1);
          stream.reset(1);
        }
        one.finish();
        one.reset(1);
      });

      it('of one session leaves another one of the same two nodes as it was', async () => {
        const again = await pair.again();
        const echoing = echo(again.acceptor, 2);
        expect(await ask(again.dialler, 'before')).toBe('before');
        pair.dialler.close(1, 'only this one');
        await pair.acceptor.closed;
        expect(await ask(again.dialler, 'after')).toBe('after');
        await echoing;
        expect(await Promise.race([again.acceptor.closed, Promise.resolve('open')])).toBe('open');
        again.dialler.close();
        await again.acceptor.closed;
      });
    });

    describe('platform streams', () => {
      const read = async (stream: ReceiveStream) => {
        const chunks: Uint8Array[] = [];
        for await (const chunk of stream.readable) chunks.push(chunk);
        return Buffer.concat(chunks);
      };

      it('carry bytes, and close as an end', async () => {
        const { near, far } = await openStream();
        const bytes = randomBytes(3 * 1024 * 1024);
        const sending = (async () => {
          const writer = near.writable.getWriter();
          for (let at = 0; at < bytes.length; at += 100_000)
            await writer.write(bytes.subarray(at, at + 100_000));
          await writer.close();
        })();
        const received = await read(far);
        await sending;
        expect(received.subarray(1).equals(bytes)).toBe(true);
        const reply = read(near);
        const writer = far.writable.getWriter();
        await writer.write(Buffer.from('reply'));
        await writer.close();
        expect((await reply).toString()).toBe('reply');
      });

      it('in one direction carry bytes', async () => {
        const near = await pair.dialler.createUnidirectionalStream();
        const writer = near.writable.getWriter();
        await writer.write(Buffer.from('one way'));
        await writer.close();
        const far = await next(pair.acceptor.incomingUnidirectionalStreams);
        expect((await read(far)).toString()).toBe('one way');
      });

      it('hold a writer that nobody reads', async () => {
        const { near, far } = await openStream();
        const writer = near.writable.getWriter();
        const most = engine.mostUnread ?? MOST_IN_FLIGHT;
        let written = 0;
        const writing = (async () => {
          while (written < 2 * most) {
            await writer.write(CHUNK);
            written += CHUNK.length;
          }
        })().catch(() => undefined);
        let before = -1;
        await eventually(async () => {
          await ticks(20);
          const still = before === written;
          before = written;
          return still;
        });
        expect(written).toBeLessThan(most);
        far.stop(1);
        await writing;
        await writer.closed.catch(() => undefined);
      });

      it('abort as a reset', async () => {
        const { near, far } = await openStream();
        const seen = new Recorder();
        far.receive(seen.sink(far));
        await near.writable.abort('why not');
        await seen.seen('reset');
        expect(seen.events).toEqual(['reset 1']);
      });

      it('fail to be read with the code of a reset', async () => {
        const { near, far } = await openStream();
        const reading = rejected(read(far));
        near.reset(2);
        expect((await reading).code).toBe('REFUSED');
      });

      it('cancel as a stop, which fails the writer with its code', async () => {
        const { near, far } = await openStream();
        const writer = near.writable.getWriter();
        const closed = rejected(writer.closed);
        await far.readable.cancel('enough');
        const writing = (async () => {
          for (;;) {
            await writer.write(Buffer.of(1));
            await ticks(1);
          }
        })().catch(() => undefined);
        expect(['RESET', 'STREAM_CLOSED']).toContain((await closed).code);
        await writing;
      });

      it('fail with SESSION_LOST when the session ends', async () => {
        const { near, far } = await openStream();
        const reading = rejected(read(far));
        const writer = near.writable.getWriter();
        const closed = rejected(writer.closed);
        pair.acceptor.close();
        expect((await reading).code).toBe('SESSION_LOST');
        expect((await closed).code).toBe('SESSION_LOST');
      });

      it('keep what arrived in full, when the session ends before it is read', async () => {
        const { near, far } = await openStream();
        const reader = far.readable.getReader();
        for (const text of ['one', 'two', 'three']) {
          near.write(null, Buffer.from(text));
          await ticks(5);
        }
        near.finish();
        // Whoever finished a stream that was read knows by other means that its end has arrived.
        const { near: mark, far: markFar } = await openStream();
        const seen = new Recorder();
        markFar.receive(seen.sink(markFar));
        mark.finish();
        await seen.seen('end');
        await ticks(20);
        pair.dialler.close();
        await pair.acceptor.closed;
        const parts: Uint8Array[] = [];
        for (;;) {
          const { done, value } = await reader.read();
          if (done) break;
          parts.push(value);
        }
        expect(Buffer.concat(parts).toString()).toBe('\0onetwothree');
      });

      it('that are only read leave the sending side to plain writes', async () => {
        const { near, far } = await openStream();
        const reader = near.readable.getReader();
        const reading = reader.read();
        await fill(near);
        const seen = new Recorder();
        far.receive(seen.sink(far));
        // The drain comes while nobody has asked for `writable`.
        await seen.until(({ received }) => received > 2 * CHUNK.length);
        far.write(null, Buffer.from('read'));
        expect(Buffer.from((await reading).value as Uint8Array).toString()).toBe('read');
        far.stop(3);
        expect(await eventually(() => isClosedForWriting(near))).toBe(true);
        await ticks(20);
        await reader.cancel();
      });
    });
  });

  describe(`${name}: a peer that dies without a word`, () => {
    checkLeaks(engine.leaks);

    it('is known within 15 s, and nothing it had begun looks complete', async () => {
      const peer = await engine.makeMortalPeer();
      try {
        const seen = new Recorder();
        peer.stream.receive(seen.sink(peer.stream));
        await seen.until(({ bytes }) => bytes.toString() === 'alive');
        const iterating = drainAll(peer.session.incomingBidirectionalStreams);
        const killedAt = performance.now();
        peer.kill();
        const info: CloseInfo = await peer.session.closed;
        expect(performance.now() - killedAt).toBeLessThan(15_000);
        expect(['timeout', 'lost']).toContain(info.by);
        expect(info.closeCode).toBe(0);
        expect(info.reason).not.toBe('');
        await seen.seen('lost');
        expect(seen.events).toEqual(['lost']);
        await iterating;
        expect((await rejected(peer.session.createBidirectionalStream())).code).toBe('SESSION_LOST');
      } finally {
        await peer.dispose();
      }
    });
  });
}

// ---- helpers

/** The next thing of an iterable; fails when it has ended. */
export async function next<T>(iterable: AsyncIterable<T>): Promise<T> {
  const result = await iterable[Symbol.asyncIterator]().next();
  if (result.done) throw new Error('the iteration has ended');
  return result.value;
}

/** Iterates to the end. */
async function drainAll(iterable: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of iterable);
}

async function openUnread(session: Session): Promise<void> {
  (await session.createBidirectionalStream()).write(null, Buffer.of(0));
}

/** Writes until told to hold back. Answers how much was taken. */
async function fill(stream: SendStream): Promise<number> {
  let sent = 0;
  let ready = true;
  while (ready && sent < 4 * MOST_IN_FLIGHT) {
    ready = stream.write(null, CHUNK);
    sent += CHUNK.length;
    // Lets the transport take what it will, so that it is the receiver who holds the sender.
    if (!ready || sent % (16 * CHUNK.length) === 0) await ticks(2);
  }
  return sent;
}

async function writeAll(stream: SendStream, seen: Recorder, bytes: Buffer): Promise<void> {
  for (let at = 0; at < bytes.length; at += CHUNK.length) {
    const drains = seen.events.filter((event) => event === 'drain').length;
    if (stream.write(null, bytes.subarray(at, at + CHUNK.length))) continue;
    await seen.until(({ events }) => events.filter((event) => event === 'drain').length > drains);
  }
}

/** Whether the peer's stop has arrived: found out by a write. */
function isClosedForWriting(stream: SendStream): boolean {
  try {
    stream.write(null, Buffer.of(1));
    return false;
  } catch (error) {
    expect(error).toMatchObject({ name: 'TunnelError', code: 'STREAM_CLOSED' });
    return true;
  }
}

/** Sends a text on a stream of its own and answers what comes back. */
async function ask(session: Session, text: string): Promise<string> {
  const stream = await session.createBidirectionalStream();
  const seen = new Recorder();
  stream.receive(seen.sink(stream));
  stream.write(null, Buffer.from(text));
  stream.finish();
  await seen.until(({ events }) => events.length > 0);
  expect(seen.events).toEqual(['end']);
  return seen.bytes.toString();
}

/** Sends back what comes on the next `count` streams. */
async function echo(session: Session, count: number): Promise<void> {
  const done: Promise<void>[] = [];
  for (let i = 0; i < count; i += 1) {
    const stream = await next(session.incomingBidirectionalStreams);
    const seen = new Recorder();
    const sink = seen.sink(stream);
    stream.receive({
      ...sink,
      data: (chunk) => {
        sink.data(chunk);
        stream.write(null, chunk);
      },
      end: () => {
        stream.finish();
        sink.end();
      },
    });
    done.push(seen.seen('end'));
  }
  await Promise.all(done);
}

async function collect(session: Session, count: number): Promise<Buffer[]> {
  const received: Buffer[] = [];
  while (received.length < count) received.push(...(await next(session.datagrams.incoming)));
  return received;
}
