/**
 * The bare engine between two Node processes on loopback: no TCP, no protocol, no session layer.
 *
 * `npx tsx bench/engine.ts [--runs 3] [--mib 1024] [--congestion cubic]`
 */
import { type ChildProcess, fork } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { type CloseInfo, type Connection, Endpoint, EventKind, type Stream } from '../native/index.js';
import { HANDSHAKES } from '../src/session/engines/handshakes.js';

const { values: args } = parseArgs({
  options: {
    runs: { type: 'string', default: '3' },
    mib: { type: 'string', default: '1024' },
    congestion: { type: 'string', default: 'cubic' },
    window: { type: 'string', default: '2097152' },
    budget: { type: 'string', default: '1048576' },
    block: { type: 'string', default: '65536' },
    only: { type: 'string', default: '' },
  },
});

const MIB = 1024 * 1024;
const BUDGET = Number(args.budget);
const BLOCK = Buffer.alloc(Number(args.block), 0x5a);

/** The first byte of a stream says what the peer shall do with it. */
const ECHO = 1;
const SINK = 2;
const SOURCE = 3;

interface Handler {
  data?(data: Buffer): void;
  end?(): void;
  drain?(): void;
}

/** One endpoint, and who hears of what happens on which stream. */
class Peer {
  readonly handlers = new Map<number, Handler>();
  readonly streams = new Map<number, Stream>();
  connection: Connection | undefined;
  endpoint!: Endpoint;

  static async bind(incoming?: (peer: Peer, stream: Stream) => void): Promise<Peer> {
    const peer = new Peer();
    peer.endpoint = await Endpoint.bind({
      secretKey: randomBytes(32),
      alpn: 'bench/1',
      bind: ['127.0.0.1:0'],
      relay: 'none',
      addressLookup: false,
      lan: 'off',
      lanName: '',
      lanService: 'test',
      dht: 'off',
      dhtBootstrap: [],
      relayRoots: '',
      relayToken: '',
      streamReceiveWindow: Number(args.window),
      connectionReceiveWindow: 16 * MIB,
      sendWindow: 16 * MIB,
      maxStreams: 100_000,
      idleTimeoutMs: 15_000,
      keepAliveMs: 5_000,
      handshakes: HANDSHAKES,
      congestion: args.congestion as 'cubic' | 'bbr',
      ackElicitingThreshold: 4,
      datagramReceiveBuffer: MIB,
      datagramSendBuffer: MIB,
      onEvents: (batch) => {
        for (let at = 0; at < batch.length; at += 4) {
          peer.event(batch[at] as number, batch[at + 1] as number, batch[at + 2], incoming);
        }
      },
    });
    return peer;
  }

  private event(
    kind: number,
    id: number,
    value: unknown,
    incoming?: (peer: Peer, stream: Stream) => void,
  ): void {
    switch (kind) {
      case EventKind.DATA: {
        const data = value as Buffer;
        this.streams.get(id)?.consumed(data.length);
        this.handlers.get(id)?.data?.(data);
        break;
      }
      case EventKind.END:
        this.handlers.get(id)?.end?.();
        break;
      case EventKind.DRAIN:
        this.handlers.get(id)?.drain?.();
        break;
      case EventKind.BIDI:
        incoming?.(this, value as Stream);
        break;
      case EventKind.CONNECTION:
        this.connection = value as Connection;
        this.connection.start();
        break;
      case EventKind.CLOSED:
        if ((value as CloseInfo).kind !== 'local' && (value as CloseInfo).kind !== 'application') {
          throw new Error(`connection lost: ${JSON.stringify(value)}`);
        }
        break;
    }
  }

  add(stream: Stream, handler: Handler): void {
    this.streams.set(stream.id, stream);
    this.handlers.set(stream.id, handler);
    stream.start(BUDGET);
  }

  remove(stream: Stream): void {
    this.streams.delete(stream.id);
    this.handlers.delete(stream.id);
  }

  async open(): Promise<Stream> {
    const connection = this.connection as Connection;
    return connection.tryOpenBi() ?? (await connection.openBi());
  }
}

/** Writes `bytes` and then finishes, holding back as the engine asks. */
function pour(stream: Stream, handler: Handler, bytes: number): void {
  let left = bytes;
  const more = () => {
    while (left > 0) {
      const block = left >= BLOCK.length ? BLOCK : BLOCK.subarray(0, left);
      left -= block.length;
      if (stream.write(null, block) > 0) return;
    }
    if (left === 0) {
      left = -1;
      stream.finish(null, false);
    }
  };
  handler.drain = more;
  more();
}

function serve(peer: Peer, stream: Stream): void {
  let mode = 0;
  const handler: Handler = {
    data(data) {
      let rest = data;
      if (mode === 0) {
        mode = data[0] as number;
        rest = data.subarray(1);
        if (mode === SOURCE) pour(stream, handler, data.readDoubleLE(1));
      }
      if (mode === ECHO && rest.length > 0) stream.write(null, rest);
    },
    end() {
      if (mode === ECHO) stream.finish(null, false);
      if (mode === SINK) {
        stream.write(null, Buffer.from([1]));
        stream.finish(null, false);
      }
      peer.remove(stream);
      if (mode === SOURCE) peer.handlers.set(stream.id, handler);
    },
  };
  peer.add(stream, handler);
}

interface Usage {
  rssMiB: number;
  cpuSeconds: number;
}

function usage(): Usage {
  const { user, system } = process.cpuUsage();
  return { rssMiB: process.memoryUsage.rss() / MIB, cpuSeconds: (user + system) / 1e6 };
}

async function child(): Promise<void> {
  const peer = await Peer.bind(serve);
  process.send?.({ id: peer.endpoint.nodeId, addresses: peer.endpoint.boundAddresses() });
  process.on('message', async (message) => {
    if (message === 'usage') process.send?.(usage());
    if (message === 'stop') {
      await peer.endpoint.close();
      process.disconnect();
    }
  });
}

async function ask<T>(process: ChildProcess, message: string): Promise<T> {
  const answer = once(process, 'message');
  process.send(message);
  return (await answer)[0] as T;
}

async function upload(peer: Peer, bytes: number): Promise<void> {
  const stream = await peer.open();
  await new Promise<void>((resolve) => {
    const handler: Handler = { end: resolve };
    peer.add(stream, handler);
    stream.write(null, Buffer.from([SINK]));
    pour(stream, handler, bytes);
  });
  peer.remove(stream);
}

async function download(peer: Peer, bytes: number): Promise<void> {
  const stream = await peer.open();
  let got = 0;
  await new Promise<void>((resolve) => {
    const handler: Handler = {
      data(data) {
        got += data.length;
      },
      end: resolve,
    };
    peer.add(stream, handler);
    const request = Buffer.alloc(9);
    request[0] = SOURCE;
    request.writeDoubleLE(bytes, 1);
    stream.write(null, request);
    stream.finish(null, false);
  });
  peer.remove(stream);
  if (got !== bytes) throw new Error(`got ${got} of ${bytes} bytes`);
}

/** Opens a stream, has one byte echoed, and ends it on both sides. */
async function visit(peer: Peer): Promise<void> {
  const stream = await peer.open();
  await new Promise<void>((resolve) => {
    peer.add(stream, { end: resolve });
    stream.write(null, Buffer.from([ECHO, 0]));
    stream.finish(null, false);
  });
  peer.remove(stream);
}

async function visits(peer: Peer, count: number, atOnce: number): Promise<number> {
  let left = count;
  const began = performance.now();
  const worker = async () => {
    while (left-- > 0) await visit(peer);
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
  return count / ((performance.now() - began) / 1000);
}

async function roundTrips(peer: Peer, count: number): Promise<number> {
  const stream = await peer.open();
  const times: number[] = [];
  await new Promise<void>((resolve) => {
    let sent = 0;
    const send = () => {
      sent = performance.now();
      stream.write(null, Buffer.from([0]));
    };
    peer.add(stream, {
      data() {
        times.push(performance.now() - sent);
        if (times.length < count) send();
        else stream.finish(null, false);
      },
      end: resolve,
    });
    stream.write(null, Buffer.from([ECHO]));
    send();
  });
  peer.remove(stream);
  return median(times) * 1000;
}

function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] as number;
}

async function main(): Promise<void> {
  const bytes = Number(args.mib) * MIB;
  const results = new Map<string, number[]>();
  const note = (name: string, value: number) => {
    results.set(name, [...(results.get(name) ?? []), value]);
  };
  for (let run = 0; run < Number(args.runs); run++) {
    const other = fork(fileURLToPath(import.meta.url), process.argv.slice(2), {
      env: { ...process.env, TUNNEL_BENCH_CHILD: '1' },
    });
    const [there] = (await once(other, 'message')) as [{ id: string; addresses: string[] }];
    const peer = await Peer.bind();
    const hints = { direct: there.addresses, relays: [] };
    peer.connection = await peer.endpoint.connect(there.id, hints);
    peer.connection.start();

    const rate = async (name: string, work: () => Promise<unknown>) => {
      if (!name.includes(args.only)) return;
      const before = [usage(), await ask<Usage>(other, 'usage')];
      const began = performance.now();
      await work();
      const seconds = (performance.now() - began) / 1000;
      const after = [usage(), await ask<Usage>(other, 'usage')];
      const cpu = (index: number) => (after[index] as Usage).cpuSeconds - (before[index] as Usage).cpuSeconds;
      note(`${name}, MB/s`, bytes / 1e6 / seconds);
      note(`${name}, CPU s/GB here`, cpu(0) / (bytes / 1e9));
      note(`${name}, CPU s/GB there`, cpu(1) / (bytes / 1e9));
    };
    await rate('one stream up', () => upload(peer, bytes));
    await rate('one stream down', () => download(peer, bytes));
    await rate('8 streams up', () => Promise.all(Array.from({ length: 8 }, () => upload(peer, bytes / 8))));
    await rate('8 streams down', () =>
      Promise.all(Array.from({ length: 8 }, () => download(peer, bytes / 8))),
    );
    note('1-byte echo, p50 µs', await roundTrips(peer, 5000));
    note('open+echo+close a second, serial', await visits(peer, 3000, 1));
    note('open+echo+close a second, 50 at once', await visits(peer, 20_000, 50));
    note('RSS here, MiB', usage().rssMiB);
    note('RSS there, MiB', (await ask<Usage>(other, 'usage')).rssMiB);
    other.send('stop');
    await peer.endpoint.close();
    await once(other, 'exit');
  }
  for (const [name, values] of results) {
    // Each run as well: what comes in two kinds has no median.
    const each = values.map((value) => value.toFixed(2)).join(' ');
    console.log(`${name.padEnd(40)} ${median(values).toFixed(2).padStart(10)}   (${each})`);
  }
}

await (process.env.TUNNEL_BENCH_CHILD ? child() : main());
