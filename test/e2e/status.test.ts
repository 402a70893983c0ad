/** `tunnel status` and the status socket under it. */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { StatusSnapshot } from '../../src/tunnel/status.js';
import { eventually } from '../support/eventually.js';
import { dial, endOf, listen } from '../support/sockets.js';
import { Machine } from '../support/tunnel-process.js';

let machine: Machine;

beforeEach(() => {
  machine = new Machine();
});

afterEach(() => machine.dispose());

function folder(): string {
  return join(machine.home, 'runtime', 'tunnel');
}

function socketOf(pid: number): string {
  return join(folder(), `${pid}.sock`);
}

async function statusJson(): Promise<{ processes: StatusSnapshot[] }> {
  const { code, stdout } = await machine.run('status', '--json');
  expect(code).toBe(0);
  expect(stdout.trim().split('\n')).toHaveLength(1);
  return JSON.parse(stdout);
}

/** A line-by-line client of a status socket. */
async function open(pid: number) {
  const socket = connect({ path: socketOf(pid) });
  socket.on('error', () => undefined);
  const lines: Record<string, unknown>[] = [];
  let rest = '';
  socket.setEncoding('utf8').on('data', (text: string) => {
    const parts = (rest + text).split('\n');
    rest = parts.pop() as string;
    lines.push(...parts.map((part) => JSON.parse(part)));
  });
  const until = async (matches: (line: Record<string, unknown>) => boolean) => {
    expect(await eventually(() => lines.some(matches)), JSON.stringify(lines)).toBe(true);
    return lines.find(matches) as Record<string, unknown>;
  };
  return {
    socket,
    lines,
    until,
    send: (line: object | string) =>
      socket.write(`${typeof line === 'string' ? line : JSON.stringify(line)}\n`),
  };
}

describe('tunnel status', () => {
  it('without a tunnel says so, and in JSON has no processes', async () => {
    expect((await machine.run('status')).stdout).toContain('no tunnel is running');
    expect(await statusJson()).toEqual({ processes: [] });
  });

  it('counts both ends of a connection, byte for byte, in JSON and in words', async () => {
    const service = await listen((socket) => socket.write('hello'));
    const { ticket, process: expose, nodeId } = await machine.expose(`web=${service.port}`);
    const { process: forward, port } = await machine.forward(ticket, 'web');
    const socket = await dial(port);
    socket.write('abc');
    await new Promise((resolve) => socket.once('data', resolve));
    let processes: StatusSnapshot[] = [];
    const counted = await eventually(async () => {
      ({ processes } = await statusJson());
      return processes.every(({ channels }) => channels[0]?.bytesIn === (channels[0]?.target ? 3 : 5));
    });
    expect(counted, JSON.stringify(processes)).toBe(true);
    const far = processes.find(({ pid }) => pid === expose.pid);
    const near = processes.find(({ pid }) => pid === forward.pid);
    expect(near).toMatchObject({
      command: 'forward',
      startedAt: expect.stringMatching(/^\d{4}-\d\d-\d\dT/),
      sessions: [{ peer: nodeId, state: 'connected', path: 'iroh-direct', channels: 1 }],
      tunnels: [
        { protocol: 'tcp', local: `127.0.0.1:${port}`, service: 'web', peer: nodeId, open: 1, total: 1 },
      ],
      channels: [{ service: 'web', bytesIn: 5, bytesOut: 3, client: `127.0.0.1:${socket.localPort}` }],
      totals: { bytesIn: 5, bytesOut: 3, channelsOpen: 1, channelsTotal: 1 },
    });
    expect(far).toMatchObject({
      command: 'expose',
      nodeId,
      tunnels: [{ service: 'web', target: `127.0.0.1:${service.port}`, open: 1 }],
      channels: [{ target: `127.0.0.1:${service.port}`, bytesIn: 3, bytesOut: 5, state: 'open' }],
    });
    expect(JSON.stringify(processes)).not.toContain('token');
    const { stdout } = await machine.run('status');
    expect(stdout).toMatch(new RegExp(`^forward ${forward.pid} `, 'm'));
    expect(stdout).toMatch(/web → 127\.0\.0\.1:\d+ +1 +1 +5 B +3 B/);
    socket.destroy();
    await service.close();
  });

  it('shows a UDP flow beside the connections, with its bytes both ways', async () => {
    const target = createSocket('udp4', (packet, from) =>
      target.send(`<${packet}>`, from.port, from.address),
    );
    target.bind(0, '127.0.0.1');
    await once(target, 'listening');
    const { ticket } = await machine.expose(`dns=udp:${target.address().port}`);
    const near = machine.start('forward', ticket, '0:dns/udp');
    const port = await near.listeningPort();
    await near.event('session', { state: 'connected' });
    const app = createSocket('udp4');
    app.send('abc', port, '127.0.0.1');
    await once(app, 'message');
    let processes: StatusSnapshot[] = [];
    const counted = await eventually(async () => {
      ({ processes } = await statusJson());
      return processes.every(({ channels }) => channels[0]?.bytesIn === (channels[0]?.target ? 3 : 5));
    });
    expect(counted, JSON.stringify(processes)).toBe(true);
    const { tunnels, channels } = processes.find(({ pid }) => pid === near.pid) as StatusSnapshot;
    expect(tunnels).toMatchObject([{ protocol: 'udp', local: `127.0.0.1:${port}`, open: 1, total: 1 }]);
    expect(channels).toMatchObject([
      { protocol: 'udp', client: `127.0.0.1:${app.address().port}`, bytesIn: 5, bytesOut: 3, drops: 0 },
    ]);
    app.close();
    target.close();
  });

  it('--watch prints again until it is told to end', async () => {
    const { process: expose } = await machine.expose('web=1');
    const watch = machine.startAs('status', '--watch');
    const twice = () => watch.stdout.split(`expose ${expose.pid}`).length > 2;
    expect(await eventually(twice), watch.stdout + watch.stderr).toBe(true);
    watch.kill('SIGINT');
    expect(await watch.exited).toBe(130);
  });
});

describe('the status socket', () => {
  it('is for this user alone, and is gone with its process', async () => {
    const { process: expose } = await machine.expose('web=1');
    expect(statSync(folder()).mode & 0o777).toBe(0o700);
    expect(statSync(socketOf(expose.pid)).mode & 0o777).toBe(0o600);
    expose.kill('SIGTERM');
    await expose.exited;
    expect(existsSync(socketOf(expose.pid))).toBe(false);
  });

  it('of a killed process is cleared away by the next one that looks; one that does not answer is told of', async () => {
    const { process: first } = await machine.expose('web=1');
    first.kill('SIGKILL');
    await first.exited;
    expect(existsSync(socketOf(first.pid))).toBe(true);
    const server = createServer((socket) => socket.resume()).listen(socketOf(999_999));
    const [lines, json] = await Promise.all([machine.run('status'), machine.run('status', '--json')]);
    expect(lines.stdout).toBe('the process 999999 does not answer\n');
    expect(JSON.parse(json.stdout)).toEqual({ processes: [] });
    expect(json.stderr).toBe('tunnel: the process 999999 does not answer\n');
    expect(readdirSync(folder()).filter((name) => name.endsWith('.sock'))).toEqual(['999999.sock']);
    await new Promise((resolve) => server.close(resolve));
  });

  it('says its version first, and resets a channel on request', async () => {
    const service = await listen(() => undefined);
    const { ticket } = await machine.expose(`web=${service.port}`);
    const { process: forward, port } = await machine.forward(ticket, 'web');
    const client = await open(forward.pid);
    await client.until(({ type }) => type === 'hello');
    expect(client.lines[0]).toEqual({ type: 'hello', version: 1, pid: forward.pid });
    const socket = await dial(port);
    const ending = endOf(socket);
    socket.resume();
    const { id } = await forward.event('channel.open');
    client.send({ id: 1, method: 'reset', channel: id });
    expect(await client.until((line) => line.id === 1)).toMatchObject({ type: 'done', ok: true });
    expect(await ending).toBe('reset');
    client.send({ id: 2, method: 'reset', channel: id });
    expect(await client.until((line) => line.id === 2)).toMatchObject({ ok: false });
    client.socket.destroy();
    await service.close();
  });

  it('answers nonsense with an error, and drops who sends a line without an end', async () => {
    const { process: expose } = await machine.expose('web=1');
    const client = await open(expose.pid);
    client.send('{');
    await client.until(({ type }) => type === 'error');
    client.send({ id: 1, method: 'shutdown' });
    await eventually(() => client.lines.filter(({ type }) => type === 'error').length === 2);
    client.socket.write('x'.repeat(10_000));
    await new Promise((resolve) => client.socket.once('close', resolve));
    expect((await statusJson()).processes).toHaveLength(1);
  });

  it('drops a reader that does not read, and goes on', async () => {
    const service = await listen(() => undefined);
    const { ticket } = await machine.expose(`web=${service.port}`);
    const { process: forward, port } = await machine.forward(ticket, 'web');
    const sockets = await Promise.all(Array.from({ length: 400 }, () => dial(port)));
    const before = await forward.residentBytes();
    const lazy = connect({ path: socketOf(forward.pid) });
    lazy.on('error', () => undefined);
    lazy.pause();
    const watch = {
      id: 1,
      method: 'snapshot',
      query: { sort: 'id', reverse: false, filter: '', limit: null },
    };
    lazy.write(`${JSON.stringify(watch)}\n`.repeat(30));
    const closed = await eventually(async () => {
      // A socket that is not read does not notice its end; writing to it does.
      lazy.write('\n');
      return lazy.destroyed;
    }, 10_000);
    expect(closed).toBe(true);
    expect((await forward.residentBytes()) - before).toBeLessThan(64 * 1024 * 1024);
    expect((await statusJson()).processes).toHaveLength(2);
    for (const socket of sockets) socket.destroy();
    await service.close();
  });

  it('that cannot be made is told, and the tunnel runs all the same', async () => {
    // The path of a unix socket has about a hundred bytes.
    const deep = new Machine({ folder: 'x'.repeat(120) });
    const child = deep.start('expose', 'web=1');
    await child.event('ready');
    expect(await child.event('error')).toMatchObject({ code: 'OS_RESOURCE', hint: expect.any(String) });
    child.kill('SIGTERM');
    expect(await child.exited).toBe(0);
    await deep.dispose();
  });
});
