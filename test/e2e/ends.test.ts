/** The truth of ends: what one application does to its connection is what the other one sees. */
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { dial, endOf, listen, random, readAll, sha256, writeAll } from '../support/sockets.js';
import { Machine, type TunnelProcess } from '../support/tunnel-process.js';

const MIB = 1024 * 1024;
const here = new Machine();
const there = new Machine();
let expose: TunnelProcess;
let forward: TunnelProcess;
let port: number;
let target: Awaited<ReturnType<typeof listen>>;
/** What the target does with its next connection. */
let onConnection: (socket: Socket) => void;

beforeAll(async () => {
  target = await listen((socket) => onConnection(socket));
  const exposed = await here.expose(`svc=${target.port}`);
  expose = exposed.process;
  ({ process: forward, port } = await there.forward(exposed.ticket, 'svc'));
});

afterAll(async () => {
  await there.dispose();
  await here.dispose();
  await target.close();
});

/** A connection through the tunnel, and the target's side of it. */
async function through(): Promise<{ app: Socket; service: Socket }> {
  const accepted = new Promise<Socket>((resolve) => {
    onConnection = resolve;
  });
  const app = await dial(port);
  return { app, service: await accepted };
}

describe('half-close', () => {
  it('lets the service answer 4 MiB after the application has ended its side', async () => {
    const { app, service } = await through();
    const request = random(MIB);
    const reply = random(4 * MIB);
    const served = readAll(service).then(async (got) => {
      await writeAll(service, reply);
      service.end();
      return got;
    });
    const answer = readAll(app);
    await writeAll(app, request);
    app.end();
    expect(await served).toEqual({ ending: 'end', bytes: MIB, sha256: sha256(request) });
    expect(await answer).toEqual({ ending: 'end', bytes: 4 * MIB, sha256: sha256(reply) });
  });

  it('lets the application send 4 MiB after the service has ended its side', async () => {
    const { app, service } = await through();
    const late = random(4 * MIB);
    const got = readAll(service);
    service.end();
    expect((await readAll(app)).ending).toBe('end');
    await writeAll(app, late);
    app.end();
    expect(await got).toEqual({ ending: 'end', bytes: 4 * MIB, sha256: sha256(late) });
  });

  it('carries both directions at once without a deadlock', async () => {
    const { app, service } = await through();
    service.pipe(service);
    const data = random(32 * MIB);
    const echoed = readAll(app);
    await writeAll(app, data);
    app.end();
    expect(await echoed).toEqual({ ending: 'end', bytes: data.length, sha256: sha256(data) });
  });

  it('ends a connection that carried nothing cleanly', async () => {
    const { app, service } = await through();
    service.resume();
    service.on('end', () => service.end());
    app.end();
    expect((await readAll(app)).ending).toBe('end');
  });
});

describe('resets', () => {
  it('reach the service when the application resets in mid-transfer', async () => {
    const { app, service } = await through();
    const ending = endOf(service);
    service.resume();
    const stop = pumpForever(app);
    await once(service, 'data');
    stop();
    app.resetAndDestroy();
    expect(await ending).toBe('reset');
  });

  it('reach the application when the service resets in mid-transfer', async () => {
    const { app, service } = await through();
    const ending = endOf(app);
    app.resume();
    const stop = pumpForever(service);
    await once(app, 'data');
    stop();
    service.resetAndDestroy();
    expect(await ending).toBe('reset');
  });

  it('reach the application when the service has ended its side and then resets', async () => {
    const { app, service } = await through();
    const ended = once(app, 'end');
    app.resume();
    service.end('the last words');
    await ended;
    const failed = once(app, 'error');
    service.resetAndDestroy();
    // The writing side is all that is left to learn it on.
    const stop = pumpForever(app);
    const [error] = (await failed) as [NodeJS.ErrnoException];
    stop();
    expect(['ECONNRESET', 'EPIPE']).toContain(error.code);
  });

  it('reach the application in the middle of a late reply, when its own side has ended', async () => {
    // Data and reset arrive together at the exit: what libuv alone would call an end of file.
    for (let round = 0; round < 20; round += 1) {
      const { app, service } = await through();
      app.end();
      service.resume();
      await once(service, 'end');
      const answer = readAll(app);
      service.write(random(200_000), () => service.resetAndDestroy());
      expect((await answer).ending).toBe('reset');
    }
  });

  it('are reported with their reason at both ends', async () => {
    const from = [forward.events.length, expose.events.length] as const;
    const { app } = await through();
    await forward.event('channel.open', {}, from[0]);
    app.resetAndDestroy();
    expect(await forward.event('channel.close', {}, from[0])).toMatchObject({
      service: 'svc',
      reason: 'reset',
    });
    expect(await expose.event('channel.close', {}, from[1])).toMatchObject({
      service: 'svc',
      reason: 'reset',
    });
  });
});

describe('backpressure', () => {
  it('gives a slow reader every byte', async () => {
    const { app, service } = await through();
    const data = random(24 * MIB);
    const sent = writeAll(service, data).then(() => service.end());
    const chunks: Buffer[] = [];
    for await (const chunk of app) {
      chunks.push(chunk as Buffer);
      if (chunks.length % 16 === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    }
    await sent;
    expect(sha256(Buffer.concat(chunks))).toBe(sha256(data));
    app.end();
  });

  it('stops the sender within a few MiB when nobody reads', async () => {
    const before = [await forward.residentBytes(), await expose.residentBytes()] as const;
    const { app, service } = await through();
    app.pause();
    const chunk = Buffer.alloc(64 * 1024);
    // The kernel's own buffers on the way (two socket pairs) take their part of this.
    const most = 48 * MIB;
    let written = 0;
    while (written < most) {
      if (!service.write(chunk) && !(await drained(service, 1500))) break;
      written += chunk.length;
    }
    expect(written).toBeLessThan(most);
    expect((await forward.residentBytes()) - before[0]).toBeLessThan(40 * MIB);
    expect((await expose.residentBytes()) - before[1]).toBeLessThan(40 * MIB);
    app.resetAndDestroy();
  });
});

/** Whether a socket takes more within the time. */
async function drained(socket: Socket, timeoutMs: number): Promise<boolean> {
  const timeout = new AbortController();
  const timer = setTimeout(() => timeout.abort(), timeoutMs);
  try {
    await once(socket, 'drain', { signal: timeout.signal });
    return true;
  } catch {
    return false;
  } finally {
    clearTimeout(timer);
  }
}

/** Writes until told to stop; answers what stops it. */
function pumpForever(socket: Socket): () => void {
  const chunk = Buffer.alloc(64 * 1024);
  let stopped = false;
  socket.on('error', () => undefined);
  const more = () => {
    while (!stopped && !socket.destroyed && socket.write(chunk));
  };
  socket.on('drain', more);
  more();
  return () => {
    stopped = true;
  };
}
