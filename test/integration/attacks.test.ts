/**
 * Strangers and peers that attack an exposing side with bytes of their own making. Each test ends with
 * an honest peer being served. docs/security.md has the list.
 */
import { afterEach, describe, expect, it } from 'vitest';
import { encodeFrame, FrameType, HEADER_BYTES, writeHeader } from '../../src/session/frame.js';
import type { Hello } from '../../src/session/hello.js';
import { Identity } from '../../src/session/identity.js';
import { encodePreamble, StreamKind } from '../../src/session/preamble.js';
import { encodeResume, type ResumeRequest } from '../../src/session/resume.js';
import { encodeFlowOpen, FLOW_OPEN } from '../../src/tunnel/flow-messages.js';
import { encodeOpen } from '../../src/tunnel/open.js';
import { AT_ONCE_MS } from '../support/at-once.js';
import { type Attacker, codeOf, type RawSession } from '../support/attacker.js';
import { Besieged, type SiegeOptions } from '../support/besieged.js';
import { eventually } from '../support/eventually.js';
import { collectGarbage } from '../support/garbage.js';
import { checkLeaks } from '../support/leaks.js';

const NOTHING = Buffer.alloc(0);
let siege: Besieged;
let attacker: Attacker;

checkLeaks({ timeoutMs: 5000, settle: collectGarbage });

async function begin(options: SiegeOptions = {}): Promise<void> {
  siege = await Besieged.start(options);
  attacker = await siege.attacker();
}

afterEach(async () => {
  const honest = await siege.honest();
  await siege.works(honest, 9001);
  await siege.close();
  // What holds an endpoint holds its sockets.
  siege = undefined as unknown as Besieged;
  attacker = undefined as unknown as Attacker;
});

describe('a stranger', () => {
  it.each<[string, (raw: RawSession) => Promise<unknown>]>([
    ['dials and says nothing', async () => undefined],
    ['opens a stream and says nothing on it', (raw) => raw.stream(Buffer.of(1))],
    ['says what the stream is for, and no HELLO', (raw) => raw.control()],
    [
      'sends HELLO byte by byte',
      async (raw) => {
        const control = await raw.control();
        const bytes = encodeFrame(0, FrameType.HELLO, raw.hello({ tokens: [siege.token] }));
        for (const byte of bytes) {
          if (!control.write(Buffer.of(byte))) return;
          await new Promise((resolve) => setTimeout(resolve, 10));
        }
      },
    ],
  ])('that %s is closed in time', async (_what, attack) => {
    await begin({ limits: { helloTimeoutMs: 300 } });
    const raw = await attacker.dial(siege.victim);
    const startedAt = performance.now();
    void attack(raw);
    expect(await raw.ending()).toBe('TIMEOUT');
    expect(performance.now() - startedAt).toBeLessThan(AT_ONCE_MS);
    expect(siege.expose.refusals.halfOpen).toBe(1);
    expect(siege.errors).toContain('TIMEOUT');
  });

  it.each<[string, (raw: RawSession) => Promise<unknown> | unknown]>([
    ['opens with a channel', (raw) => raw.open(1, 'echo')],
    [
      'opens with a resumed channel',
      (raw) => raw.stream(encodePreamble(StreamKind.RESUME, Buffer.alloc(33))),
    ],
    ['opens with a stream of no known kind', (raw) => raw.stream(encodePreamble(0x7f, NOTHING))],
    ['announces a giant preamble', (raw) => raw.stream(Buffer.of(1, 0, 0xff, 0xff))],
    [
      'announces a giant HELLO',
      async (raw) => (await raw.control()).write(header(0, FrameType.HELLO, 16_385)),
    ],
    [
      'announces a giant call',
      async (raw) => (await raw.control()).write(header(1, FrameType.CALL, 200_000)),
    ],
    ['sends data', async (raw) => (await raw.control()).frame(1, FrameType.DATA, Buffer.alloc(10))],
    ['calls before HELLO', async (raw) => (await raw.control()).frame(1, FrameType.CALL, Buffer.alloc(8))],
    [
      'says where it is before who',
      async (raw) => (await raw.control()).frame(0, FrameType.ADDRESSES, Buffer.from('{}')),
    ],
    [
      'sends frames of a later version before HELLO',
      async (raw) => (await raw.control()).frame(0, 0x7f, Buffer.alloc(100)),
    ],
    [
      'sends JSON that is no HELLO',
      async (raw) => (await raw.control()).frame(0, FrameType.HELLO, Buffer.from('[]')),
    ],
    [
      'opens a channel beside its HELLO',
      async (raw) => {
        await raw.control();
        await raw.open(1, 'echo');
      },
    ],
    [
      'opens thousands of streams',
      async (raw) => {
        await raw.control();
        for (let i = 0; i < 3000; i += 1) await raw.stream(Buffer.of(2)).catch(() => undefined);
      },
    ],
    ['ends its control stream', async (raw) => (await raw.control()).reset(7)],
  ])('that %s is closed, and nothing reaches a target', async (_what, attack) => {
    await begin();
    const raw = await attacker.dial(siege.victim);
    void Promise.resolve(attack(raw)).catch(() => undefined);
    expect(['PROTOCOL', 'RESET']).toContain(await raw.ending());
    expect(siege.served.size).toBe(0);
  });

  it('that says HELLO twice is closed', async () => {
    await begin();
    const raw = await attacker.enter(siege.victim, siege.token);
    (await raw.control()).frame(0, FrameType.HELLO, raw.hello({ tokens: [siege.token] }));
    expect(await raw.ending()).toBe('PROTOCOL');
  });

  it('that opens unidirectional streams has each of them stopped', async () => {
    await begin();
    const raw = await attacker.enter(siege.victim, siege.token);
    for (let i = 0; i < 200; i += 1) {
      const stream = await raw.session.createUnidirectionalStream();
      stream.write(Buffer.alloc(100), null);
    }
    // Stopped means that a write finds out, and that its memory is given back.
    const stream = await raw.session.createUnidirectionalStream();
    const stopped = async () => {
      try {
        stream.write(Buffer.alloc(10), null);
        return false;
      } catch {
        return true;
      }
    };
    expect(await eventually(stopped, 5000)).toBe(true);
    await siege.works(raw, 1);
  });

  it('that fills up with half-open sessions does not keep out who says HELLO', async () => {
    await begin({
      limits: {
        halfOpen: 20,
        halfOpenPerAddress: 10,
        handshakeBurstPerAddress: 10_000,
        handshakeBurst: 10_000,
      },
    });
    const honest = await siege.honest();
    const flood: RawSession[] = [];
    for (let i = 0; i < 100; i += 1) flood.push(await attacker.dial(siege.victim));
    expect(siege.expose.refusals.halfOpen).toBeGreaterThanOrEqual(85);
    await siege.works(honest, 1);
    await siege.works(await siege.honest(), 3);
    for (const { session } of flood) session.close();
  });

  it('that dials faster than allowed is refused, while a process that was here before is let in again', async () => {
    await begin({ limits: { handshakesPerAddress: 1, handshakeBurstPerAddress: 5 } });
    const peer = await siege.attacker();
    const known = { instanceId: '12'.repeat(16) };
    (await peer.enter(siege.victim, siege.token, known)).session.close(11, 'lost');
    const endings: string[] = [];
    for (let i = 0; i < 20; i += 1) {
      const raw = await attacker.dial(siege.victim);
      (await raw.control()).frame(0, FrameType.HELLO, raw.hello());
      endings.push(await raw.ending());
    }
    expect(endings.filter((code) => code === 'LIMIT').length).toBeGreaterThanOrEqual(10);
    expect(new Set(endings)).toEqual(new Set(['LIMIT', 'DENIED']));
    await siege.works(await peer.enter(siege.victim, siege.token, known), 1);
    expect(siege.expose.refusals.handshakes).toBeGreaterThanOrEqual(10);
    // The lines about it are bounded too.
    expect(siege.errors.length).toBeLessThan(20);
    // What is left of the share must be enough for the one who comes last.
    await new Promise((resolve) => setTimeout(resolve, 1100));
  });
});

describe('a delegation', () => {
  const someone = Identity.generate();

  it.each<[string, (raw: RawSession, witness: RawSession) => Partial<Hello>]>([
    ['is missing', () => ({ identity: someone.nodeId, proof: '' })],
    [
      'is signed by another key',
      (raw) => ({ identity: someone.nodeId, proof: raw.proof(raw.identity, someone.nodeId) }),
    ],
    [
      'is for another identity',
      (raw) => ({ identity: someone.nodeId, proof: raw.proof(someone, raw.identity.nodeId) }),
    ],
    [
      'was made for another session',
      (_raw, witness) => ({ identity: someone.nodeId, proof: witness.proof(someone, someone.nodeId) }),
    ],
    [
      'is truncated',
      (raw) => ({ identity: someone.nodeId, proof: raw.proof(someone, someone.nodeId).slice(0, -2) }),
    ],
    [
      'has something behind it',
      (raw) => ({ identity: someone.nodeId, proof: `${raw.proof(someone, someone.nodeId)}AAAA` }),
    ],
    [
      'has one bit changed',
      (raw) => ({ identity: someone.nodeId, proof: flipped(raw.proof(someone, someone.nodeId)) }),
    ],
  ])('that %s lets nobody in, with a good token neither', async (_what, claim) => {
    await begin();
    const [raw, witness] = [await attacker.dial(siege.victim), await attacker.dial(siege.victim)];
    (await raw.control()).frame(
      0,
      FrameType.HELLO,
      raw.hello({ tokens: [siege.token], ...claim(raw, witness) }),
    );
    expect(await raw.ending()).toBe('DENIED');
    expect(siege.errors).toContain('DENIED');
    witness.session.close();
  });

  it('replayed by a third party, HELLO and all, lets it in on no session of its own', async () => {
    await begin();
    const honest = await attacker.dial(siege.victim);
    const captured = honest.hello({ tokens: [siege.token] });
    (await honest.control()).frame(0, FrameType.HELLO, captured);
    await (await honest.control()).next();
    const thief = await (await siege.attacker()).dial(siege.victim);
    (await thief.control()).frame(0, FrameType.HELLO, captured);
    expect(await thief.ending()).toBe('DENIED');
    await siege.works(honest, 1);
  });
});

describe("somebody else's channel", () => {
  const request = (channelId: number, lies: Partial<ResumeRequest> = {}) =>
    encodePreamble(
      StreamKind.RESUME,
      encodeResume({
        channelId,
        epoch: 1,
        received: 0,
        consumed: 0,
        limit: 262_144,
        opened: true,
        open: NOTHING,
        ...lies,
      }),
    );

  async function victimsChannel() {
    const owner = await siege.honest();
    const stream = await owner.open(1, 'echo');
    await stream.next(({ type }) => type === FrameType.OPENED);
    return { owner, stream };
  }

  it.each<[string, Partial<Hello>]>([
    ['another identity', {}],
    ['another identity that knows the number of the process', { instanceId: '1'.padStart(32, '0') }],
  ])('is not taken up by %s', async (_who, hello) => {
    await begin();
    const { stream } = await victimsChannel();
    const raw = await attacker.enter(siege.victim, siege.token, hello);
    const taken = await raw.stream(request(1));
    expect(await taken.ended()).toMatch(/RESUME_UNKNOWN/);
    expect(siege.errors).toContain('RESUME_UNKNOWN');
    stream.frame(1, FrameType.DATA, Buffer.from('still mine'));
    expect((await stream.next(({ type }) => type === FrameType.DATA)).body.toString()).toBe('still mine');
  });

  it('is not ended by another identity that says it has ended', async () => {
    await begin();
    const { stream } = await victimsChannel();
    const raw = await attacker.enter(siege.victim, siege.token, { instanceId: '1'.padStart(32, '0') });
    const lists = Buffer.alloc(8);
    lists.writeUInt32BE(1, 4);
    expect(await raw.answer(await raw.call('channels.sync', lists))).toBe('OK');
    stream.frame(1, FrameType.DATA, Buffer.from('still here'));
    await stream.next(({ type }) => type === FrameType.DATA);
  });

  it.each<[string, Partial<ResumeRequest>, string]>([
    ['an epoch that is over', { epoch: 0 }, 'MOVED'],
    ['bytes never sent', { received: 1_000_000, limit: 2_000_000 }, 'PROTOCOL'],
    [
      'offsets beyond what can be counted',
      { received: Number.MAX_SAFE_INTEGER, limit: Number.MAX_SAFE_INTEGER },
      'PROTOCOL',
    ],
  ])('is not harmed by its own process that resumes with %s', async (_what, lies, code) => {
    await begin();
    const { owner } = await victimsChannel();
    const again = await owner.stream(request(1, lies));
    expect(await again.ended()).toMatch(code);
  });

  it('does not go on where its first bytes are gone already', async () => {
    await begin();
    const { owner, stream } = await victimsChannel();
    stream.frame(1, FrameType.DATA, Buffer.alloc(1000));
    await stream.next(({ type }) => type === FrameType.DATA);
    const ack = Buffer.alloc(16);
    ack.writeBigUInt64BE(1000n, 0);
    ack.writeBigUInt64BE(300_000n, 8);
    stream.frame(1, FrameType.ACK, ack);
    stream.frame(1, FrameType.DATA, Buffer.from('seen'));
    await eventually(() => stream.frames.some(({ body }) => body.toString() === 'seen'), 5000);
    const again = await owner.stream(request(1, { received: 0, consumed: 0 }));
    expect(await again.ended()).toMatch('RESUME_GAP');
  });

  it('is not begun by a RESUME with a service that is not granted', async () => {
    await begin();
    const raw = await attacker.enter(siege.victim, siege.token);
    const open = encodeOpen({ channelId: 5, epoch: 0, service: 'nothing', limit: 0 });
    const stream = await raw.stream(request(5, { opened: false, open }));
    expect(await stream.ended()).toMatch('DENIED');
  });
});

describe('a service that is not granted', () => {
  /** Somebody who may reach `echo`, and nothing else. */
  async function limited(): Promise<RawSession> {
    const guest = Identity.generate();
    await begin({
      rights: [
        {
          admit: ({ peer }) =>
            peer === guest.nodeId
              ? { current: () => ({ services: new Set(['echo']), via: 'allow' }) }
              : undefined,
        },
      ],
    });
    return (await siege.attacker(guest)).enter(siege.victim);
  }

  it('is refused as one that does not exist, by OPEN and RESUME and flow.open, and is not listed', async () => {
    const raw = await limited();
    const words: string[] = [];
    for (const [index, service] of ['secret', 'nothing'].entries()) {
      words.push(await (await raw.open(1 + 2 * index, service)).ended());
      const flow = encodeFlowOpen({ flow: 1, resume: false, idleMs: 1000, service });
      words.push(await raw.answer(await raw.call(FLOW_OPEN, flow)));
    }
    const dns = encodeFlowOpen({ flow: 1, resume: false, idleMs: 1000, service: 'dns' });
    words.push(await raw.answer(await raw.call(FLOW_OPEN, dns)));
    expect(words).toEqual(['reset DENIED', 'DENIED', 'reset DENIED', 'DENIED', 'DENIED']);
    const listed = await raw.call('services.list');
    const control = await raw.control();
    const list = await control.next(({ channelId }) => channelId === listed);
    expect(list.body.toString()).toContain('echo');
    expect(list.body.toString()).not.toMatch(/secret|dns/);
    expect(siege.errors.filter((code) => code === 'DENIED').length).toBeGreaterThanOrEqual(4);
    await siege.works(raw, 11);
  });
});

describe('an admitted peer', () => {
  it('that opens a thousand channels and uses none leaves the others alone, and nothing behind', async () => {
    await begin();
    const honest = await siege.honest();
    const raw = await attacker.enter(siege.victim, siege.token);
    const streams = await Promise.all(Array.from({ length: 1000 }, (_, i) => raw.open(1 + 2 * i, 'echo')));
    const answers = await Promise.all(streams.map((stream) => stream.next()));
    expect(answers.filter(({ type }) => type === FrameType.ERROR).map(codeOf)).toEqual([]);
    expect(await eventually(() => siege.served.size === 1000, 10_000)).toBe(true);
    await siege.works(honest, 1);
    raw.session.close();
    expect(await eventually(() => siege.served.size === 0, 10_000)).toBe(true);
  });

  it('is refused channels beyond its number, over all its sessions; the others have theirs', async () => {
    await begin({ limits: { channelsPerPeer: 10 } });
    const honest = await siege.honest();
    const sessions = [
      await attacker.enter(siege.victim, siege.token),
      await attacker.enter(siege.victim, siege.token, { instanceId: 'cd'.repeat(16) }),
    ] as const;
    const streams = [];
    for (let i = 0; i < 20; i += 1)
      streams.push(await (sessions[i % 2] as RawSession).open(1 + 2 * i, 'echo'));
    const answers = await Promise.all(
      streams.map((stream) =>
        stream.next().then(
          () => 'OK',
          () => stream.over,
        ),
      ),
    );
    expect(answers.filter((one) => one === 'OK')).toHaveLength(10);
    expect(answers.filter((one) => one === 'reset LIMIT')).toHaveLength(10);
    expect(siege.expose.refusals.channels).toBe(10);
    await siege.works(honest, 1);
    // One that ends makes room.
    streams.find(({ over }) => over === undefined)?.reset();
    expect(await eventually(() => siege.served.size === 9, 5000)).toBe(true);
    await siege.works(sessions[0], 101);
  });

  it('is refused sessions beyond its number', async () => {
    await begin({ limits: { sessionsPerPeer: 3 } });
    for (let i = 0; i < 3; i += 1) await attacker.enter(siege.victim, siege.token);
    const raw = await attacker.dial(siege.victim);
    (await raw.control()).frame(0, FrameType.HELLO, raw.hello({ tokens: [siege.token] }));
    expect(await raw.ending()).toBe('LIMIT');
    expect(siege.errors).toContain('LIMIT');
  });

  it('that opens flows without end, from many processes, has a bounded number of them', async () => {
    await begin({ limits: { flowsPerPeer: 50 } });
    const codes: string[] = [];
    for (let process = 0; process < 4; process += 1) {
      const instanceId = String(process).repeat(32);
      const raw = await attacker.enter(siege.victim, siege.token, { instanceId });
      const calls = [];
      for (let flow = 1; flow <= 40; flow += 1) {
        const open = encodeFlowOpen({ flow, resume: false, idleMs: 60_000, service: 'dns' });
        calls.push(await raw.call(FLOW_OPEN, open));
      }
      for (const call of calls) codes.push(await raw.answer(call));
    }
    expect(codes.filter((code) => code === 'OK')).toHaveLength(50);
    expect(codes.filter((code) => code === 'LIMIT')).toHaveLength(110);
    expect(siege.expose.refusals.flows).toBe(110);
    const honest = await siege.honest();
    const open = encodeFlowOpen({ flow: 1, resume: false, idleMs: 1000, service: 'dns' });
    expect(await honest.answer(await honest.call(FLOW_OPEN, open))).toBe('OK');
  });

  it('that calls and calls and reads no answer is closed', async () => {
    await begin();
    const honest = await siege.honest();
    const raw = await attacker.enter(siege.victim, siege.token);
    const control = await raw.control();
    control.stopReading();
    const payload = Buffer.alloc(200_000);
    for (let i = 0; i < 1000 && control.over === undefined; i += 1) {
      await raw.call('ping', payload);
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(await raw.ending()).toBe('LIMIT');
    await siege.works(honest, 1);
  });

  it('that calls without end is answered, and the others are served beside it', async () => {
    await begin();
    const honest = await siege.honest();
    const raw = await attacker.enter(siege.victim, siege.token);
    const calls: number[] = [];
    for (let i = 0; i < 20_000; i += 1) calls.push(await raw.call('services.list'));
    const startedAt = performance.now();
    await siege.works(honest, 1);
    expect(performance.now() - startedAt).toBeLessThan(AT_ONCE_MS);
    expect(['OK', 'RESOURCE_EXHAUSTED']).toContain(await raw.answer(calls.at(-1) as number));
    expect(await raw.answer(await raw.call('services.list'))).toBe('OK');
  });

  it.each<[string, (raw: RawSession) => Promise<unknown>]>([
    [
      'a frame of a channel that never was',
      async (raw) => (await raw.control()).frame(99, FrameType.RESULT, NOTHING),
    ],
    [
      'a call that is too short',
      async (raw) => (await raw.control()).frame(1, FrameType.CALL, Buffer.alloc(3)),
    ],
    [
      'a call number twice',
      async (raw) => {
        await raw.call('ping');
        (await raw.control()).frame(1, FrameType.CALL, Buffer.alloc(8));
      },
    ],
  ])('that sends %s is closed', async (_what, attack) => {
    await begin();
    const raw = await attacker.enter(siege.victim, siege.token);
    await attack(raw);
    expect(await raw.ending()).toBe('PROTOCOL');
  });

  it.each<[string, (raw: RawSession) => Promise<string>]>([
    [
      'more data than granted',
      async (raw) => {
        const stream = await raw.open(1, 'secret');
        // More than the system's own buffers take between two sockets, which would earn it new credit.
        for (let i = 0; i < 100; i += 1) stream.frame(1, FrameType.DATA, Buffer.alloc(250_000));
        return stream.ended();
      },
    ],
    [
      'an end that is not where it ended',
      async (raw) => {
        const stream = await raw.open(1, 'echo');
        stream.frame(1, FrameType.EOS, Buffer.from('0000000000000009', 'hex'));
        return stream.ended();
      },
    ],
    [
      'a malformed OPEN',
      async (raw) => (await raw.stream(encodePreamble(StreamKind.OPEN, Buffer.alloc(4)))).ended(),
    ],
    [
      'a used channel number',
      async (raw) => {
        await (await raw.open(1, 'echo')).next();
        return (await raw.open(1, 'echo')).ended();
      },
    ],
  ])('that sends %s loses that channel, and keeps the others', async (_what, attack) => {
    await begin();
    const raw = await attacker.enter(siege.victim, siege.token);
    expect(await attack(raw)).toMatch('PROTOCOL');
    await siege.works(raw, 21);
  });
});

function header(channelId: number, type: number, length: number): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES);
  writeHeader(bytes, channelId, type, length);
  return bytes;
}

function flipped(proof: string): string {
  const bytes = Buffer.from(proof, 'base64url');
  bytes[10] = (bytes[10] as number) ^ 1;
  return bytes.toString('base64url');
}
