/**
 * Whatever bytes a stranger sends: a coded error or a normal answer, never a crash or a hang.
 * A short run here; `npm run fuzz` does 100,000 cases a target.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { TunnelError } from '../../src/error.js';
import { StreamCarrier } from '../../src/session/carrier.js';
import { Channel } from '../../src/session/channel.js';
import { decodeError, encodeError, encodeFrame, FrameReader, FrameType } from '../../src/session/frame.js';
import { decodeHello, encodeHello } from '../../src/session/hello.js';
import type { NodeId } from '../../src/session/node-id.js';
import { encodePreamble, readPreamble } from '../../src/session/preamble.js';
import { RpcSession } from '../../src/session/rpc-session.js';
import type { BidirectionalStream, StreamSink } from '../../src/session/session.js';
import { formatTicket, parseTicket } from '../../src/session/ticket.js';
import { WindowBudget } from '../../src/session/window-budget.js';
import { Flow } from '../../src/tunnel/flow.js';
import {
  decodeFlowCounts,
  decodeFlowOpen,
  encodeFlowCounts,
  encodeFlowOpen,
} from '../../src/tunnel/flow-messages.js';
import { encodeFragments, encodeWhole, flowOf } from '../../src/tunnel/fragment.js';
import { decodeOpen, encodeOpen } from '../../src/tunnel/open.js';
import { ReassemblyBudget } from '../../src/tunnel/reassembly.js';

const RUNS = Number(process.env.FUZZ_RUNS ?? 500);
const TIMEOUT_MS = 600_000;
const ID = 'ab'.repeat(32) as NodeId;

/** A stream whose other end is the test: what is written is counted, what is pushed arrives. */
class FakeStream implements BidirectionalStream {
  readonly id = 1;
  written = 0;
  sink: StreamSink | undefined;
  readonly readable = undefined as never;
  readonly writable = undefined as never;

  write(head: Uint8Array | null, body: Uint8Array | null): boolean {
    this.written += (head?.length ?? 0) + (body?.length ?? 0);
    return true;
  }
  finish(): void {}
  reset(): void {}
  stop(): void {}
  consumed(): void {}
  receive(sink: StreamSink): void {
    this.sink = sink;
  }
  push(bytes: Uint8Array): void {
    this.sink?.data(Buffer.from(bytes));
  }
}

/** Bytes from nowhere, or a good recording with some of its bytes changed, cut or doubled. */
function hostile(...recordings: readonly Buffer[]): fc.Arbitrary<Buffer> {
  const recording = fc.constantFrom(...recordings);
  const mutated = fc
    .tuple(recording, fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 8 }), fc.nat(), fc.nat())
    .map(([bytes, changes, from, to]) => {
      const copy = Buffer.from(bytes);
      for (const [position, value] of changes) {
        if (copy.length > 0) copy[position % copy.length] = value;
      }
      const [a, b] = [from % (copy.length + 1), to % (copy.length + 1)];
      return a < b ? copy.subarray(a, b) : Buffer.concat([copy, copy.subarray(b, a)]);
    });
  return fc.oneof(
    fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
    mutated,
  );
}

/** Splits where a network might. */
function pieces(bytes: Buffer, cuts: readonly number[]): Buffer[] {
  const at = [...new Set(cuts.map((cut) => cut % (bytes.length + 1)))].sort((a, b) => a - b);
  return [...at, bytes.length].map((end, index) => bytes.subarray(at[index - 1] ?? 0, end));
}

function codedOrFine(work: () => unknown): void {
  try {
    work();
  } catch (error) {
    expect(error).toBeInstanceOf(TunnelError);
  }
}

function fuzz(
  name: string,
  bytes: fc.Arbitrary<Buffer>,
  run: (bytes: Buffer, cuts: number[]) => void | Promise<void>,
) {
  it(
    name,
    () =>
      fc.assert(
        fc.asyncProperty(bytes, fc.array(fc.nat(), { maxLength: 5 }), async (input, cuts) =>
          run(input, cuts),
        ),
        { numRuns: RUNS },
      ),
    TIMEOUT_MS,
  );
}

const call = Buffer.alloc(12);
const frames = Buffer.concat([
  encodeFrame(1, FrameType.OPEN, Buffer.from('what for')),
  encodeFrame(1, FrameType.DATA, Buffer.from('some data')),
  encodeFrame(1, FrameType.ACK, Buffer.alloc(16)),
  encodeFrame(1, FrameType.EOS, Buffer.from([0, 0, 0, 0, 0, 0, 0, 9])),
  encodeFrame(3, FrameType.CALL, call),
  encodeFrame(5, FrameType.CALL_STREAM, call),
  encodeFrame(5, FrameType.CANCEL, Buffer.alloc(0)),
  encodeFrame(7, FrameType.ERROR, encodeError(1, 'reset')),
]);
const hello = encodeHello({
  major: 1,
  minor: 0,
  instanceId: 'ab'.repeat(16),
  identity: ID,
  proof: 'AAAA',
  tokens: ['token'],
  supported: ['x'],
  required: [],
  services: [{ name: 'db', protocol: 'tcp' }],
});

describe('hostile bytes', () => {
  fuzz('in frames', hostile(frames), (bytes, cuts) => {
    let handed = 0;
    const reader = new FrameReader({
      data: (_id, piece) => {
        handed += piece.length;
      },
      control: (_id, _type, payload) => {
        handed += payload.length;
      },
    });
    codedOrFine(() => {
      for (const piece of pieces(bytes, cuts)) reader.push(piece);
    });
    expect(handed).toBeLessThanOrEqual(bytes.length);
  });

  fuzz(
    'in a preamble',
    hostile(encodePreamble(2, encodeOpen({ channelId: 1, epoch: 0, service: 'db', limit: 9 }))),
    (bytes, cuts) => {
      const stream = new FakeStream();
      let settled = 0;
      readPreamble(
        stream,
        ({ body }) => {
          settled += 1;
          codedOrFine(() => decodeOpen(body));
        },
        (error) => {
          settled += 1;
          expect(error).toBeInstanceOf(TunnelError);
        },
      );
      for (const piece of pieces(bytes, cuts)) stream.push(piece);
      stream.sink?.lost();
      expect(settled).toBe(1);
    },
  );

  fuzz('in a HELLO', hostile(hello), (bytes) => codedOrFine(() => decodeHello(bytes)));
  fuzz('in an OPEN', hostile(encodeOpen({ channelId: 1, epoch: 0, service: 'db', limit: 9 })), (bytes) =>
    codedOrFine(() => decodeOpen(bytes)),
  );
  fuzz('in an ERROR', hostile(encodeError(5, 'some words')), (bytes) =>
    codedOrFine(() => decodeError(bytes)),
  );

  fuzz(
    'on a channel are never a clean end that was not proven',
    hostile(frames.subarray(20)),
    async (bytes, cuts) => {
      const stream = new FakeStream();
      const channel = new Channel(new StreamCarrier(stream, 1), {
        channelId: 1,
        role: 'acceptor',
        peerLimit: 1000,
        budget: new WindowBudget(0),
      });
      let received = 0;
      let clean = false;
      channel.start({
        data: (piece) => {
          received += piece.length;
          channel.consumed(piece.length);
        },
        flush: () => undefined,
        end: () => channel.endConsumed(),
        drain: () => undefined,
        opened: () => undefined,
        closed: (error) => {
          clean = error === undefined;
        },
      });
      for (const piece of pieces(bytes, cuts)) stream.push(piece);
      stream.sink?.end();
      // Nothing was sent from this side, so no end of both directions can have been acknowledged.
      expect(clean).toBe(false);
      expect(channel.isClosed).toBe(true);
      expect(received).toBeLessThanOrEqual(bytes.length);
    },
  );

  fuzz('on an RPC session end in its close or in answers', hostile(frames), async (bytes, cuts) => {
    const stream = new FakeStream();
    const rpc = new RpcSession(stream, { role: 'acceptor', onSessionFrame: () => undefined });
    rpc.setDispatcher({ echo: (payload) => payload });
    await null;
    for (const piece of pieces(bytes, cuts)) stream.push(piece);
    await null;
    stream.sink?.lost();
    const error = await rpc.closed;
    expect(error).toBeInstanceOf(TunnelError);
    expect(rpc.openTunnels).toBe(0);
    expect(stream.written).toBeLessThan(64 * 1024);
  });

  fuzz(
    'that open or close flows',
    hostile(
      encodeFlowOpen({ flow: 7, resume: true, idleMs: 120_000, service: 'dns' }),
      encodeFlowCounts([
        { flow: 7, sent: 1000, seen: 999 },
        { flow: 8, sent: 0, seen: 2 ** 40 },
      ]),
    ),
    (bytes) => {
      codedOrFine(() => decodeFlowOpen(bytes));
      codedOrFine(() => decodeFlowCounts(bytes));
    },
  );

  fuzz(
    'in datagrams of a flow',
    hostile(
      encodeWhole(7, Buffer.from('payload')),
      ...encodeFragments(7, Buffer.alloc(3000, 1), { packet: 9, count: 3 }),
    ),
    (bytes) => {
      const budget = new ReassemblyBudget(128 * 1024);
      const flow = new Flow({ id: 7, service: 'dns', idleMs: 1000, budget });
      if (flowOf(bytes) === undefined) return;
      for (let again = 0; again < 3; again += 1) flow.accept(bytes, 0);
      flow.release();
      expect(budget.left).toBe(128 * 1024);
    },
  );

  const ticket = Buffer.from(
    formatTicket({
      nodeId: ID,
      direct: ['192.0.2.7:4433', '[::1]:9'],
      relays: ['https://r.example'],
      token: 'A'.repeat(22),
    }),
  );
  fuzz('in a ticket', hostile(ticket), (bytes) => codedOrFine(() => parseTicket(bytes.toString('latin1'))));
});
