/** The main job between real processes, with real clients. */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer as createHttpServer, get, type IncomingMessage } from 'node:http';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { PGlite } from '@electric-sql/pglite';
import { PGLiteSocketServer } from '@electric-sql/pglite-socket';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { dial, endOf, listen, random, readAll, sha256, writeAll } from '../support/sockets.js';
import { Machine, type TunnelProcess } from '../support/tunnel-process.js';

const MIB = 1024 * 1024;
const run = promisify(execFile);
const has = (program: string) =>
  run(program, ['--version']).then(
    () => true,
    () => false,
  );
const hasCurl = await has('curl');
const hasPsql = await has('psql');

let here: Machine;
let there: Machine;
const cleanups: (() => Promise<unknown>)[] = [];

beforeEach(() => {
  here = new Machine();
  there = new Machine();
});

afterEach(async () => {
  await there.dispose();
  await here.dispose();
  for (const cleanup of cleanups.splice(0)) await cleanup();
});

async function echoServer(): Promise<number> {
  const { port, close } = await listen((socket) => socket.pipe(socket));
  cleanups.push(close);
  return port;
}

describe('real clients', () => {
  it('an HTTP client downloads 256 MiB with the right hash', async () => {
    const block = random(MIB);
    const expected = createHash('sha256');
    for (let i = 0; i < 256; i += 1) expected.update(block);
    const server = createHttpServer(async (_request, response) => {
      response.writeHead(200, { 'content-length': 256 * MIB });
      for (let i = 0; i < 256; i += 1) {
        if (!response.write(block)) await once(response, 'drain');
      }
      response.end();
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    cleanups.push(async () => server.close());
    const { ticket } = await here.expose(`web=${(server.address() as AddressInfo).port}`);
    const { port } = await there.forward(ticket, 'web');
    const hash = createHash('sha256');
    if (hasCurl) {
      const file = join(there.home, 'download');
      await run('curl', ['-sSf', '-o', file, `http://127.0.0.1:${port}/`]);
      const { createReadStream } = await import('node:fs');
      for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer);
    } else {
      const [response] = (await once(get(`http://127.0.0.1:${port}/`), 'response')) as [IncomingMessage];
      for await (const chunk of response) hash.update(chunk as Buffer);
    }
    expect(hash.digest('hex')).toBe(expected.digest('hex'));
  });

  it('PostgreSQL clients query a server behind it', async () => {
    const db = await PGlite.create();
    const server = new PGLiteSocketServer({ db, host: '127.0.0.1', port: 0 });
    await server.start();
    cleanups.push(async () => {
      await server.stop();
      await db.close();
    });
    const { ticket } = await here.expose(`db=127.0.0.1:${server.getServerConn().split(':').pop()}`);
    const { port } = await there.forward(ticket, 'db');
    const client = new pg.Client({ host: '127.0.0.1', port, database: 'postgres', user: 'postgres' });
    await client.connect();
    const { rows } = await client.query(
      'select count(*)::int as n, sum(length(x)) as l from (select repeat(n::text, 100) as x from generate_series(1, 2000) n) t',
    );
    expect(rows).toEqual([{ n: 2000, l: '689300' }]);
    await client.end();
    if (hasPsql) {
      const query = 'select 6 * 7';
      const { stdout } = await run('psql', [
        '-h',
        '127.0.0.1',
        '-p',
        String(port),
        '-U',
        'postgres',
        '-Atc',
        query,
        'postgres',
      ]);
      expect(stdout.trim()).toBe('42');
    }
  });

  it('500 connections at once are each served their own bytes', async () => {
    const { ticket } = await here.expose(`echo=${await echoServer()}`);
    const { port } = await there.forward(ticket, 'echo');
    const sockets = await Promise.all(Array.from({ length: 500 }, () => dial(port)));
    const results = await Promise.all(
      sockets.map(async (socket, index) => {
        const data = Buffer.from(`${index} `.repeat(2000));
        const answer = readAll(socket);
        await writeAll(socket, data);
        socket.end();
        const { ending, sha256: got } = await answer;
        return ending === 'end' && got === sha256(data);
      }),
    );
    expect(results.filter((right) => !right)).toEqual([]);
  });

  it('carries unix sockets at both ends', async () => {
    const path = join(here.home, 'echo.sock');
    const local = join(there.home, 'local.sock');
    const server = createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket)).listen(path);
    await once(server, 'listening');
    cleanups.push(async () => server.close());
    const { ticket } = await here.expose(`echo=unix:${path}`);
    const forward = there.start('forward', ticket, `unix:${local}:echo`);
    expect(await forward.event('listening')).toMatchObject({ local: `unix:${local}`, service: 'echo' });
    const { connect } = await import('node:net');
    const socket = connect({ path: local, allowHalfOpen: true });
    const data = random(2 * MIB);
    const answer = readAll(socket);
    await writeAll(socket, data);
    socket.end();
    expect(await answer).toEqual({ ending: 'end', bytes: data.length, sha256: sha256(data) });
  });

  it('serves several targets by several specs of one forward', async () => {
    const one = await listen((socket) => socket.end('one'));
    const two = await listen((socket) => socket.end('two'));
    cleanups.push(one.close, two.close);
    const { ticket } = await here.expose(`one=${one.port}`, `two=localhost:${two.port}`);
    const forward = there.start('forward', ticket, '0:one', '0:two');
    const ports = await Promise.all(
      ['one', 'two'].map(async (service) =>
        String((await forward.event('listening', { service })).local)
          .split(':')
          .pop(),
      ),
    );
    const said = await Promise.all(
      ports.map(async (port) => {
        const socket = await dial(Number(port));
        socket.end();
        let text = '';
        for await (const chunk of socket) text += chunk;
        return text;
      }),
    );
    expect(said).toEqual(['one', 'two']);
  });
});

describe('targets that cannot be reached', () => {
  const machines: Machine[] = [];
  let targets: Readonly<Record<'refusing' | 'nameless' | 'fileless', string>>;
  let expose: TunnelProcess;
  let forward: TunnelProcess;

  beforeAll(async () => {
    targets = {
      refusing: `127.0.0.1:${await closedPort()}`,
      nameless: 'no-such-host.invalid:80',
      fileless: 'unix:/nonexistent/x.sock',
    };
    const [far, near] = [new Machine(), new Machine()];
    machines.push(near, far);
    const exposed = await far.expose(...Object.entries(targets).map((target) => target.join('=')));
    expose = exposed.process;
    forward = near.start('forward', exposed.ticket, ...Object.keys(targets).map((name) => `0:${name}`));
    await forward.event('session', { state: 'connected' });
  });

  afterAll(async () => {
    for (const machine of machines) await machine.dispose();
  });

  it.each([
    ['refuses', 'refusing', 'REFUSED', 'refused'],
    ['does not resolve', 'nameless', 'TARGET_UNRESOLVED', 'target-unresolved'],
    ['has no socket file', 'fileless', 'TARGET_UNREACHABLE', 'target-unreachable'],
  ] as const)(
    'a target that %s resets the local connection and is named',
    async (_what, service, code, reason) => {
      const { local } = await forward.event('listening', { service });
      // Listened to from the start: the reset may be there before the connect is reported.
      const port = Number(String(local).split(':').pop());
      const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
      const ended = endOf(socket);
      socket.resume();
      expect(await ended).toBe('reset');
      expect(await forward.event('channel.close', { service })).toMatchObject({ reason });
      const error = await expose.event('error', { code });
      expect(error.message).toContain(targets[service]);
      expect(error.hint).toBeTruthy();
      expect((await forward.event('error', { code })).message).toContain(targets[service]);
    },
  );
});

describe('sessions', () => {
  it('a forward started before the expose keeps trying, holds connections, and serves them', async () => {
    const echo = await echoServer();
    const { process: first, ticket } = await here.expose(`echo=${echo}`);
    first.kill('SIGTERM');
    await first.exited;
    const forward = there.start('forward', ticket, '0:echo');
    const port = await forward.listeningPort();
    const socket = await dial(port);
    const answer = readAll(socket);
    socket.end('held');
    await forward.event('session', { state: 'connecting' });
    await here.expose(`echo=${echo}`);
    await forward.event('session', { state: 'connected' });
    expect((await answer).bytes).toBe(4);
  });

  it('a killed peer resets its connections, and a restarted one is used again', async () => {
    const echo = await echoServer();
    const { process: expose, ticket } = await here.expose(`echo=${echo}`);
    const { process: forward, port } = await there.forward(ticket, 'echo');
    const socket = await dial(port);
    socket.write('x');
    await once(socket, 'data');
    const ending = endOf(socket);
    const from = forward.events.length;
    expose.kill('SIGKILL');
    expect(await ending).toBe('reset');
    expect(await forward.event('channel.close', {}, from)).toMatchObject({ reason: 'peer-gone' });
    await here.expose(`echo=${echo}`);
    await forward.event('session', { state: 'connected' }, from);
    const again = await dial(port);
    again.write('y');
    expect(String((await once(again, 'data'))[0])).toBe('y');
    again.destroy();
  });

  it('an expose that is told to stop says so at once, and new connections wait for the next one', async () => {
    const echo = await echoServer();
    const { process: expose, ticket } = await here.expose(`echo=${echo}`);
    const { process: forward, port } = await there.forward(ticket, 'echo');
    const open = await dial(port);
    open.write('x');
    await once(open, 'data');
    const from = forward.events.length;
    expose.kill('SIGTERM');
    // The open connection keeps the old process alive; the forward knows all the same.
    expect(await forward.event('session', { state: 'reconnecting' }, from)).toMatchObject({
      error: { code: 'SHUTDOWN' },
    });
    open.write('y');
    expect(String((await once(open, 'data'))[0])).toBe('y');
    const answer = readAll(open);
    open.end();
    expect((await answer).ending).toBe('end');
    expect(await expose.exited).toBe(0);
    const held = await dial(port);
    const late = readAll(held);
    held.end('held');
    await here.expose(`echo=${echo}`);
    expect((await late).bytes).toBe(4);
  });

  it('services lists what a peer offers, 77 where it offers nothing to you', async () => {
    const { ticket, nodeId } = await here.expose('web=8080', 'db=unix:/run/db.sock');
    const listed = there.start('services', ticket);
    expect(await listed.exited).toBe(0);
    expect(listed.events).toMatchObject([
      {
        event: 'services',
        peer: nodeId,
        services: [
          { name: 'web', protocol: 'tcp' },
          { name: 'db', protocol: 'tcp' },
        ],
      },
    ]);
    const denied = there.start('services', ticket.replace(/&token=.*/, ''));
    expect(await denied.exited).toBe(77);
  });

  it('two forwards and an expose of one identity run side by side', async () => {
    const { ticket } = await here.expose(`echo=${await echoServer()}`);
    const forwards = await Promise.all([here.forward(ticket, 'echo'), here.forward(ticket, 'echo')]);
    for (const { port } of forwards) {
      const socket = await dial(port);
      const answer = readAll(socket);
      socket.end('hello');
      expect((await answer).bytes).toBe(5);
    }
  });
});

describe('who may connect', () => {
  it('a bare node ID without a right is denied, and the forward ends with 77', async () => {
    const { nodeId, ticket, process: expose } = await here.expose(`echo=${await echoServer()}`);
    const address = /addr=([^&]+)/.exec(ticket)?.[1];
    const forward = there.start('forward', `tunnel://${nodeId}?addr=${address}`, '0:echo');
    expect(await forward.exited).toBe(77);
    expect(forward.events.at(-1)).toMatchObject({ event: 'error', code: 'DENIED' });
    await expose.event('error', { code: 'DENIED' });
  });

  it('a wrong token is denied', async () => {
    const { ticket } = await here.expose(`echo=${await echoServer()}`);
    const forward = there.start(
      'forward',
      ticket.replace(/token=.{22}/, `token=${'A'.repeat(22)}`),
      '0:echo',
    );
    expect(await forward.exited).toBe(77);
  });

  it('the same identity on another machine needs no ticket', async () => {
    const { nodeId, ticket } = await here.expose(`echo=${await echoServer()}`);
    const address = /addr=([^&]+)/.exec(ticket)?.[1];
    const { port } = await here.forward(`tunnel://${nodeId}?addr=${address}`, 'echo');
    const socket = await dial(port);
    const answer = readAll(socket);
    socket.end('mine');
    expect((await answer).bytes).toBe(4);
  });

  it('a service that is not offered is denied at the start, naming what is', async () => {
    const { ticket } = await here.expose(`echo=${await echoServer()}`);
    const forward = there.start('forward', ticket, '0:other');
    expect(await forward.exited).toBe(77);
    expect(forward.events.at(-1)).toMatchObject({ code: 'DENIED', hint: 'it offers: echo' });
  });
});

describe('signals', () => {
  it.each(['forward', 'expose'] as const)(
    'SIGINT to %s during a transfer lets it end, then exits with 130',
    async (which) => {
      const data = random(24 * MIB);
      const { port: servicePort, close } = await listen(
        (socket) => void writeAll(socket, data).then(() => socket.end()),
      );
      cleanups.push(close);
      const exposed = await here.expose(`svc=${servicePort}`);
      const forwarded = await there.forward(exposed.ticket, 'svc');
      const victim = which === 'forward' ? forwarded.process : exposed.process;
      const app = await dial(forwarded.port);
      await once(app, 'readable');
      victim.kill('SIGINT');
      const answer = readAll(app);
      app.end();
      expect(await answer).toEqual({ ending: 'end', bytes: data.length, sha256: sha256(data) });
      expect(await victim.exited).toBe(130);
    },
  );

  it('a second SIGINT resets what is open at once', async () => {
    const { ticket } = await here.expose(`echo=${await echoServer()}`);
    const { process: forward, port } = await there.forward(ticket, 'echo');
    const app = await dial(port);
    app.write('x');
    await once(app, 'data');
    const ending = endOf(app);
    app.resume();
    forward.kill('SIGINT');
    // Accepting ends with the first signal; only then is the second one a second one.
    await refused(port);
    forward.kill('SIGINT');
    expect(await ending).toBe('reset');
    expect(await forward.exited).toBe(130);
  });

  it('SIGTERM exits with 0', async () => {
    const { process: expose } = await here.expose('8080');
    expose.kill('SIGTERM');
    expect(await expose.exited).toBe(0);
  });
});

async function closedPort(): Promise<number> {
  const { port, close } = await listen(() => undefined);
  await close();
  return port;
}

/** Resolves when nothing listens on the port any more. */
async function refused(port: number): Promise<void> {
  for (;;) {
    const socket: Socket | undefined = await dial(port).catch(() => undefined);
    if (!socket) return;
    socket.on('error', () => undefined);
    socket.destroy();
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
