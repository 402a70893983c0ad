/** Tokens, tickets and keys are where they belong, and nowhere else. */
import { readdirSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parseTicket } from '../../src/session/ticket.js';
import { dial, listen } from '../support/sockets.js';
import { Machine, type TunnelProcess } from '../support/tunnel-process.js';

const LINUX = process.platform === 'linux';
/** Throws where nobody catches it, when something is on stdin. */
const CRASH = "data:text/javascript,process.stdin.once('data',()=>{throw new Error('crash')})";

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

/** A secret in the forms it could come out in. */
function forms(bytes: Buffer): readonly string[] {
  return [bytes.toString('base64url'), bytes.toString('base64').replace(/=+$/, ''), bytes.toString('hex')];
}

function tokenForms(ticket: string): readonly string[] {
  return forms(Buffer.from(parseTicket(ticket).token as string, 'base64url'));
}

/** Another token. */
function altered(ticket: string): string {
  return ticket.replace(/token=(.)/, (_whole, first: string) => `token=${first === '_' ? '-' : '_'}`);
}

function keyForms(machine: Machine): readonly string[] {
  const folder = join(machine.home, 'config', 'tunnel', 'identities');
  return readdirSync(folder).flatMap((name) => {
    const der = Buffer.from(readFileSync(join(folder, name), 'utf8').replace(/-.*-|\s/g, ''), 'base64');
    return [...forms(der.subarray(-32)), der.toString('base64')];
  });
}

function files(folder: string): readonly string[] {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

function expectNone(secrets: readonly string[], text: string, where: string): void {
  for (const secret of secrets) {
    const at = text.indexOf(secret);
    if (at >= 0) throw new Error(`a secret is in ${where}: …${text.slice(Math.max(0, at - 80), at)}<here>`);
  }
}

/** All but the two events that are there to show a ticket. */
function said({ stdout, stderr }: TunnelProcess): string {
  const lines = stdout.split('\n').filter((line) => !/^\{"event":"(ready|ticket)"/.test(line));
  return `${lines.join('\n')}\n${stderr}`;
}

/** Everything that a process's status socket answers to a look at it. */
async function statusOf(machine: Machine, { pid }: TunnelProcess): Promise<string> {
  const socket = connect(join(machine.home, 'runtime', 'tunnel', `${pid}.sock`)).setEncoding('utf8');
  let text = '';
  socket.write('{"id":1,"method":"snapshot","query":{}}\n{"id":2,"method":"nonsense"}\n');
  for await (const chunk of socket) {
    text += chunk;
    if (text.includes('"type":"snapshot"') && text.includes('"type":"error"')) break;
  }
  return text;
}

function argvOf({ pid }: TunnelProcess): string {
  return LINUX ? readFileSync(`/proc/${pid}/cmdline`, 'utf8') : '';
}

describe('secrets', () => {
  it('are in no log, no event but two, no status, no process list and no file but their own', async () => {
    const { port, close } = await listen((socket) => socket.pipe(socket));
    const log = ['--log-level', 'debug', '--log-file'];
    const expose = here.start(
      'expose',
      `echo=${port}`,
      `dns=udp:${port}`,
      ...log,
      join(here.home, 'expose.log'),
    );
    const own = (await expose.event('ready')).ticket as string;
    const made = here.startAs(
      'ticket',
      'create',
      '--once',
      '--pair',
      '--json',
      ...log,
      join(here.home, 'create.log'),
    );
    const once = (await made.event('ticket')).ticket as string;
    // Denied, cut, and with something in front: what is wrong with it is told, not what it is.
    const wrong = [
      there.start('forward', altered(own), '0:echo', '--log-level', 'debug'),
      there.start('forward', `${own}x`, '0:echo', '--log-level', 'debug'),
      there.start('forward', `x${own}`, '0:echo', '--log-level', 'debug'),
      there.start('expose', own, '--log-level', 'debug'),
      there.start('services', own, '--log-level', 'debug', '--bind', own),
    ];
    // Before one of them is paired: from then on its identity needs no ticket.
    for (const process of wrong) expect(await process.exited).not.toBe(0);
    const first = there.start('forward', own, '0:echo', '0:dns/udp', ...log, join(there.home, 'argv.log'));
    const second = there.startUnder({ input: `${once}\n` }, 'forward', '-', '0:echo', '--log-level', 'debug');
    const forwards = [first, second, ...wrong];
    for (const forward of [first, second]) {
      await forward.event('session', { state: 'connected' });
      const app = await dial(await forward.listeningPort());
      app.write('x');
      await new Promise((resolve) => app.once('data', resolve));
      app.destroy();
      await forward.event('channel.close');
    }
    const secrets = [...tokenForms(own), ...tokenForms(once), ...keyForms(here), ...keyForms(there)];
    const alteredForms = tokenForms(altered(own));

    for (const [machine, process] of [
      [here, expose],
      [there, first],
      [there, second],
    ] as const) {
      expectNone(secrets, await statusOf(machine, process), 'the status socket');
      expectNone(secrets, argvOf(process), 'the process list');
    }
    if (LINUX) {
      for (const { pid } of [expose, first, second]) {
        const children = readdirSync(`/proc/${pid}/task`).flatMap((task) =>
          readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').split(' ').filter(Boolean),
        );
        expect(children, 'child processes, whose arguments anyone could read').toEqual([]);
      }
    }
    for (const machine of [here, there]) {
      const status = await machine.run('status', '--json');
      expectNone(secrets, status.stdout + status.stderr, 'tunnel status');
      const list = await machine.run('ticket', 'list', '--json', '--log-level', 'debug');
      expectNone(secrets, list.stdout + list.stderr, 'tunnel ticket list');
    }
    for (const process of [expose, first, second]) {
      process.kill('SIGTERM');
      expect(await process.exited).toBe(0);
    }
    for (const process of [expose, made, ...forwards])
      expectNone(
        [...secrets, ...alteredForms],
        said(process),
        `what ${process.child.spawnargs.slice(2, 4)} said`,
      );
    const logs = [...files(here.home), ...files(there.home)].filter((path) => path.endsWith('.log'));
    expect(logs.map((path) => path.replace(/.*\//, '')).sort()).toEqual([
      'argv.log',
      'create.log',
      'expose.log',
    ]);
    expect(readFileSync(join(here.home, 'expose.log'), 'utf8')).toContain('DENIED');
    for (const path of [...files(here.home), ...files(there.home)]) {
      const text = readFileSync(path, 'utf8');
      expectNone([...tokenForms(own), ...tokenForms(once)], text, path);
      if (!path.endsWith('.key')) expectNone(secrets, text, path);
    }
    await close();
  });

  it('are not in what a crash leaves on the terminal', async () => {
    const crashing = { env: { NODE_OPTIONS: `--import "${CRASH}"` }, input: '' };
    const expose = here.startUnder(crashing, 'expose', '8080', '--log-level', 'debug');
    const { ticket } = await expose.event('ready');
    const forward = there.startUnder(crashing, 'forward', ticket as string, '0:8080', '--log-level', 'debug');
    await forward.event('session', { state: 'connected' });
    for (const process of [forward, expose]) {
      process.child.stdin?.write('x');
      expect(await process.exited).not.toBe(0);
      expect(process.stderr).toContain('crash');
      expectNone([...tokenForms(ticket as string), ...keyForms(here)], said(process), 'crash output');
    }
  });
});
