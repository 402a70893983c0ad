/** The way through networks that drop UDP: channels over WebTransport. */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { dial, endOf, listen, random, readAll, sha256, writeAll } from '../support/sockets.js';
import { Machine, RUN, type TunnelProcess } from '../support/tunnel-process.js';

const MIB = 1024 * 1024;
let here: Machine;
let there: Machine;

beforeEach(() => {
  here = new Machine();
  there = new Machine();
});

afterEach(async () => {
  await there.dispose();
  await here.dispose();
});

async function connected(forward: TunnelProcess): Promise<number> {
  await forward.event('session', { state: 'connected' });
  return forward.listeningPort();
}

describe('forward --via webtransport', () => {
  it('carries bytes and ends as any other way, and says which way it is', async () => {
    const echo = await listen((socket) => socket.pipe(socket));
    const exposed = await here.expose(`echo=${echo.port}`, '--webtransport', '127.0.0.1:0');
    expect(exposed.ticket).toMatch(/&wt=127\.0\.0\.1:\d+,[0-9a-f]{64}&token=/);
    const forward = there.start('forward', exposed.ticket, '0:echo', '--via', 'webtransport');
    const port = await connected(forward);
    expect(await forward.event('session', { state: 'connected' })).toMatchObject({ path: 'webtransport-h2' });
    const data = random(8 * MIB);
    const app = await dial(port);
    const answer = readAll(app);
    await writeAll(app, data);
    app.end();
    expect(await answer).toEqual({ ending: 'end', bytes: data.length, sha256: sha256(data) });
    const reset = await dial(port);
    reset.write('x');
    await once(reset, 'data');
    reset.resetAndDestroy();
    await forward.event('channel.close', { reason: 'reset' });
    expect(await exposed.process.event('channel.close', { reason: 'reset' })).toMatchObject({
      path: 'webtransport-h2',
    });
    await echo.close();
  });

  it('resets the application where the target refuses, and denies a wrong token', async () => {
    const exposed = await here.expose('svc=127.0.0.1:1', '--webtransport', '127.0.0.1:0');
    const forward = there.start('forward', exposed.ticket, '0:svc', '--via', 'webtransport');
    const app = await dial(await connected(forward));
    app.resume();
    expect(await endOf(app)).toBe('reset');
    await forward.event('error', { code: 'REFUSED' });
    const wrong = exposed.ticket.replace(/token=.{22}/, `token=${'A'.repeat(22)}`);
    expect(await there.start('forward', wrong, '0:svc', '--via', 'webtransport').exited).toBe(77);
  });

  it('is refused with 64 where the ticket names no listener', async () => {
    const { ticket } = await here.expose('8080');
    const forward = there.start('forward', ticket, '0:8080', '--via', 'webtransport');
    expect(await forward.exited).toBe(64);
    expect(forward.stderr).toContain('--webtransport');
  });
});

const namespaces =
  process.platform === 'linux' &&
  process.getuid?.() === 0 &&
  spawnSync('iptables', ['--version']).status === 0 &&
  spawnSync('ip', ['netns', 'list']).status === 0;

describe.skipIf(!namespaces)('a network that drops UDP', () => {
  const ns = `tunnel-test-${process.pid}`;
  const ip = (...args: string[]) => execFileSync('ip', args, { stdio: 'pipe' });
  const inside = (...args: string[]) => ip('netns', 'exec', ns, ...args);

  it('is crossed by WebTransport, tried a few seconds after iroh', async () => {
    ip('netns', 'add', ns);
    const children: ChildProcess[] = [];
    /** Runs a program in the namespace; answers the lines it prints as JSON. */
    const start = (home: string, ...args: string[]) => {
      const child = spawn('ip', ['netns', 'exec', ns, process.execPath, ...args], {
        env: { ...process.env, TUNNEL_HOME: home },
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      children.push(child);
      const events: Record<string, unknown>[] = [];
      const lines = createInterface({ input: child.stdout });
      lines.on('line', (line) => events.push(JSON.parse(line)));
      return async (name: string, fields: object = {}) => {
        const wanted = Object.entries({ event: name, ...fields });
        for (;;) {
          const found = events.find((one) => wanted.every(([key, value]) => one[key] === value));
          if (found) return found;
          await once(lines, 'line');
        }
      };
    };
    const local = ['--json', '--no-relay', '--bind', '127.0.0.1'];
    try {
      inside('ip', 'link', 'set', 'lo', 'up');
      inside('iptables', '-A', 'OUTPUT', '-p', 'udp', '-j', 'DROP');
      inside('iptables', '-A', 'INPUT', '-p', 'udp', '-j', 'DROP');
      const service = start(here.home, '-e', ECHO_SERVICE);
      const port = (await service('port')).port;
      const expose = start(
        here.home,
        RUN,
        'expose',
        `echo=${port}`,
        '--webtransport',
        '127.0.0.1:0',
        ...local,
      );
      const { ticket } = await expose('ready');
      const forward = start(there.home, RUN, 'forward', String(ticket), '0:echo', ...local);
      expect(await forward('session', { state: 'connected' })).toMatchObject({ path: 'webtransport-h2' });
      const listening = await forward('listening');
      const client = start(there.home, '-e', CLIENT, String(listening.local).split(':').pop() as string);
      expect(await client('answer')).toMatchObject({ bytes: 4 * MIB, same: true });
    } finally {
      for (const child of children) child.kill('SIGKILL');
      await Promise.all(children.map((child) => child.exitCode ?? child.signalCode ?? once(child, 'exit')));
      ip('netns', 'del', ns);
    }
  });
});

const ECHO_SERVICE = `
const server = require('net').createServer({ allowHalfOpen: true }, (s) => s.pipe(s)).listen(0, '127.0.0.1', () =>
  console.log(JSON.stringify({ event: 'port', port: server.address().port })));`;

const CLIENT = `
const data = require('crypto').randomBytes(${4 * MIB});
const socket = require('net').connect({ port: Number(process.argv[1]), host: '127.0.0.1', allowHalfOpen: true });
const got = [];
socket.on('data', (chunk) => got.push(chunk));
socket.on('end', () => {
  const all = Buffer.concat(got);
  console.log(JSON.stringify({ event: 'answer', bytes: all.length, same: all.equals(data) }));
  socket.destroy();
});
socket.end(data);`;
