import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { WIRE_CODES } from '../../src/error.js';
import {
  decodeError,
  encodeError,
  encodeFrame,
  FrameReader,
  FrameType,
  HEADER_BYTES,
  MAX_CONTROL_BYTES,
  MAX_DATA_BYTES,
  printable,
  writeHeader,
} from '../../src/session/frame.js';
import { thrown } from '../support/errors.js';

interface Frame {
  readonly channelId: number;
  readonly type: number;
  readonly payload: Buffer;
}

/** Reads pieces as they come and puts the frames together again, as no receiver in the product does. */
function read(pieces: readonly Buffer[]): { frames: Frame[]; pieces: Buffer[]; reader: FrameReader } {
  const frames: Frame[] = [];
  const data: Buffer[] = [];
  let open: Buffer[] = [];
  const reader = new FrameReader({
    data(channelId, piece, last) {
      data.push(piece);
      open.push(piece);
      if (!last) return;
      frames.push({ channelId, type: FrameType.DATA, payload: Buffer.concat(open) });
      open = [];
    },
    control: (channelId, type, payload) => frames.push({ channelId, type, payload: Buffer.from(payload) }),
  });
  for (const piece of pieces) reader.push(piece);
  return { frames, pieces: data, reader };
}

const encode = (frames: readonly Frame[]) =>
  Buffer.concat(frames.map(({ channelId, type, payload }) => encodeFrame(channelId, type, payload)));

const SAMPLE: readonly Frame[] = [
  { channelId: 1, type: FrameType.OPENED, payload: Buffer.from('12345678') },
  { channelId: 1, type: FrameType.DATA, payload: Buffer.from('hello') },
  { channelId: 4294967295, type: FrameType.DATA, payload: Buffer.from('x') },
  { channelId: 0, type: FrameType.HELLO, payload: Buffer.from('{"minor":0}') },
  { channelId: 1, type: 0xff, payload: Buffer.alloc(0) },
  { channelId: 1, type: FrameType.EOS, payload: Buffer.alloc(8) },
];

describe('a frame', () => {
  it('is a header of 12 bytes, big-endian, and its payload', () => {
    expect(encodeFrame(0x01020304, 0x05, Buffer.from([0xaa, 0xbb])).toString('hex')).toBe(
      '010203040500000000000002aabb',
    );
  });

  it('has its header written over whatever was there', () => {
    const header = Buffer.alloc(HEADER_BYTES, 0xff);
    writeHeader(header, 7, FrameType.DATA, 9);
    expect(header.toString('hex')).toBe('000000070100000000000009');
  });
});

describe('a frame reader', () => {
  it('hands on the same frames wherever the input is split in two', () => {
    const bytes = encode(SAMPLE);
    for (let at = 0; at <= bytes.length; at += 1) {
      const { frames, reader } = read([bytes.subarray(0, at), bytes.subarray(at)]);
      expect(frames).toEqual(SAMPLE);
      expect(reader.atBoundary).toBe(true);
    }
  });

  it('hands on the same frames byte by byte', () => {
    const pieces = [...encode(SAMPLE)].map((byte) => Buffer.of(byte));
    expect(read(pieces).frames).toEqual(SAMPLE);
  });

  it('hands on the same frames however the input is split', () => {
    fc.assert(
      fc.property(
        fc.array(frame, { maxLength: 12 }),
        fc.array(fc.nat(), { maxLength: 20 }),
        (frames, cuts) => {
          const bytes = encode(frames);
          const places = [
            0,
            ...cuts.map((cut) => cut % (bytes.length + 1)).sort((a, b) => a - b),
            bytes.length,
          ];
          const pieces = places.slice(1).map((end, index) => bytes.subarray(places[index], end));
          expect(read(pieces).frames).toEqual(frames);
        },
      ),
      { numRuns: 500 },
    );
  });

  it('passes DATA on in the memory it came in', () => {
    const input = encode([{ channelId: 1, type: FrameType.DATA, payload: Buffer.from('a longer payload') }]);
    const chunks = [input.subarray(0, 5), input.subarray(5, 20), input.subarray(20)];
    const { pieces } = read(chunks);
    expect(Buffer.concat(pieces).toString()).toBe('a longer payload');
    for (const piece of pieces) expect(piece.buffer).toBe(input.buffer);
    input.fill(0);
    expect(Buffer.concat(pieces).every((byte) => byte === 0)).toBe(true);
  });

  it('passes DATA on before the frame is whole', () => {
    const got: [string, boolean][] = [];
    const reader = new FrameReader({
      data: (_id, piece, last) => got.push([piece.toString(), last]),
      control: () => undefined,
    });
    const bytes = encodeFrame(1, FrameType.DATA, Buffer.from('abcd'));
    reader.push(bytes.subarray(0, HEADER_BYTES + 1));
    expect(got).toEqual([['a', false]]);
    expect(reader.atBoundary).toBe(false);
    reader.push(bytes.subarray(HEADER_BYTES + 1, HEADER_BYTES + 3));
    reader.push(bytes.subarray(HEADER_BYTES + 3));
    expect(got).toEqual([
      ['a', false],
      ['bc', false],
      ['d', true],
    ]);
    expect(reader.atBoundary).toBe(true);
  });

  it('keeps nothing of a control frame it has handed on in part before', () => {
    const bytes = encode([SAMPLE[0] as Frame, SAMPLE[0] as Frame]);
    const { frames } = read([bytes.subarray(0, 15), bytes.subarray(15, 27), bytes.subarray(27)]);
    expect(frames).toEqual([SAMPLE[0], SAMPLE[0]]);
  });

  it('knows whether an end would cut something off', () => {
    const bytes = encode(SAMPLE);
    const boundaries = new Set([0]);
    let at = 0;
    for (const { payload } of SAMPLE) {
      at += HEADER_BYTES + payload.length;
      boundaries.add(at);
    }
    for (let end = 0; end <= bytes.length; end += 1) {
      expect(read([bytes.subarray(0, end)]).reader.atBoundary, `${end}`).toBe(boundaries.has(end));
    }
  });

  it.each([
    ['DATA', FrameType.DATA, MAX_DATA_BYTES],
    ['ACK', FrameType.ACK, MAX_CONTROL_BYTES],
    ['EOS', FrameType.EOS, MAX_CONTROL_BYTES],
    ['ERROR', FrameType.ERROR, MAX_CONTROL_BYTES],
    ['HELLO', FrameType.HELLO, MAX_CONTROL_BYTES],
    ['of an unknown type', 0xee, MAX_CONTROL_BYTES],
  ])(
    'takes a frame %s up to its limit and throws PROTOCOL at the header of a longer one',
    (_name, type, limit) => {
      const header = Buffer.alloc(HEADER_BYTES);
      writeHeader(header, 1, type, limit);
      expect(read([header, Buffer.alloc(limit)]).frames).toHaveLength(1);
      for (const length of [limit + 1, 0xffffffff]) {
        writeHeader(header, 1, type, length);
        expect(thrown(() => read([header])).code).toBe('PROTOCOL');
        expect(thrown(() => read([header.subarray(0, 7), header.subarray(7)])).code).toBe('PROTOCOL');
      }
    },
  );

  it('reads any bytes as frames or throws PROTOCOL', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 64 }), { maxLength: 8 }), (chunks) => {
        try {
          read(chunks.map((chunk) => Buffer.from(chunk)));
        } catch (error) {
          expect(error).toMatchObject({ name: 'TunnelError', code: 'PROTOCOL' });
        }
      }),
      { numRuns: 1000 },
    );
  });
});

describe("an ERROR frame's body", () => {
  it('survives being written and read again', () => {
    fc.assert(
      fc.property(fc.nat({ max: 0xffffffff }), fc.stringMatching(/^[ -~]{0,200}$/), (code, message) => {
        expect(decodeError(encodeError(code, message))).toEqual({ code, message });
      }),
    );
  });

  it('keeps at most 1 KiB of the message', () => {
    const body = encodeError(WIRE_CODES.REFUSED, 'm'.repeat(5000));
    expect(body).toHaveLength(8 + 1024);
    expect(decodeError(body)).toEqual({ code: WIRE_CODES.REFUSED, message: 'm'.repeat(1024) });
  });

  it('that is cut inside a character is still read', () => {
    const { message } = decodeError(encodeError(1, `y${'ü'.repeat(2000)}`));
    expect(message.startsWith(`y${'ü'.repeat(500)}`)).toBe(true);
  });

  it.each([
    ['empty', Buffer.alloc(0)],
    ['shorter than its head', Buffer.alloc(7)],
    ['longer than it says', Buffer.concat([encodeError(1, 'ab'), Buffer.of(0)])],
    ['shorter than it says', encodeError(1, 'ab').subarray(0, 9)],
    ['longer than allowed', Buffer.concat([Buffer.from('0000000100000401', 'hex'), Buffer.alloc(1025)])],
  ])('that is %s is PROTOCOL', (_what, body) => {
    expect(thrown(() => decodeError(body)).code).toBe('PROTOCOL');
  });

  it('is read or PROTOCOL, whatever the bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
        try {
          decodeError(Buffer.from(bytes));
        } catch (error) {
          expect(error).toMatchObject({ code: 'PROTOCOL' });
        }
      }),
    );
  });

  it('never carries to a terminal what it would obey', () => {
    const message = '\u001b[2J\u009b31m\r\n\u0007\u202etxet\u2028\u200b end';
    expect(decodeError(encodeError(1, message)).message).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u);
  });
});

describe('printable text', () => {
  it('has no control, format or separator characters left, and everything else', () => {
    expect(printable('plain ünïcode 日本 🎉')).toBe('plain ünïcode 日本 🎉');
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        const safe = printable(text);
        expect(safe).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u);
        expect([...safe]).toHaveLength([...text].length);
      }),
    );
  });
});

const frame: fc.Arbitrary<Frame> = fc.record({
  channelId: fc.nat({ max: 0xffffffff }),
  type: fc.constantFrom<number>(...Object.values(FrameType), 0x00, 0x7f, 0xff),
  payload: fc.uint8Array({ minLength: 1, maxLength: 60 }).map((bytes) => Buffer.from(bytes)),
});
