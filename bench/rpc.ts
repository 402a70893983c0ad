/**
 * The RPC session: calls a second, latency beside the bare engine's stream, a stalled tunnel beside
 * calls, and bytes through tunnels of the mux. Run with `npx tsx bench/rpc.ts`.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { Channel, ChannelReceiver } from '../src/session/channel.js';
import { bindIroh } from '../src/session/engines/iroh.js';
import { Identity } from '../src/session/identity.js';
import type { NodeId } from '../src/session/node-id.js';
import { RpcSession } from '../src/session/rpc-session.js';
import type { BidirectionalStream, Session } from '../src/session/session.js';

const ROUNDS = 3;
const PINGS = 3000;
const CALLS = 30_000;
const IN_FLIGHT = 32;
const TUNNEL_BYTES = 512 * 1024 * 1024;
const CHUNK = Buffer.alloc(64 * 1024, 7);

const bind = () =>
  bindIroh({ identity: Identity.generate(), bind: ['127.0.0.1:0'], relay: 'none', addressLookup: false });

if (process.argv[2] === 'serve') await serve();
else await measure();

/** The other process: echoes streams whose first byte is 0, speaks RPC on those whose first byte is 1. */
async function serve(): Promise<void> {
  const endpoint = await bind();
  process.send?.({ nodeId: endpoint.nodeId, address: endpoint.boundAddresses()[0] });
  for await (const session of endpoint.incoming) {
    void (async () => {
      for await (const stream of session.incomingBidirectionalStreams) serveStream(stream);
    })();
  }
}

function serveStream(stream: BidirectionalStream): void {
  const ignore = () => undefined;
  const events = { end: ignore, reset: ignore, stopped: ignore, drain: ignore, lost: ignore };
  stream.receive({
    ...events,
    data(first) {
      stream.consumed(first.length);
      if (first[0] === 0) {
        if (first.length > 1) stream.write(null, first.subarray(1));
        stream.receive({
          ...events,
          data(chunk) {
            stream.consumed(chunk.length);
            stream.write(null, chunk);
          },
        });
        return;
      }
      const rpc = new RpcSession(stream, { role: 'acceptor', rest: first.subarray(1) });
      rpc.setDispatcher({ echo: (payload) => payload });
      void (async () => {
        for await (const { channel, body } of rpc.incomingTunnels) {
          channel.start(sink(channel, body[0] === 1));
          channel.accept();
        }
      })();
    },
  });
}

function sink(channel: Channel, reads: boolean): ChannelReceiver {
  let batch = 0;
  return {
    data: (piece) => {
      batch += piece.length;
    },
    flush: () => {
      if (reads && batch > 0) channel.consumed(batch);
      batch = 0;
    },
    end: () => {
      channel.endConsumed();
      channel.end();
    },
    drain: () => undefined,
    opened: () => undefined,
    closed: () => undefined,
  };
}

async function measure(): Promise<void> {
  const child = fork(fileURLToPath(import.meta.url), ['serve'], { execArgv: process.execArgv });
  const [{ nodeId, address }] = (await once(child, 'message')) as [{ nodeId: NodeId; address: string }];
  const endpoint = await bind();
  try {
    const session = await endpoint.connect(nodeId, { direct: [address], relays: [] });
    const rounds: Record<string, number>[] = [];
    for (let round = 0; round < ROUNDS; round += 1) rounds.push(await oneRound(session));
    report(rounds);
  } finally {
    child.kill();
    await endpoint.close();
  }
}

async function oneRound(session: Session): Promise<Record<string, number>> {
  const raw = await streamPing(session);
  const rpc = await openRpc(session);
  const call = await latency(() => rpc.call('echo', Buffer.of(1)));
  const rate = await callRate(rpc);
  // A tunnel nobody reads, with more waiting than its credit: calls must not feel it.
  const stalled = rpc.openTunnel(Buffer.of(0));
  stalled.start(sink(stalled, true));
  for (let i = 0; i < 64; i += 1) stalled.write(CHUNK);
  const beside = await latency(() => rpc.call('echo', Buffer.of(1)));
  const bytes = await tunnelRate(rpc);
  rpc.close();
  return { raw, call, rate, beside, bytes };
}

async function openRpc(session: Session): Promise<RpcSession> {
  const stream = await session.createBidirectionalStream();
  stream.write(Buffer.of(1), null);
  return new RpcSession(stream, { role: 'dialler', rttMs: () => session.path.rttMs });
}

async function streamPing(session: Session): Promise<number> {
  const stream = await session.createBidirectionalStream();
  let answered = () => {};
  const ignore = () => undefined;
  stream.receive({
    data: (chunk) => {
      stream.consumed(chunk.length);
      answered();
    },
    end: ignore,
    reset: ignore,
    stopped: ignore,
    drain: ignore,
    lost: ignore,
  });
  stream.write(Buffer.of(0), null);
  const ping = () =>
    new Promise<void>((resolve) => {
      answered = resolve;
      stream.write(null, Buffer.of(1));
    });
  const p50 = await latency(ping);
  stream.finish();
  return p50;
}

/** Median of many in turn, microseconds. */
async function latency(once: () => Promise<unknown>): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < PINGS; i += 1) {
    const start = performance.now();
    await once();
    times.push((performance.now() - start) * 1000);
  }
  return median(times);
}

async function callRate(rpc: RpcSession): Promise<number> {
  const start = performance.now();
  let left = CALLS;
  const worker = async () => {
    while (left > 0) {
      left -= 1;
      await rpc.call('echo', Buffer.of(1));
    }
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, worker));
  return CALLS / ((performance.now() - start) / 1000);
}

async function tunnelRate(rpc: RpcSession): Promise<number> {
  const channel = rpc.openTunnel(Buffer.of(1));
  const start = performance.now();
  await new Promise<void>((resolve) => {
    let sent = 0;
    const more = () => {
      while (sent < TUNNEL_BYTES) {
        sent += CHUNK.length;
        if (!channel.write(CHUNK)) return;
      }
      channel.end();
    };
    channel.start({ ...sink(channel, true), drain: more, closed: () => resolve() });
    more();
  });
  return TUNNEL_BYTES / 1e6 / ((performance.now() - start) / 1000);
}

function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] as number;
}

function report(rounds: Record<string, number>[]): void {
  const of = (name: string) => median(rounds.map((round) => round[name] as number));
  const [raw, call, beside] = [of('raw'), of('call'), of('beside')];
  console.log(`medians of ${ROUNDS} rounds, iroh on loopback, two processes`);
  console.log(`bare stream, 1-byte echo p50         ${raw.toFixed(0)} µs`);
  console.log(
    `call, one at a time, p50             ${call.toFixed(0)} µs   ${(call / raw).toFixed(2)} of the bare stream (goal ≤ 1.3)`,
  );
  console.log(
    `call beside a stalled tunnel, p50    ${beside.toFixed(0)} µs   ${(beside / call).toFixed(2)} of the call alone`,
  );
  console.log(`calls a second, ${IN_FLIGHT} in flight         ${of('rate').toFixed(0)}   (goal ≥ 5,000)`);
  console.log(`one tunnel of the mux                ${of('bytes').toFixed(0)} MB/s   (goal ≥ 100)`);
}
