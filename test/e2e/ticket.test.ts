/** Tickets between real processes: who is let in, for how long, and what is kept. */
import { chmodSync, readdirSync, readFileSync, renameSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parseTicket } from '../../src/session/ticket.js';
import { AT_ONCE_MS } from '../support/at-once.js';
import { dial as connect, endOf, listen } from '../support/sockets.js';
import { Machine, type TunnelProcess } from '../support/tunnel-process.js';

const UNIX = process.platform !== 'win32';

let here: Machine;
let there: Machine;
let elsewhere: Machine;
let port: number;
const cleanups: (() => Promise<unknown>)[] = [];

beforeEach(async () => {
  here = new Machine();
  there = new Machine();
  elsewhere = new Machine();
  const echo = await listen((socket) => socket.pipe(socket));
  cleanups.push(echo.close);
  port = echo.port;
});

afterEach(async () => {
  await Promise.all([here.dispose(), there.dispose(), elsewhere.dispose()]);
  for (const cleanup of cleanups.splice(0)) await cleanup();
});

const store = () => join(here.home, 'state', 'tunnel', 'tokens.json');

interface Made {
  readonly id: string;
  readonly ticket: string;
  readonly token: string;
}

async function create(...flags: string[]): Promise<Made> {
  const { code, stdout, stderr } = await here.run('ticket', 'create', ...flags, '--json');
  expect({ code, stderr: stderr.replace(/^note: .*\n/gm, '') }).toEqual({ code: 0, stderr: '' });
  const { event, id, ticket } = JSON.parse(stdout);
  expect(event).toBe('ticket');
  return { id, ticket, token: parseTicket(ticket).token as string };
}

async function list(): Promise<readonly Record<string, unknown>[]> {
  const { stdout } = await here.run('ticket', 'list', '--json');
  return JSON.parse(stdout).tickets;
}

/** Exits with 77, having been told no more than that. */
async function denied(forward: TunnelProcess): Promise<void> {
  expect(await forward.exited).toBe(77);
  const last = forward.events.at(-1);
  expect(last).toMatchObject({ event: 'error', code: 'DENIED' });
}

async function connected(forward: TunnelProcess, from = 0): Promise<void> {
  await forward.event('session', { state: 'connected' }, from);
}

/** Sends a byte through the tunnel and has it back. */
async function echoes(forward: TunnelProcess) {
  const socket = await connect(await forward.listeningPort());
  const back = new Promise<Buffer>((resolve) => socket.once('data', resolve));
  socket.write('x');
  expect((await back).toString()).toBe('x');
  return socket;
}

describe('tunnel ticket', () => {
  it('makes, lists and takes back tickets; only hashes are kept', async () => {
    const made = await create(
      '--service',
      'db',
      '--service',
      'dns/udp',
      '--ttl',
      '15m',
      '--once',
      '--name',
      'alice',
    );
    const plain = await create();
    expect(made.id).toMatch(/^[0-9a-f]{8}$/);
    const text = readFileSync(store(), 'utf8');
    for (const { token } of [made, plain]) expect(text).not.toContain(token);
    const tickets = await list();
    expect(tickets).toMatchObject([
      { id: made.id, label: 'alice', services: ['db', 'dns/udp'], state: 'valid', once: true, pair: false },
      { id: plain.id, services: 'all', state: 'valid', once: false, pair: false },
    ]);
    expect(Date.parse(tickets[0]?.expiresAt as string) - Date.parse(tickets[0]?.createdAt as string)).toBe(
      900_000,
    );
    expect(JSON.stringify(tickets)).not.toMatch(/hash|[0-9a-f]{64}/);
    expect((await here.run('ticket', 'revoke', 'alice')).stdout).toBe(`revoked ${made.id} alice\n`);
    expect((await here.run('ticket', 'revoke', made.id)).stdout).toBe('it was revoked before\n');
    expect((await list()).map(({ state }) => state)).toEqual(['revoked', 'valid']);
    const all = await here.run('ticket', 'revoke', '--all', '--json');
    expect(JSON.parse(all.stdout)).toMatchObject({ event: 'revoked', tickets: [plain.id] });
  });

  it('prints for people what to paste on the other machine, and how to take it back', async () => {
    const { stdout, stderr } = await here.run('ticket', 'create', '--service', 'db', '--ttl', '2h', '--once');
    expect(stdout).toMatch(/forward 'tunnel:\/\/[0-9a-f]{64}\?token=.{22}' 0:db\n/);
    expect(stdout).toMatch(/tunnel ticket revoke [0-9a-f]{8}\n/);
    expect(stderr).toContain('no addresses');
    const table = (await here.run('ticket', 'list')).stdout.split('\n');
    expect(table[0]).toMatch(/^ID +NAME +OPENS +STATE/);
    expect(table[1]).toMatch(/^[0-9a-f]{8} .* db +valid +\d{4}-\d\d-\d\d \d\d:\d\d +once$/);
  });

  it('keeps the tickets of another identity apart', async () => {
    const { id } = await create('--identity', 'work', '--name', 'x');
    expect(await list()).toEqual([]);
    expect((await here.run('ticket', 'revoke', 'x')).code).toBe(64);
    expect((await here.run('ticket', 'revoke', '--all')).stdout).toBe('there was none to revoke\n');
    expect((await here.run('ticket', 'revoke', 'x', '--identity', 'work')).stdout).toContain(id);
  });

  it.each<[string, string[]]>([
    ["'../x'", ['create', '--service', '../x']],
    ["'soon'", ['create', '--ttl', 'soon']],
    ["'0'", ['create', '--ttl', '0']],
    ["'a;b'", ['create', '--name', 'a;b']],
    ['tunnel ticket create --help', ['create', '--nope']],
    ['<ticket>', ['revoke']],
    ['--all', ['revoke', 'x', '--all']],
    ["'nobody'", ['revoke', 'nobody']],
  ])('64, naming %s', async (what, args) => {
    const { code, stdout, stderr } = await here.run('ticket', ...args);
    expect({ code, stdout }).toEqual({ code: 64, stdout: '' });
    expect(stderr).toContain(what);
    expect(stderr.trim().split('\n')).toHaveLength(1);
  });

  it('does not repeat a ticket that is pasted where its name belongs', async () => {
    const { ticket, token } = await create();
    const { code, stderr } = await here.run('ticket', 'revoke', ticket);
    expect(code).toBe(64);
    expect(stderr).not.toContain(token);
  });

  it('loses none of 20 that are made at once', async () => {
    await here.nodeId();
    const made = await Promise.all(Array.from({ length: 20 }, (_, index) => create('--name', `n${index}`)));
    const tickets = await list();
    expect(new Set(tickets.map(({ id }) => id))).toEqual(new Set(made.map(({ id }) => id)));
    expect(tickets).toHaveLength(20);
    expect(readdirSync(join(store(), '..')).filter((name) => name.startsWith('tokens'))).toEqual([
      'tokens.json',
    ]);
  });
});

describe('the ticket store', () => {
  it.runIf(UNIX)(
    'is for its owner alone, and refused (78) when it is open to others, a link, or damaged',
    async () => {
      await create();
      const good = readFileSync(store(), 'utf8');
      const refused = async (hint: string) => {
        for (const args of [
          ['ticket', 'create'],
          ['ticket', 'list'],
          ['ticket', 'revoke', '--all'],
          ['expose', '1'],
        ]) {
          const { code, stderr } = await here.run(...args);
          expect({ args, code }).toEqual({ args, code: 78 });
          expect(stderr).toContain(store());
          expect(stderr).toContain(hint);
          expect(stderr).not.toMatch(/\n\s+at /);
        }
      };
      chmodSync(store(), 0o640);
      await refused(`chmod 600 '${store()}'`);
      chmodSync(store(), 0o600);
      renameSync(store(), `${store()}.there`);
      symlinkSync(`${store()}.there`, store());
      await refused('symbolic link');
      expect(readFileSync(`${store()}.there`, 'utf8')).toBe(good);
      renameSync(`${store()}.there`, store());
      writeFileSync(store(), good.slice(0, -20));
      await refused('damaged');
      expect(readFileSync(store(), 'utf8')).toBe(good.slice(0, -20));
    },
  );

  it.runIf(UNIX)('is as it was when the disk is full, and says so (71)', async () => {
    await create();
    const before = readFileSync(store(), 'utf8');
    // The store has more than half a block already.
    const { code, stderr } = await here.runUnder(
      { fileBlocks: 1 },
      'ticket',
      'create',
      '--name',
      'x'.repeat(60),
    );
    expect(code).toBe(71);
    expect(stderr).toContain('cannot be saved');
    expect(stderr).toContain('nothing was lost');
    expect(readFileSync(store(), 'utf8')).toBe(before);
    expect(readdirSync(join(store(), '..'))).toEqual(['tokens.json']);
  });
});

describe('a running expose', () => {
  it('lets in by a ticket at once, which has its addresses, and out within a second of taking it back', async () => {
    await here.expose(`echo=${port}`, '--no-ticket');
    const { id, ticket } = await create('--service', 'echo');
    expect(parseTicket(ticket).direct.length).toBeGreaterThan(0);
    const { process: forward } = await there.forward(ticket, 'echo');
    const socket = await echoes(forward);
    const end = endOf(socket);
    await here.run('ticket', 'revoke', id);
    const revokedAt = performance.now();
    expect(await end).toBe('reset');
    expect(performance.now() - revokedAt).toBeLessThan(AT_ONCE_MS);
    await denied(forward);
    await denied(there.start('forward', ticket, '0:echo'));
  });

  it('lets out within a second of the end of a ticket', async () => {
    await here.expose(`echo=${port}`, '--no-ticket');
    // It has started, and waits for the ticket, when that is made.
    const forward = there.startUnder({ input: '' }, 'forward', '-', '0:echo');
    const { ticket } = await create('--ttl', '6s');
    forward.child.stdin?.write(`${ticket}\n`);
    const end = endOf(await echoes(forward));
    expect(await end).toBe('reset');
    const endedAt = Date.now();
    const late = endedAt - Date.parse((await list())[0]?.expiresAt as string);
    expect(late).toBeGreaterThanOrEqual(0);
    expect(late).toBeLessThan(1000);
    await denied(forward);
  });

  it('denies tokens that are wrong, cut, changed, of another node, revoked or expired', async () => {
    const { ticket } = await here.expose(`echo=${port}`);
    const token = parseTicket(ticket).token as string;
    const { token: foreign } = await makeElsewhere();
    const revoked = await create();
    await here.run('ticket', 'revoke', revoked.id);
    const expired = await create('--ttl', '1ms');
    const swapped = token.startsWith('A') ? `B${token.slice(1)}` : `A${token.slice(1)}`;
    const forwards = [
      'A'.repeat(22),
      swapped,
      [...token].reverse().join(''),
      foreign,
      revoked.token,
      expired.token,
    ].map((wrong) => there.start('forward', ticket.replace(/token=.*/, `token=${wrong}`), '0:echo'));
    await Promise.all(forwards.map(denied));
    await denied(there.start('forward', ticket.replace(/&token=.*/, ''), '0:echo'));
    const cut = await there.start('forward', ticket.slice(0, -1), '0:echo');
    expect(await cut.exited).toBe(64);
  });

  async function makeElsewhere(): Promise<{ token: string }> {
    const { stdout } = await elsewhere.run('ticket', 'create', '--json');
    return { token: parseTicket(JSON.parse(stdout).ticket).token as string };
  }

  it('gives a ticket no more than its services', async () => {
    await here.expose(`echo=${port}`, `other=${port}`, `other=udp:${port}`, '--no-ticket');
    const { ticket } = await create('--service', 'echo', '--service', 'other/udp');
    const offered = there.start('services', ticket);
    expect((await offered.event('services')).services).toEqual([
      { name: 'echo', protocol: 'tcp' },
      { name: 'other', protocol: 'udp' },
    ]);
    await denied(there.start('forward', ticket, '0:other'));
    const { process: forward } = await there.forward(ticket, 'echo');
    (await echoes(forward)).destroy();
  });

  it('has a ticket of its own that is the same at every start, until it is revoked', async () => {
    const first = await here.expose(`echo=${port}`);
    const [record] = await list();
    expect(record).toMatchObject({ madeBy: 'expose', state: 'valid' });
    const forward = there.start('forward', first.ticket, '0:echo');
    await connected(forward);
    await here.run('ticket', 'revoke', record?.id as string);
    await denied(forward);
    first.process.kill('SIGTERM');
    await first.process.exited;
    const second = await here.expose(`echo=${port}`);
    expect(parseTicket(second.ticket).token).not.toBe(parseTicket(first.ticket).token);
    await denied(there.start('forward', first.ticket, '0:echo'));
    await connected(there.start('forward', second.ticket, '0:echo'));
  });

  it('with --no-ticket has none, and tells its addresses all the same', async () => {
    const before = await here.expose(`echo=${port}`);
    before.process.kill('SIGTERM');
    await before.process.exited;
    const { ticket } = await here.expose(`echo=${port}`, '--no-ticket');
    expect(parseTicket(ticket)).toMatchObject({ token: undefined, direct: [expect.any(String)] });
    // What an earlier expose printed does not count here.
    await denied(there.start('forward', before.ticket, '0:echo'));
  });

  it.each([['--once'], ['--pair'], ['--ticket-ttl', '1h']])(
    'says that %s makes no sense without a ticket',
    async (...flags) => {
      const { code, stderr } = await here.run('expose', '80', '--no-ticket', ...flags);
      expect(code).toBe(64);
      expect(stderr).toContain(flags[0]);
    },
  );

  it('with --ticket-ttl has one that ends', async () => {
    const forward = there.startUnder({ input: '' }, 'forward', '-', '0:echo');
    const { ticket } = await here.expose(`echo=${port}`, '--ticket-ttl', '6s');
    forward.child.stdin?.write(`${ticket}\n`);
    await connected(forward);
    await denied(forward);
  });
});

describe('a ticket for one use', () => {
  it('is had by one of two that come at once, stays its own across a restart of the expose, and is nobody else’s', async () => {
    const first = await here.expose(`echo=${port}`, '--no-ticket');
    const { ticket } = await create('--once');
    await Promise.all([there.nodeId(), elsewhere.nodeId()]);
    const racers = [there, elsewhere].map((machine) => machine.start('forward', ticket, '0:echo'));
    const results = await Promise.all(
      racers.map((racer) =>
        Promise.race([connected(racer).then(() => 'in'), racer.exited.then((code) => code)]).catch(
          () => racer.exited,
        ),
      ),
    );
    expect([...results].sort()).toEqual([77, 'in']);
    const winner = racers[results.indexOf('in')] as TunnelProcess;
    (await echoes(winner)).destroy();
    // The same identity in another process has not used it.
    await denied((results[0] === 'in' ? there : elsewhere).start('forward', ticket, '0:echo'));
    const seen = winner.events.length;
    first.process.kill('SIGKILL');
    await first.process.exited;
    await here.expose(`echo=${port}`, '--no-ticket');
    await connected(winner, seen);
    (await echoes(winner)).destroy();
    await denied(there.start('forward', ticket, '0:echo'));
    expect(await list()).toMatchObject([
      { state: 'used', redeemedBy: { peer: expect.stringMatching(/^[0-9a-f]{64}$/) } },
    ]);
  });

  it('of an expose is printed again until it was used, and is another one then', async () => {
    const restart = async (expose: TunnelProcess) => {
      expose.kill('SIGKILL');
      await expose.exited;
      return here.expose(`echo=${port}`, '--once');
    };
    const first = await here.expose(`echo=${port}`, '--once');
    const second = await restart(first.process);
    expect(second.ticket).toBe(first.ticket);
    await connected(there.start('forward', second.ticket, '0:echo'));
    const third = await restart(second.process);
    expect(third.ticket).not.toBe(first.ticket);
    await denied(elsewhere.start('forward', second.ticket, '0:echo'));
    await connected(elsewhere.start('forward', third.ticket, '0:echo'));
  });
});

describe('a ticket that pairs', () => {
  it('has its first user remembered, who needs no ticket later; nobody else', async () => {
    const { ticket: addresses } = await here.expose(`echo=${port}`, '--no-ticket');
    const { id, ticket } = await create('--pair', '--service', 'echo');
    const once = there.start('forward', ticket, '0:echo');
    await connected(once);
    once.kill('SIGTERM');
    await once.exited;
    await here.run('ticket', 'revoke', id);
    await connected(there.start('forward', addresses, '0:echo'));
    await denied(elsewhere.start('forward', addresses, '0:echo'));
    const nodeId = await there.nodeId();
    expect(readFileSync(join(here.home, 'config', 'tunnel', 'peers.toml'), 'utf8')).toContain(nodeId);
    expect(await list()).toMatchObject([{ state: 'revoked', pairedWith: nodeId }]);
  });
});

describe('a ticket that is not on the command line', () => {
  it('comes from stdin, which may stay open, or from a file; one that others can read is told of', async () => {
    const { ticket } = await here.expose(`echo=${port}`);
    const path = join(there.home, '..', `${process.pid}-ticket`);
    cleanups.push(async () => (await import('node:fs/promises')).rm(path, { force: true }));
    writeFileSync(path, `${ticket}\n`, { mode: 0o600 });
    const ways: [string[], string?][] = [
      [['forward', '-', '0:echo'], `${ticket}\n`],
      [['forward', '--ticket-file', '-', '0:echo'], `\n${ticket}\n`],
      [['forward', '--ticket-file', path, '0:echo']],
    ];
    for (const [args, input] of ways) {
      const forward = there.startUnder(input === undefined ? {} : { input }, ...args);
      await connected(forward);
      (await echoes(forward)).destroy();
      expect(forward.stderr).toBe('');
      forward.kill('SIGTERM');
      expect(await forward.exited).toBe(0);
    }
    const services = there.startUnder({ input: `${ticket}\n` }, 'services', '-');
    expect((await services.event('services')).services).toEqual([{ name: 'echo', protocol: 'tcp' }]);
    expect(await services.exited).toBe(0);
    if (!UNIX) return;
    chmodSync(path, 0o644);
    const warned = there.start('services', '--ticket-file', path);
    expect(await warned.exited).toBe(0);
    expect(warned.stderr).toContain(`chmod 600 '${path}'`);
  });

  it.each<[string, string[], string | undefined]>([
    ['stdin', ['forward', '-', '0:x'], '\n'],
    ['/nowhere/at/all', ['forward', '--ticket-file', '/nowhere/at/all', '0:x'], undefined],
    ['<spec>', ['forward', '--ticket-file', '/nowhere'], undefined],
    ['<peer>', ['services'], undefined],
  ])('64, naming %s', async (what, args, input) => {
    const child = there.startUnder(input === undefined ? {} : { input }, ...args);
    child.child.stdin?.end();
    expect(await child.exited).toBe(64);
    expect(child.stderr).toContain(what);
  });
});
