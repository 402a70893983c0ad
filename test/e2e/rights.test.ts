/** Who may connect, with real processes: the peers book, approval, and rights taken back while in use. */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { chmodSync, existsSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Identity } from '../../src/session/identity.js';
import { AT_ONCE_MS } from '../support/at-once.js';
import { eventually } from '../support/eventually.js';
import { dial, endOf as ending, listen } from '../support/sockets.js';
import { type JsonEvent, Machine, type TunnelProcess } from '../support/tunnel-process.js';

let here: Machine;
let there: Machine;

beforeEach(() => {
  here = new Machine();
  there = new Machine();
});

afterEach(async () => {
  await here.dispose();
  await there.dispose();
});

const book = () => join(here.home, 'config', 'tunnel', 'peers.toml');

/** The node ID of the machine that comes. */
const guest = () => there.nodeId();

async function peers(...args: string[]): Promise<JsonEvent> {
  const { code, stdout, stderr } = await here.run('peers', ...args, '--json');
  expect(code, stderr).toBe(0);
  return JSON.parse(stdout) as JsonEvent;
}

/** Without the token: only a right of its own lets a peer in. */
function withoutToken(ticket: string): string {
  return ticket.replace(/[?&]token=[^&]*/, (match) => (match.startsWith('?') ? '?' : ''));
}

/** A server that answers what it gets. */
function echo() {
  return listen((socket) => socket.pipe(socket));
}

async function says(socket: Socket, text: string): Promise<string> {
  socket.write(text);
  const [data] = await once(socket, 'data');
  return String(data);
}

/** Resolves with how the connection ended, and how long after `since` (monotonic). */
async function endOf(socket: Socket, since: number): Promise<{ how: string; afterMs: number }> {
  const how = await ending(socket);
  return { how, afterMs: performance.now() - since };
}

function session(process: TunnelProcess, state: string, from = 0): Promise<JsonEvent> {
  return process.event('session', { state }, from);
}

describe('the peers book', () => {
  it('lets a peer in by its name, to what is allowed, and to nothing else', async () => {
    const [db, web] = [await echo(), await echo()];
    await peers('add', 'alice', await guest(), '--allow', 'db');
    const { ticket } = await here.expose(`db=${db.port}`, `web=${web.port}`);
    const bare = withoutToken(ticket);
    const { port } = await there.forward(bare, 'db');
    expect(await says(await dial(port), 'hello')).toBe('hello');
    const services = await there.run('services', bare, '--json', '--no-relay', '--bind', '127.0.0.1');
    expect(JSON.parse(services.stdout).services).toEqual([{ name: 'db', protocol: 'tcp' }]);
    const denied = there.start('forward', bare, '0:web');
    expect(await denied.exited).toBe(77);
    const unknown = there.start('forward', bare, '0:nothing');
    expect(await unknown.exited).toBe(77);
    // What there is must not be told from what there is not.
    const said = ({ events }: TunnelProcess) =>
      JSON.stringify(events.find(({ event }) => event === 'error')).replace(
        /"time":"[^"]*"|web|nothing/g,
        '',
      );
    expect(said(denied)).toBe(said(unknown));
  });

  it('follows a ticket that was stored, by the name alone, and remembers where the peer was', async () => {
    const server = await echo();
    const { ticket, nodeId } = await there.expose(`db=${server.port}`);
    await peers('add', 'bob', ticket);
    const text = readFileSync(book(), 'utf8');
    expect(text).toContain(/token=([^&]*)/.exec(ticket)?.[1]);
    const shown = await here.run('peers', 'show', 'bob');
    expect(shown.stdout).toContain(nodeId);
    expect(shown.stdout).not.toContain(/token=([^&]*)/.exec(ticket)?.[1]);
    writeFileSync(book(), text.replace(/^addresses = .*\n/m, ''), { mode: 0o600 });
    await there.run('status');
    const first = here.start('forward', ticket, '0:db');
    await session(first, 'connected');
    first.kill('SIGTERM');
    await first.exited;
    expect(readFileSync(book(), 'utf8')).toMatch(/^addresses = \["127\.0\.0\.1:\d+"/m);
    const { port } = await here.forward('bob', 'db');
    expect(await says(await dial(port), 'hello')).toBe('hello');
  });

  it('says names where it knows them', async () => {
    const server = await echo();
    await peers('add', 'alice', await guest(), '--allow', '*');
    const expose = here.startPlain('expose', `db=${server.port}`, '--plain');
    const ticket = /tunnel:\/\/[^']+/.exec(await expose.line(/tunnel:\/\//))?.[0] as string;
    expect(expose.stdout).toMatch(/allows +whoever has the ticket below.*\n +alice, to what the peers book/);
    await there.forward(withoutToken(ticket), 'db');
    await expose.line(/^connected to alice over/);
    expect((await here.run('status')).stdout).toMatch(/alice +connected/);
  });

  it('takes a right back while it is used: the transfer is reset within a second', async () => {
    const [db, web] = [await echo(), await echo()];
    await peers('add', 'alice', await guest(), '--allow', 'db', '--allow', 'web');
    const { ticket, process: expose } = await here.expose(`db=${db.port}`, `web=${web.port}`);
    const { process: forward, port } = await there.forward(withoutToken(ticket), 'db');
    const { port: webPort } = await there.forward(withoutToken(ticket), 'web');
    const [used, other] = [await dial(port), await dial(webPort)];
    expect(await says(other, 'x')).toBe('x');
    let received = 0;
    used.on('data', (data) => {
      received += data.length;
    });
    // A write that fails is the end of it, whether or not the socket says that it is destroyed.
    const pump = (error?: Error | null) => {
      if (!error && !used.destroyed) used.write(Buffer.alloc(64 * 1024), pump);
    };
    pump();
    expect(await eventually(() => received > 8_000_000)).toBe(true);
    // As the command does it, without the time that a process takes to start.
    const text = readFileSync(book(), 'utf8').replace('"db", ', '');
    const ended = endOf(used, performance.now());
    writeFileSync(book(), text);
    const { how, afterMs } = await ended;
    expect(how).toBe('reset');
    expect(afterMs).toBeLessThan(AT_ONCE_MS);
    await expose.event('error', { code: 'DENIED' });
    expect(await says(other, 'y')).toBe('y');
    // New ones are refused, and the session with what is left goes on.
    const again = await dial(port);
    expect((await endOf(again, 0)).how).toBe('reset');
    expect(forward.events.filter(({ event, state }) => event === 'session' && state === 'closed')).toEqual(
      [],
    );
  });

  it('ends the session of a peer that is denied, and its ticket with it', async () => {
    const server = await echo();
    const { ticket, process: expose } = await here.expose(`db=${server.port}`);
    const { process: forward, port } = await there.forward(ticket, 'db');
    const socket = await dial(port);
    expect(await says(socket, 'x')).toBe('x');
    // The reset may be there before the command that caused it has ended.
    const ended = endOf(socket, 0);
    await peers('deny', await guest());
    expect((await ended).how).toBe('reset');
    expect(await forward.exited).toBe(77);
    await expose.event('channel.close', { reason: 'denied' });
    expect(await there.start('forward', ticket, '0:db').exited).toBe(77);
    await peers('allow', await guest(), '--all');
    await there.forward(ticket, 'db');
  });

  it('ends a UDP flow whose right is taken back', async () => {
    const server = createSocket('udp4');
    server.on('message', (message, { port, address }) => server.send(message, port, address));
    server.bind(0, '127.0.0.1');
    await once(server, 'listening');
    const client = createSocket('udp4');
    try {
      await peers('add', 'alice', await guest(), '--allow', 'dns/udp', '--allow', 'other');
      const { ticket, process: expose } = await here.expose(`dns=udp:${server.address().port}`, 'other=9');
      const forward = there.start('forward', withoutToken(ticket), '0:dns/udp');
      const port = await forward.listeningPort();
      await session(forward, 'connected');
      const answered = once(client, 'message');
      client.send('x', port, '127.0.0.1');
      await answered;
      await peers('deny', 'alice', 'dns/udp');
      await expose.event('channel.close', { reason: 'denied' });
      client.send('y', port, '127.0.0.1');
      await expose.event('error', { code: 'DENIED' });
    } finally {
      client.close();
      server.close();
    }
  });

  it('lets a right expire while it is used', async () => {
    const server = await echo();
    await peers('add', 'alice', await guest());
    const { ticket } = await here.expose(`db=${server.port}`);
    await peers('allow', 'alice', 'db', '--ttl', '1h');
    const { process: forward, port } = await there.forward(withoutToken(ticket), 'db');
    const socket = await dial(port);
    expect(await says(socket, 'x')).toBe('x');
    const until = Date.now() + 1500;
    const text = readFileSync(book(), 'utf8');
    const expiring = text.replace(/db = 2[^ ]*/, `db = ${new Date(until).toISOString()}`);
    expect(expiring).not.toBe(text);
    writeFileSync(book(), expiring);
    expect((await endOf(socket, 0)).how).toBe('reset');
    expect(Date.now() - until).toBeGreaterThanOrEqual(0);
    expect(Date.now() - until).toBeLessThan(AT_ONCE_MS);
    expect(await forward.exited).toBe(77);
  });

  it('gives a peer that is connected more while it is, without a new session', async () => {
    const [db, web] = [await echo(), await echo()];
    await peers('add', 'alice', await guest(), '--allow', 'db');
    const { ticket } = await here.expose(`db=${db.port}`, `web=${web.port}`);
    const forward = there.start('forward', withoutToken(ticket), '0:db');
    await session(forward, 'connected');
    await peers('allow', 'alice', 'web');
    const services = await there.run(
      'services',
      withoutToken(ticket),
      '--json',
      '--no-relay',
      '--bind',
      '127.0.0.1',
    );
    expect(JSON.parse(services.stdout).services).toHaveLength(2);
  });

  it.runIf(process.platform !== 'win32')(
    'that others may write, or that is a link, is refused with 78',
    async () => {
      await peers('add', 'alice', await guest());
      chmodSync(book(), 0o666);
      for (const args of [
        ['peers', 'list'],
        ['expose', '9'],
        ['forward', 'alice', '9'],
        ['peers', 'deny', 'alice'],
      ]) {
        const { code, stderr } = await here.run(...args);
        expect(code, args.join(' ')).toBe(78);
        expect(stderr).toMatch(/BAD_STATE .*peers book.*mode 0666.*chmod 600/);
      }
      chmodSync(book(), 0o600);
      symlinkSync(book(), join(there.home, 'link-target'));
      const other = new Machine();
      try {
        await other.nodeId();
        symlinkSync(book(), join(other.home, 'config', 'tunnel', 'peers.toml'));
        expect((await other.run('peers', 'list')).code).toBe(78);
      } finally {
        await other.dispose();
      }
    },
  );

  it('that is broken while an expose runs changes nothing but what it says, until it is mended', async () => {
    const server = await echo();
    await peers('add', 'alice', await guest(), '--allow', 'db');
    const { ticket, process: expose } = await here.expose(`db=${server.port}`);
    const { port } = await there.forward(withoutToken(ticket), 'db');
    const socket = await dial(port);
    expect(await says(socket, 'x')).toBe('x');
    const good = readFileSync(book(), 'utf8');
    writeFileSync(book(), `${good}\nalow = [`);
    const error = await expose.event('error', { code: 'BAD_STATE' });
    expect(error.message).toContain('what it said before goes on');
    expect(await says(socket, 'y')).toBe('y');
    expect((await here.run('peers', 'allow', 'alice', 'x')).code).toBe(78);
    // Whoever could write it could have let themselves in.
    writeFileSync(book(), good);
    chmodSync(book(), 0o622);
    expect((await endOf(socket, 0)).how).toBe('reset');
    await eventually(() => expose.events.filter(({ code }) => code === 'BAD_STATE').length > 1);
    chmodSync(book(), 0o600);
    await eventually(async () => (await here.run('peers', 'list')).code === 0);
    await there.forward(withoutToken(ticket), 'db');
  });

  it('keeps what people wrote into it, and is private', async () => {
    await peers('add', 'alice', await guest());
    const text = `# mine\n${readFileSync(book(), 'utf8')}\n# a friend\n[peers.bob] # of Alice\nid = "${'ab'.repeat(32)}" # his\n`;
    writeFileSync(book(), text);
    await peers('allow', 'alice', 'db');
    expect(readFileSync(book(), 'utf8')).toBe(
      text.replace(/(id = "[0-9a-f]+")\n\n# a/, '$1\nallow = ["db"]\n\n# a'),
    );
    await peers('remove', 'alice');
    const left = readFileSync(book(), 'utf8');
    expect(left).toContain('# a friend\n[peers.bob] # of Alice\n');
    expect(left).not.toContain('alice]');
    if (process.platform !== 'win32') expect(statSync(book()).mode & 0o777).toBe(0o600);
  });

  it('loses nothing when many processes write it at once', async () => {
    const names = Array.from({ length: 8 }, (_, index) => `peer-${index}`);
    const runs = await Promise.all(
      names.map((name) => here.run('peers', 'add', name, Identity.generate().nodeId)),
    );
    expect(runs.map(({ code }) => code)).toEqual(names.map(() => 0));
    const listed = (await peers('list')).peers as { name: string }[];
    expect(listed.map(({ name }) => name).sort()).toEqual(names);
    expect(existsSync(`${book()}.lock`)).toBe(false);
  });
});

describe('expose --allow and --public', () => {
  it('lets a peer in by its name or its node ID, and no other', async () => {
    const server = await echo();
    await peers('add', 'alice', await guest());
    const expose = here.start('expose', `db=${server.port}`, '--allow', 'alice');
    const ready = await expose.event('ready');
    expect(ready.access).toMatchObject({ public: false, ask: false, allow: ['alice'] });
    const bare = withoutToken(ready.ticket as string);
    await there.forward(bare, 'db');
    const stranger = new Machine();
    try {
      expect(await stranger.start('forward', bare, '0:db').exited).toBe(77);
      await expose.event('error', { code: 'DENIED' });
    } finally {
      await stranger.dispose();
    }
  });

  it('refuses a name that nobody has', async () => {
    const { code, stderr } = await here.run('expose', '9', '--allow', 'nobody');
    expect(code).toBe(64);
    expect(stderr).toContain("'nobody'");
  });

  it('--public lets anyone in, says so loudly, and still denies whom the book denies', async () => {
    const server = await echo();
    const expose = here.startPlain('expose', `db=${server.port}`, '--plain', '--public');
    const ticket = /tunnel:\/\/[^']+/.exec(await expose.line(/tunnel:\/\//))?.[0] as string;
    await expose.line(/THIS IS PUBLIC/);
    expect(expose.stdout).toMatch(/allows +ANYONE/);
    await there.forward(withoutToken(ticket), 'db');
    await peers('deny', await guest());
    expect(await there.start('forward', withoutToken(ticket), '0:db').exited).toBe(77);
    expect((await here.run('expose', '9', '--public', '--ask')).code).toBe(64);
  });
});

describe('expose --ask', () => {
  async function asking(...flags: string[]) {
    const [db, web] = [await echo(), await echo()];
    const expose = here.start('expose', `db=${db.port}`, `web=${web.port}`, '--ask', ...flags);
    const ready = await expose.event('ready');
    return { expose, bare: withoutToken(ready.ticket as string), ticket: ready.ticket as string };
  }

  it('keeps a peer waiting, tells both sides, and lets it in to what it asked for, once', async () => {
    const { expose, bare } = await asking();
    const forward = there.start('forward', bare, '0:db');
    const pending = await expose.event('approval', { decision: 'pending' });
    expect(pending).toMatchObject({ peer: await guest(), services: ['db'] });
    expect(pending.from).toMatch(/^127\.0\.0\.1:\d+$/);
    await forward.event('session', { state: 'connecting', approval: 'pending' });
    expect((await peers('pending')).pending).toMatchObject([{ peer: await guest(), services: ['db'] }]);
    expect((await here.run('status')).stdout).toContain('waits to be let in to db');
    expect((await here.run('peers', 'pending')).stdout).toContain(`tunnel peers allow ${await guest()}`);
    await peers('allow', (await guest()).slice(0, 10), '--once');
    await session(forward, 'connected');
    await expose.event('approval', { decision: 'allowed' });
    expect(await says(await dial(await forward.listeningPort()), 'x')).toBe('x');
    expect(existsSync(book())).toBe(false);
    // Another process asks anew, for everything since it does not say, and is denied.
    const services = there.start('services', bare);
    await expose.event('approval', { decision: 'pending', id: 2 });
    await peers('deny', await guest(), '--once');
    expect(await services.exited).toBe(77);
    expect(forward.child.exitCode).toBeNull();
  });

  it('remembers what is allowed always, so that nobody is asked again', async () => {
    const { expose, bare } = await asking();
    const forward = there.start('forward', bare, '0:db');
    await expose.event('approval', { decision: 'pending' });
    await peers('allow', await guest(), '--name', 'alice');
    await session(forward, 'connected');
    await expose.event('approval', { decision: 'allowed' });
    expect(readFileSync(book(), 'utf8')).toMatch(/\[peers\.alice\]\nid = .*\nallow = \["db\/tcp"\]/);
    const from = expose.events.length;
    await there.forward(bare, 'db');
    expect(expose.events.slice(from).filter(({ event }) => event === 'approval')).toEqual([]);
    // What it was not allowed is a question again.
    there.start('forward', bare, '0:web');
    await expose.event('approval', { decision: 'pending', peer: await guest() }, from);
    // Taken out of the book it is out at once.
    await peers('remove', 'alice');
    expect(await forward.exited).toBe(77);
  });

  it('a denial ends the forward with 77; one for always is not asked again', async () => {
    const { expose, bare } = await asking();
    const once = there.start('forward', bare, '0:db');
    await expose.event('approval', { decision: 'pending' });
    await peers('deny', await guest(), '--once');
    expect(await once.exited).toBe(77);
    await expose.event('approval', { decision: 'denied' });
    await peers('deny', await guest());
    const from = expose.events.length;
    expect(await there.start('forward', bare, '0:db').exited).toBe(77);
    expect(expose.events.slice(from).filter(({ event }) => event === 'approval')).toEqual([]);
  });

  it('whom nobody answers is sent away, and asks again: that is no denial', async () => {
    const { expose, bare } = await asking('--ask-timeout', '1s');
    const forward = there.start('forward', bare, '0:db');
    await expose.event('approval', { decision: 'expired' });
    const { error } = await session(forward, 'reconnecting');
    expect(error).toMatchObject({ code: 'TIMEOUT' });
    await expose.event('approval', { decision: 'pending', id: 2 });
    expect(forward.child.exitCode).toBeNull();
  });

  it('is not asked of who goes away, nor of who has a ticket, nor of the owner', async () => {
    const { expose, bare, ticket } = await asking();
    const forward = there.start('forward', bare, '0:db');
    await expose.event('approval', { decision: 'pending' });
    forward.kill('SIGKILL');
    await forward.exited;
    await there.forward(ticket, 'db');
    await here.forward(bare, 'db');
    expect(expose.events.filter(({ event }) => event === 'approval')).toHaveLength(
      expose.events.filter(({ decision }) => decision === 'withdrawn').length + 1,
    );
  });

  it('says it in words on both sides', async () => {
    const server = await echo();
    const expose = here.startPlain('expose', `db=${server.port}`, '--plain', '--ask');
    const ticket = /tunnel:\/\/[^']+/.exec(await expose.line(/tunnel:\/\//))?.[0] as string;
    expect(expose.stdout).toContain('anyone else whom you let in when asked');
    const forward = there.startPlain('forward', withoutToken(ticket), '0:db', '--plain');
    await forward.line(/^waiting for approval/);
    await expose.line(/^‼ .* asks to be let in to db, from 127/);
    await expose.line(new RegExp(`tunnel peers allow ${await guest()}`));
    await peers('allow', await guest());
    await forward.line(/^connected to/);
  });
});
