/** `tunnel up`: a config file on both sides, and what becomes of what runs when the file changes. */
import { chmodSync, renameSync, writeFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { eventually } from '../support/eventually.js';
import { dial, endOf, listen } from '../support/sockets.js';
import { NO_TMUX, Terminal } from '../support/terminal.js';
import { type JsonEvent, Machine, RUN, type TunnelProcess } from '../support/tunnel-process.js';
import { udpPeer } from '../support/udp.js';

let far: Machine;
let near: Machine;
let closes: (() => unknown)[];

beforeEach(() => {
  [far, near] = [new Machine(), new Machine()];
  closes = [];
});

afterEach(async () => {
  await Promise.all([far.dispose(), near.dispose()]);
  for (const close of closes) await close();
});

function configOf({ home }: Machine): string {
  return join(home, 'tunnel.toml');
}

/** As an editor that replaces the file. */
function write(machine: Machine, text: string): string {
  const path = configOf(machine);
  writeFileSync(`${path}.new`, text, { mode: 0o600 });
  renameSync(`${path}.new`, path);
  return path;
}

function up(machine: Machine, text: string): TunnelProcess {
  return machine.start('up', '--config', write(machine, text));
}

/** A TCP service that says `greeting` and then whatever it is told. */
async function service(greeting: string): Promise<number> {
  const { port, close } = await listen((socket) => {
    socket.write(greeting);
    socket.pipe(socket);
  });
  closes.push(close);
  return port;
}

async function udpService(): Promise<number> {
  const peer = await udpPeer({ answer: (payload) => Buffer.from(`<${payload}>`) });
  closes.push(() => peer.close());
  return peer.port;
}

/** What the socket has received, as soon as it ends in `text`. */
async function heard(socket: Socket, text: string): Promise<void> {
  let all = '';
  await new Promise<void>((resolve, reject) => {
    const onData = (chunk: Buffer) => {
      all += chunk;
      if (!all.endsWith(text)) return;
      socket.off('data', onData);
      resolve();
    };
    socket.on('data', onData);
    socket.once('close', () => reject(new Error(`closed after '${all}', before '${text}'`)));
  });
}

async function connected(port: number, greeting: string): Promise<Socket> {
  const socket = await dial(port);
  socket.on('error', () => undefined);
  closes.push(() => socket.destroy());
  await heard(socket, greeting);
  return socket;
}

/** That the connection still carries bytes both ways. */
async function goesOn(socket: Socket, text: string): Promise<void> {
  const answer = heard(socket, text);
  socket.write(text);
  await answer;
}

function portOf({ local }: JsonEvent): number {
  return Number(String(local).replace(/^.*:/, ''));
}

async function refused(port: number): Promise<boolean> {
  return dial(port).then(
    (socket) => {
      socket.destroy();
      return false;
    },
    (error: NodeJS.ErrnoException) => error.code === 'ECONNREFUSED',
  );
}

async function sameAnswer(port: number, text: string): Promise<void> {
  const app = await udpPeer({ connectTo: port });
  closes.push(() => app.close());
  const found = await eventually(
    async () => {
      await app.send(Buffer.from(text)).catch(() => undefined);
      return app.received.some((payload) => payload.toString() === `<${text}>`);
    },
    20_000,
    50,
  );
  expect(found).toBe(true);
}

/** An expose of two TCP services and one of UDP, and what forwards them, both by `up`. */
async function bothSides() {
  const [db, web, dns] = [await service('db'), await service('web'), await udpService()];
  const expose = up(far, `[expose]\nservices = ["db=${db}", "web=${web}", "dns=udp:${dns}"]\n`);
  const { ticket, nodeId } = await expose.event('ready');
  const forwardConfig = (listens: readonly string[], more = '') =>
    `[[forward]]\npeer = "${ticket}"\nlisten = ${JSON.stringify(listens)}\n${more}`;
  const forward = up(near, forwardConfig(['0:db', '0:web', '0:dns/udp']));
  await forward.event('ready');
  await forward.event('session', { state: 'connected' });
  const port = async (name: string) => portOf(await forward.event('listening', { service: name }));
  const ports = { db: await port('db'), web: await port('web'), dns: await port('dns') };
  return { expose, forward, nodeId, ports, targets: { db, web, dns }, forwardConfig };
}

describe('tunnel up', () => {
  it('carries TCP and UDP between two machines, is one process to status, and ends in order', async () => {
    const { expose, forward, nodeId, ports, targets } = await bothSides();
    expect(await expose.event('ready')).toEqual({
      event: 'ready',
      time: expect.any(String),
      nodeId,
      ticket: expect.stringContaining('token='),
      services: [
        { name: 'db', protocol: 'tcp', target: `127.0.0.1:${targets.db}` },
        { name: 'web', protocol: 'tcp', target: `127.0.0.1:${targets.web}` },
        { name: 'dns', protocol: 'udp', target: `127.0.0.1:${targets.dns}` },
      ],
      access: expect.any(Object),
      pid: expose.pid,
    });
    const sockets = [await connected(ports.db, 'db'), await connected(ports.web, 'web')];
    await sameAnswer(ports.dns, 'query');
    const ids = forward.events.filter(({ event }) => event === 'channel.open').map(({ id }) => id);
    expect(new Set(ids).size).toBe(3);
    const { stdout } = await near.run('status', '--json');
    expect(JSON.parse(stdout).processes).toMatchObject([
      {
        pid: forward.pid,
        command: 'up',
        sessions: [{ peer: nodeId, state: 'connected' }],
        tunnels: [
          { local: `127.0.0.1:${ports.db}`, service: 'db', open: 1 },
          { local: `127.0.0.1:${ports.web}`, service: 'web', open: 1 },
          { local: `127.0.0.1:${ports.dns}`, service: 'dns', protocol: 'udp', open: 1 },
        ],
      },
    ]);
    expect(stdout).not.toContain('token');
    for (const socket of sockets) socket.end();
    await forward.event('channel.close', { service: 'web', reason: 'eos' });
    forward.kill('SIGTERM');
    expect(await forward.exited).toBe(0);
    expose.kill('SIGINT');
    expect(await expose.exited).toBe(130);
  });

  it('exposes and forwards at once, to a peer that does the same', async () => {
    const [one, two] = [await service('one'), await service('two')];
    const [farId, nearId] = [await far.nodeId(), await near.nodeId()];
    // Neither knows where the other is but by a ticket without rights; they are let in by name.
    const tickets: Record<string, string> = {};
    for (const [machine, key] of [
      [far, 'far'],
      [near, 'near'],
    ] as const) {
      const first = up(machine, `[expose]\nservices = "1"\nticket = false\n`);
      tickets[key] = (await first.event('ready')).ticket as string;
      first.kill('SIGTERM');
      await first.exited;
    }
    const config = (port: number, name: string, allow: string, peer: string, wanted: string) =>
      `[expose]\nservices = "${name}=${port}"\nallow = "${allow}"\n[[forward]]\npeer = "${peer}"\nlisten = "0:${wanted}"\n`;
    const a = up(far, config(one, 'one', nearId, tickets.near as string, 'two'));
    const b = up(near, config(two, 'two', farId, tickets.far as string, 'one'));
    await connected(portOf(await a.event('listening', { service: 'two' })), 'two');
    await connected(portOf(await b.event('listening', { service: 'one' })), 'one');
    const { stdout } = await far.run('status', '--json');
    const [{ tunnels, sessions }] = JSON.parse(stdout).processes;
    expect(
      tunnels.map(({ service: name, target }: { service: string; target?: string }) => [name, !!target]),
    ).toEqual([
      ['one', true],
      ['two', false],
    ]);
    expect(sessions).toMatchObject([
      { peer: nearId, state: 'connected' },
      { peer: nearId, state: 'connected' },
    ]);
    // One that leaves is not taken for the other.
    b.kill('SIGTERM');
    await a.event('session', { peer: nearId, state: 'reconnecting' });
    expect(await b.exited).toBe(0);
  });

  it('follows a new file: what is unchanged keeps its connections, what is gone refuses, what is new is there', async () => {
    const { expose, forward, ports, forwardConfig } = await bothSides();
    const [db, web] = [await connected(ports.db, 'db'), await connected(ports.web, 'web')];
    const spare = await service('spare');
    write(near, forwardConfig(['0:db', '0:dns/udp', '0:db']));
    const reload = await forward.event('reload');
    expect(reload).toMatchObject({
      file: configOf(near),
      added: [],
      removed: [expect.stringMatching(/^forward 127\.0\.0\.1:0:web @ /)],
      restart: [],
    });
    expect(await refused(ports.web)).toBe(true);
    const more = forward.events.filter(({ event, service: name }) => event === 'listening' && name === 'db');
    expect(more).toHaveLength(2);
    await connected(portOf(more[1] as JsonEvent), 'db');
    // One that is going may end by itself: it still carries.
    await goesOn(web, 'a late word');
    await goesOn(db, 'still here');
    await sameAnswer(ports.dns, 'again');
    web.end();
    await forward.event('channel.close', { service: 'web', reason: 'eos' });

    // The other side: another target for db counts for new connections only.
    write(far, `[expose]\nservices = ["db=${spare}", "dns=udp:${(await udpService()).toString()}"]\n`);
    expect(await expose.event('reload')).toMatchObject({
      removed: ['expose web'],
      changed: expect.arrayContaining(['expose db']),
    });
    await goesOn(db, 'the old target');
    await connected(ports.db, 'spare');
    const states = forward.events.filter(({ event, state }) => event === 'session' && state === 'connected');
    expect(states).toHaveLength(1);
    // The ticket from before goes on opening what is left of it, and `ready` tells of the new one.
    const readies = expose.events.filter(({ event }) => event === 'ready');
    expect(readies).toHaveLength(2);
    expect(readies[1]?.ticket).not.toBe(readies[0]?.ticket);
    const other = near.start('forward', readies[0]?.ticket as string, '0:db');
    await connected(await other.listeningPort(), 'spare');
    const denied = near.start('forward', readies[0]?.ticket as string, '0:web');
    expect(await denied.exited).toBe(77);
  });

  it('makes a forward anew whose settings changed: what it carried may end, and what comes meanwhile waits', async () => {
    const { forward, ports, forwardConfig } = await bothSides();
    const listens = [`${ports.db}:db`, `${ports.dns}:dns/udp`];
    write(near, forwardConfig(listens));
    await forward.event('reload');
    const before = await connected(ports.db, 'db');
    await sameAnswer(ports.dns, 'before');
    write(near, forwardConfig(listens, 'udp-idle = "5s"\n'));
    const changed = await forward.event('reload', {}, forward.events.length);
    expect(changed).toMatchObject({
      added: [],
      removed: [],
      changed: [expect.stringMatching(/^forward @ /)],
    });
    const after = await dial(ports.db);
    closes.push(() => after.destroy());
    await goesOn(before, 'still carried');
    before.end();
    await heard(after, 'db');
    await sameAnswer(ports.dns, 'after');
    const { processes } = JSON.parse((await near.run('status', '--json')).stdout);
    expect(processes[0].tunnels.map(({ service: name }: { service: string }) => name).sort()).toEqual([
      'db',
      'dns',
    ]);
  });

  it('resets the connections of what is gone when its grace is over, and only those', async () => {
    const { expose, forward, ports, targets } = await bothSides();
    const [db, web] = [await connected(ports.db, 'db'), await connected(ports.web, 'web')];
    const ended = endOf(web);
    write(far, `[expose]\nservices = ["db=${targets.db}"]\n`);
    await expose.event('reload');
    expect(await ended).toBe('reset');
    expect(await forward.event('channel.close', { service: 'web' })).toMatchObject({ reason: 'shutdown' });
    await goesOn(db, 'untouched');
    const { stdout } = await far.run('status', '--json');
    expect(JSON.parse(stdout).processes[0].tunnels).toMatchObject([{ service: 'db', open: 1 }]);
  });

  it('goes on as it was with a bad file, and says what is wrong with it', async () => {
    const { forward, ports, forwardConfig } = await bothSides();
    const db = await connected(ports.db, 'db');
    write(near, forwardConfig(['0:db', '0:no such']));
    const error = await forward.event('error');
    expect(error).toMatchObject({ code: 'BAD_CONFIG', hint: expect.stringContaining('listen = ') });
    expect(error.message).toMatch(
      /tunnel\.toml:3: 'listen' in \[\[forward\]\]: .*'no such'.*; what runs goes on as it was/,
    );
    expect(JSON.stringify(error)).not.toContain('token=');
    const from = forward.events.length;
    // By word of somebody it is read again, however often.
    forward.kill('SIGHUP');
    await forward.event('error', { code: 'BAD_CONFIG' }, from);
    await goesOn(db, 'still here');
    write(near, forwardConfig(['0:db', '0:web', '0:dns/udp']));
    await forward.event('reload', {}, from);
    await goesOn(db, 'and here');
    expect(await refused(ports.web)).toBe(false);
  });

  it('on SIGHUP reads the file again, and says by name what needs a restart', async () => {
    const target = await service('web');
    const process = up(far, `[expose]\nservices = "web=${target}"\n`);
    const { ticket } = await process.event('ready');
    process.kill('SIGHUP');
    expect(await process.event('reload')).toMatchObject({ added: [], removed: [], changed: [], restart: [] });
    const from = process.events.length;
    write(far, `identity = "other"\n[expose]\nservices = "web=${target}"\nask = true\n`);
    expect(await process.event('reload', {}, from)).toMatchObject({
      added: [],
      removed: [],
      changed: [],
      restart: ['identity', 'expose.ask'],
    });
    const { port } = await near.forward(ticket as string, 'web');
    await connected(port, 'web');
  });

  it('takes and gives up the expose, and a peer, with the file', async () => {
    const target = await service('web');
    const { ticket } = await far.expose(`web=${target}`);
    const forward = `[[forward]]\npeer = "${ticket}"\nlisten = "0:web"\n`;
    const expose = `[expose]\nservices = "web=${target}"\n`;
    const process = up(near, forward);
    expect(await process.event('ready')).not.toHaveProperty('ticket');
    // It exposes nothing, so another process may.
    const other = near.start('expose', 'web=1');
    await other.event('ready');
    write(near, `${expose}${forward}`);
    expect((await process.event('error')).code).toBe('IDENTITY_LOCKED');
    other.kill('SIGTERM');
    await other.exited;
    const from = process.events.length;
    process.kill('SIGHUP');
    await process.event('reload', {}, from);
    const offered = await process.event('ready', {}, from);
    expect(offered.services).toEqual([{ name: 'web', protocol: 'tcp', target: `127.0.0.1:${target}` }]);
    const port = await process.listeningPort();
    const socket = await connected(port, 'web');
    write(near, expose);
    expect(await eventually(() => refused(port))).toBe(true);
    socket.end();
    await process.event('channel.close');
    await process.event('session', { state: 'closed' });
    process.kill('SIGTERM');
    expect(await process.exited).toBe(0);
  });

  it('is not ended by a peer that denies: it is told, shown, and asked again on SIGHUP', async () => {
    const target = await service('web');
    const denying = await far.expose(`web=${target}`, '--no-ticket');
    const third = new Machine();
    closes.push(() => third.dispose());
    const { ticket, nodeId } = await third.expose(`web=${target}`);
    const process = up(
      near,
      `[[forward]]\npeer = "${denying.ticket}"\nlisten = "0:web"\n[[forward]]\npeer = "${ticket}"\nlisten = "0:web"\n`,
    );
    expect((await process.event('error')).code).toBe('DENIED');
    const state = await process.event('session', { peer: denying.nodeId, state: 'reconnecting' });
    expect(state).toMatchObject({ error: { code: 'DENIED' }, nextTryMs: 60_000 });
    const listening = (peer: string) => process.event('listening', { peer });
    await connected(portOf(await listening(nodeId)), 'web');
    const status = JSON.parse((await near.run('status', '--json')).stdout);
    expect(status.processes[0].sessions).toEqual(
      expect.arrayContaining([
        expect.objectContaining({
          state: 'reconnecting',
          error: expect.objectContaining({ code: 'DENIED' }),
        }),
      ]),
    );
    expect((await far.run('peers', 'add', 'near', await near.nodeId(), '--allow', 'web')).code).toBe(0);
    // The other side has to have seen it.
    const isConnected = () =>
      process.events.some(({ peer, state: now }) => peer === denying.nodeId && now === 'connected');
    const asked = await eventually(
      () => {
        if (!isConnected()) process.kill('SIGHUP');
        return isConnected();
      },
      20_000,
      500,
    );
    expect(asked).toBe(true);
    await connected(portOf(await listening(denying.nodeId)), 'web');
  });

  it('ends with 69 when the last of it has given up, and until then runs the rest', async () => {
    const [first, second] = [await far.expose('web=1'), await near.nodeId()];
    first.process.kill('SIGTERM');
    await first.process.exited;
    const process = up(
      near,
      `[[forward]]\npeer = "${first.ticket}"\nlisten = "0:web"\nreconnect-timeout = "1s"\n` +
        `[[forward]]\npeer = "${second}"\nlisten = "0:web"\nreconnect-timeout = "3s"\n`,
    );
    const error = await process.event('error', { code: 'UNREACHABLE' });
    expect(error.message).toContain('has ended');
    expect(await process.exited).toBe(69);
  });

  it.each([
    ['a file that is not there', undefined, 78, /does not exist/],
    [
      'a bad file',
      '[expose]\nservices = "x=0"\n',
      78,
      /^tunnel: BAD_CONFIG .*tunnel\.toml:2: .*'x=0' has port 0.*\n$/,
    ],
    ['a port in use', '[[forward]]\npeer = "PEER"\nlisten = ["0:a", "PORT:b"]\n', 73, /PORT_IN_USE/],
  ])('does not start anything with %s', async (_what, text, code, said) => {
    const port = await service('taken');
    if (text !== undefined) {
      write(near, text.replace('PEER', await far.nodeId()).replace('PORT', String(port)));
    }
    const ended = await near.run('up', '--config', configOf(near), '--no-relay', '--bind', '127.0.0.1');
    expect(ended).toMatchObject({ code, stdout: '' });
    expect(ended.stderr).toMatch(said);
  });

  it('finds the file in the config folder, and says where it looked for one', async () => {
    expect((await near.run('up')).stderr).toMatch(
      /neither .*\/tunnel\.toml nor .*\/config\/tunnel\/tunnel\.toml/,
    );
    await near.nodeId();
    const path = join(near.home, 'config', 'tunnel', 'tunnel.toml');
    writeFileSync(path, '[expose]\nservices = "1"\n');
    chmodSync(path, 0o644);
    const process = near.start('up');
    await process.event('ready');
    process.kill('SIGTERM');
    expect(await process.exited).toBe(0);
  });
});

describe('SIGHUP', () => {
  it('does not end an expose or a forward that has no terminal to lose', async () => {
    const target = await service('web');
    const { process: expose, ticket } = await far.expose(`web=${target}`);
    const { process: forward, port } = await near.forward(ticket, 'web');
    const socket = await connected(port, 'web');
    for (const process of [expose, forward]) process.kill('SIGHUP');
    await goesOn(socket, 'still here');
    for (const process of [forward, expose]) {
      process.kill('SIGTERM');
      expect(await process.exited).toBe(0);
    }
  });
});

describe.skipIf(NO_TMUX)(`the dashboard of tunnel up${NO_TMUX ? ` (${NO_TMUX})` : ''}`, () => {
  it('shows all of the file, stays through SIGHUP, follows a reload, and ends with its terminal', async () => {
    const target = await service('web');
    const { ticket } = await far.expose(`web=${target}`);
    const forward = `[[forward]]\npeer = "${ticket}"\nlisten = "0:web"\n`;
    const path = write(near, `[expose]\nservices = ["db=5432"]\n${forward}`);
    const terminal = new Terminal(`node ${RUN} up --config ${path} --no-relay --bind 127.0.0.1`, {
      env: { TUNNEL_HOME: near.home },
    });
    try {
      const screen = await terminal.until(/127\.0\.0\.1:\d+ → web[\s\S]*iroh-direct/);
      expect(screen).toMatch(/^ tunnel {2}up {2}/m);
      expect(screen).toMatch(/db {2}→ 127\.0\.0\.1:5432|127\.0\.0\.1:5432/);
      const pid = terminal.pid();
      process.kill(pid, 'SIGHUP');
      await terminal.until(/read again: nothing has changed/);
      write(near, `[expose]\nservices = ["db=5432", "spare=5433"]\n${forward}`);
      await terminal.until(/\+ expose spare/);
      await terminal.until(/127\.0\.0\.1:5433/);
      expect(terminal.modes()).toEqual({ alternate: true, cursor: false });
      terminal.press('t');
      await terminal.until(/0:spare|5433:spare/);
      terminal.close();
      expect(
        await eventually(() => {
          try {
            return process.kill(pid, 0) && false;
          } catch {
            return true;
          }
        }),
      ).toBe(true);
    } finally {
      terminal.close();
    }
  });
});
