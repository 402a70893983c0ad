/**
 * UDP load and the echo behind it, each a process of its own: `udp-load.ts <role> <options as JSON>`.
 * It answers with one message to its parent. Every packet carries its number and the time it was sent.
 */
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';

const [role, json] = process.argv.slice(2);
const options = JSON.parse(json ?? '{}') as Record<string, number>;
const number = (key: string): number => Number(options[key]);

/** Answers are waited for this long after the last packet was sent. */
const SETTLE_MS = 500;
const HEADER_BYTES = 12;
const LITERAL = (address: string, _: unknown, done: (error: null, address: string, family: number) => void) =>
  done(null, address, 4);

function socket(): Socket {
  return createSocket({
    type: 'udp4',
    lookup: LITERAL,
    recvBufferSize: 4 << 20,
    sendBufferSize: 4 << 20,
  });
}

async function connected(port: number): Promise<Socket> {
  const made = socket();
  made.on('error', () => undefined);
  const done = once(made, 'connect');
  made.connect(port, '127.0.0.1');
  await done;
  return made;
}

function packet(bytes: number, sequence: number): Buffer {
  const made = Buffer.alloc(bytes, 0x5a);
  made.writeUInt32BE(sequence, 0);
  made.writeDoubleBE(performance.now(), 4);
  return made;
}

function percentile(sorted: readonly number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

function latencies(times: number[]) {
  times.sort((a, b) => a - b);
  return { p50: percentile(times, 0.5), p99: percentile(times, 0.99), max: times.at(-1) ?? Number.NaN };
}

/** Echoes every packet to where it came from. Asked for a count, it says how many there were. */
async function echo(): Promise<void> {
  const made = socket();
  let received = 0;
  made.on('message', (payload, source) => {
    received += 1;
    made.send(payload, source.port, source.address);
  });
  process.on('message', () => {
    process.send?.({ received });
    received = 0;
  });
  // The look-up answers at once, and so the events may come before the call returns.
  const listening = once(made, 'listening');
  made.bind(0, '127.0.0.1');
  await listening;
  process.send?.({ port: made.address().port });
}

/**
 * One packet at a time. One without an answer in a second is sent again and counts as lost. The first seconds do
 * not count: until then it is the compilers of all processes that are measured, this one's too.
 */
async function ping(): Promise<void> {
  const made = await connected(number('port'));
  const times: number[] = [];
  let lost = 0;
  const from = performance.now() + (options.warmUpSeconds ?? 0) * 1000;
  const until = from + number('seconds') * 1000;
  for (let i = 0; performance.now() < until; i += 1) {
    const sentAt = performance.now();
    const answered = new Promise<boolean>((resolve) => {
      const timer = setTimeout(() => done(false), 1000);
      const onMessage = (payload: Buffer) => {
        if (payload.readUInt32BE(0) === i) done(true);
      };
      const done = (ok: boolean) => {
        clearTimeout(timer);
        made.off('message', onMessage);
        resolve(ok);
      };
      made.on('message', onMessage);
    });
    made.send(packet(64, i));
    const ok = await answered;
    if (sentAt < from) continue;
    if (ok) times.push((performance.now() - sentAt) * 1000);
    else lost += 1;
  }
  made.close();
  process.send?.({ ...latencies(times), count: times.length, lost });
}

/** A steady rate, in a burst each millisecond. */
async function rate(): Promise<void> {
  const made = await connected(number('port'));
  const [perSecond, bytes, seconds] = [number('perSecond'), number('bytes'), number('seconds')];
  const times: number[] = [];
  let sent = 0;
  let failed = 0;
  made.on('message', (payload) => times.push((performance.now() - payload.readDoubleBE(4)) * 1000));
  const onSent = (error: Error | null) => {
    if (error) failed += 1;
  };
  const began = performance.now();
  for (;;) {
    const elapsed = performance.now() - began;
    // What the generator is behind by is not made up in one burst that no network would see.
    const due = Math.min(
      Math.floor((Math.min(elapsed, seconds * 1000) * perSecond) / 1000),
      sent + perSecond / 100,
    );
    while (sent < due) {
      made.send(packet(Math.max(bytes, HEADER_BYTES), sent), onSent);
      sent += 1;
    }
    if (elapsed >= seconds * 1000) break;
    await sleep(1);
  }
  const tookMs = performance.now() - began;
  let before = -1;
  while (before !== times.length) {
    before = times.length;
    await sleep(SETTLE_MS);
  }
  const answer = {
    sent,
    failed,
    received: times.length,
    port: made.address().port,
    tookMs,
    ...latencies(times),
  };
  process.send?.(answer);
  // The parent reads the kernel's drop count of this socket before it goes.
  process.once('message', () => made.close());
}

/** Many sources at once, each with a few packets. */
async function flows(): Promise<void> {
  const sockets: Socket[] = [];
  for (let i = 0; i < number('flows'); i += 1) sockets.push(await connected(number('port')));
  const answers = sockets.map(() => 0);
  for (const [index, made] of sockets.entries()) {
    made.on('message', () => {
      answers[index] = (answers[index] ?? 0) + 1;
    });
  }
  const packets = number('packets');
  for (let round = 0; round < packets; round += 1) {
    for (const [index, made] of sockets.entries()) {
      made.send(packet(100, round));
      if (index % 50 === 49) await sleep(2);
    }
  }
  await sleep(SETTLE_MS);
  const received = answers.reduce((sum, count) => sum + count, 0);
  process.send?.({
    sent: packets * sockets.length,
    received,
    silent: answers.filter((count) => count === 0).length,
  });
  for (const made of sockets) made.close();
}

const roles: Record<string, () => Promise<void>> = { echo, ping, rate, flows };
await roles[role ?? '']?.();
process.on('disconnect', () => process.exit(0));
