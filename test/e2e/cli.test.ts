/** The command line's contract: exit codes, sentences, files, and what is never printed. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { dial, listen, readAll } from '../support/sockets.js';
import { NO_TMUX, Terminal } from '../support/terminal.js';
import { Machine, RUN } from '../support/tunnel-process.js';

const ID = 'd75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a';
let machine: Machine;

beforeEach(() => {
  machine = new Machine();
});

afterEach(() => machine.dispose());

function keyFile(name = 'default'): string {
  return join(machine.home, 'config', 'tunnel', 'identities', `${name}.key`);
}

describe('bad input ends with its exit code and one sentence that names the token', () => {
  it.each<[number, string, string[]]>([
    [64, '99999', ['expose', '99999']],
    [64, "'http'", ['expose', 'http:localhost:80']],
    [64, "named '80'", ['expose', '80', 'localhost:80']],
    [64, '<target>', ['expose']],
    [64, '<peer>', ['forward']],
    [64, '<spec>', ['forward', ID]],
    [64, '70000', ['forward', ID, '70000:db']],
    [64, "'/sctp'", ['forward', ID, '53:dns/sctp']],
    [64, '127.0.0.1:1', ['forward', ID, '1:a', '1:b']],
    [64, 'deadbeef', ['forward', 'deadbeef', '80']],
    [64, 'cut short', ['forward', `tunnel://${ID}?token=abc`, '80']],
    [64, 'https://…', ['forward', 'https://example.org/?token=secret', '80']],
    [64, '--nope', ['expose', '--nope', '80']],
    [64, 'loud', ['id', '--log-level', 'loud']],
    [64, "'not-an-ip'", ['expose', '80', '--bind', 'not-an-ip']],
    [64, "'ftp://x'", ['expose', '80', '--relay', 'ftp://x']],
    [64, 'named by an IPv6 address', ['expose', '80', '--relay', 'https://[2001:db8::1]/']],
    [64, "'../up'", ['id', '--identity', '../up']],
    [64, 'frobnicate', ['frobnicate']],
  ])('%i for %s', async (code, token, args) => {
    const { code: got, stdout, stderr } = await machine.run(...args);
    expect({ code: got, stdout }).toEqual({ code, stdout: '' });
    expect(stderr).toContain(token);
    expect(stderr).not.toMatch(/\n\s+at /);
    expect(stderr).not.toContain('secret');
    const sentences = stderr.split('\n').filter((line) => line.startsWith('tunnel: '));
    expect(sentences).toHaveLength(1);
  });

  it('in JSON the same is one error event on stdout', async () => {
    const { code, stdout } = await machine.run('expose', '99999', '--json');
    expect(code).toBe(64);
    const lines = stdout.trim().split('\n');
    expect(lines).toHaveLength(1);
    expect(JSON.parse(lines[0] as string)).toMatchObject({
      event: 'error',
      code: 'USAGE',
      hint: expect.any(String),
    });
  });

  it('73 for a local port in use, naming it, with nothing left listening', async () => {
    const { port, close } = await listen(() => undefined);
    const forward = machine.start('forward', ID, '0:a', `${port}:db`);
    expect(await forward.exited).toBe(73);
    expect(forward.events.at(-1)).toMatchObject({ event: 'error', code: 'PORT_IN_USE' });
    expect(forward.stderr).toContain(String(port));
    await close();
  });
});

describe('identity files', () => {
  it('are made with mode 0600 on first use, and kept', async () => {
    const first = await machine.run('id');
    expect(first.stdout).toMatch(/^[0-9a-f]{64}\n$/);
    expect(statSync(keyFile()).mode & 0o777).toBe(0o600);
    expect((await machine.run('id')).stdout).toBe(first.stdout);
    expect((await machine.run('id', '--identity', 'work')).stdout).not.toBe(first.stdout);
  });

  it('78 when others can read it, with the command that mends it', async () => {
    await machine.run('id');
    chmodSync(keyFile(), 0o644);
    const { code, stderr } = await machine.run('expose', '80');
    expect(code).toBe(78);
    expect(stderr).toContain(`chmod 600 '${keyFile()}'`);
  });

  it('78 when it is damaged, and it stays as it is', async () => {
    mkdirSync(join(keyFile(), '..'), { recursive: true });
    writeFileSync(keyFile(), 'not a key', { mode: 0o600 });
    expect((await machine.run('id')).code).toBe(78);
    expect(readFileSync(keyFile(), 'utf8')).toBe('not a key');
  });
});

describe('one endpoint for an identity', () => {
  it('a second expose says which process holds it, and a killed one leaves no lock behind', async () => {
    const { process: first, ticket } = await machine.expose('8080');
    const second = machine.start('expose', '9090');
    expect(await second.exited).toBe(71);
    expect(second.events.at(-1)).toMatchObject({ code: 'IDENTITY_LOCKED' });
    expect(second.stderr).toContain(String(first.pid));
    first.kill('SIGKILL');
    await first.exited;
    const third = await machine.expose('8080');
    // The same port and the same token: a ticket handed out stays good.
    expect(third.ticket).toBe(ticket);
    third.process.kill('SIGTERM');
    await third.process.exited;
    expect(readdirSync(join(machine.home, 'runtime', 'tunnel'))).toEqual([]);
  });
});

const ENGINES = /\/native\/|\/engines\//;
/** The dashboard is one file with React and Ink in it. */
const VIEWS = /\/dist\/tui\/dashboard\.js|node_modules\/(ora|ink|react|yoga-layout)\//;

/** The URLs in the coverage reports of a folder; their paths in the checkout, whatever its own folder is called. */
function loadedModules(folder: string): readonly string[] {
  const root = new URL('../..', import.meta.url).href;
  return readdirSync(folder).flatMap((file) => {
    const { result } = JSON.parse(readFileSync(join(folder, file), 'utf8')) as { result: { url: string }[] };
    return result.map(({ url }) => url.replace(root, '/'));
  });
}

describe('start', () => {
  it.each([[['--version']], [['id']], [['id', '--json']], [['status']], [['status', '--json']]])(
    '%j loads neither the engine nor a view, and no other command',
    async (args) => {
      const folder = join(machine.home, 'coverage');
      execFileSync(process.execPath, [RUN, ...args], {
        // Coverage lists every module that was loaded.
        env: { ...process.env, TUNNEL_HOME: machine.home, NODE_V8_COVERAGE: folder },
      });
      const modules = loadedModules(folder);
      expect(modules.some((url) => url.endsWith('/bin/run.js'))).toBe(true);
      expect(modules.filter((url) => ENGINES.test(url) || VIEWS.test(url))).toEqual([]);
      const commands = modules.filter((url) => url.startsWith('/dist/commands/'));
      expect(commands).toEqual(args[0] === '--version' ? [] : [`/dist/commands/${args[0]}.js`]);
      // Only the index of oclif needs it.
      expect(modules.filter((url) => url.includes('/node_modules/semver/'))).toEqual([]);
    },
  );

  it('expose --json loads the engine, but no view', async () => {
    const folder = join(machine.home, 'coverage');
    process.env.NODE_V8_COVERAGE = folder;
    const { process: expose } = await machine.expose('80');
    delete process.env.NODE_V8_COVERAGE;
    expose.kill('SIGTERM');
    await expose.exited;
    const modules = loadedModules(folder);
    expect(modules.some((url) => ENGINES.test(url))).toBe(true);
    expect(modules.filter((url) => VIEWS.test(url))).toEqual([]);
  });

  it.skipIf(NO_TMUX)('a terminal is where the view is loaded', async () => {
    const folder = join(machine.home, 'coverage');
    const env = { TUNNEL_HOME: machine.home, NODE_V8_COVERAGE: folder };
    const terminal = new Terminal(`node ${RUN} dashboard`, { env });
    await terminal.until(/0 processes/);
    terminal.press('q');
    await terminal.until(/EXIT 0/);
    terminal.close();
    expect(loadedModules(folder).some((url) => VIEWS.test(url))).toBe(true);
  });

  it('a view does not make Node load its HTTP client', () => {
    const view = new URL('../../dist/tui/dashboard.js', import.meta.url).href;
    const code = `await import('${view}'); console.log(process.moduleLoadList.join());`;
    const loaded = execFileSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' });
    expect(loaded).toContain('NativeModule');
    expect(loaded).not.toContain('undici');
  });
});

describe('expose in plain lines', () => {
  it('prints a line for the other machine that runs as it is', async () => {
    const { port, close } = await listen((socket) => socket.end('hi'));
    const expose = machine.startPlain('expose', `web=${port}`);
    const line = await expose.line(/ forward 'tunnel:/);
    expect(line).toContain(`${port}:web`);
    const other = new Machine();
    // On this one machine the suggested port is the service's own.
    const command = `exec ${line.trim().replace(`${port}:web`, '0:web')} --no-relay --bind 127.0.0.1`;
    const forward = spawn('sh', ['-c', command], { env: { ...process.env, TUNNEL_HOME: other.home } });
    let text = '';
    for await (const chunk of forward.stdout) {
      text += String(chunk);
      if (/^connected to /m.test(text)) break;
    }
    const local = Number(/listening on 127\.0\.0\.1:(\d+) → web @ /.exec(text)?.[1]);
    const socket = await dial(local);
    expect((await readAll(socket)).bytes).toBe(2);
    socket.end();
    forward.kill('SIGTERM');
    await once(forward, 'close');
    await other.dispose();
    await close();
  });

  it('keeps the ticket out of the log', async () => {
    const log = join(machine.home, 'log');
    const { process: expose, ticket } = await machine.expose(
      '8080',
      '--log-file',
      log,
      '--log-level',
      'debug',
    );
    const forward = machine.start(
      'forward',
      `${ticket}x`,
      '0:8080',
      '--log-file',
      log,
      '--log-level',
      'debug',
    );
    expect(await forward.exited).toBe(64);
    expose.kill('SIGTERM');
    await expose.exited;
    const token = /token=(.*)$/.exec(ticket)?.[1] as string;
    expect(existsSync(log) ? readFileSync(log, 'utf8') : '').not.toContain(token);
    expect(forward.stdout + forward.stderr + expose.stderr).not.toContain(token);
  });
});
