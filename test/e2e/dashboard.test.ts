/** The dashboard in a real terminal: keys, sizes, and the terminal given back on every kind of exit. */
import { writeFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { dial, endOf, listen } from '../support/sockets.js';
import { NO_TMUX, Terminal, type TerminalOptions } from '../support/terminal.js';
import { Machine, RUN } from '../support/tunnel-process.js';

const LOCAL = '--no-relay --bind 127.0.0.1';
let machine: Machine;
let terminals: Terminal[];

beforeEach(() => {
  machine = new Machine();
  terminals = [];
});

afterEach(async () => {
  for (const terminal of terminals) terminal.close();
  await machine.dispose();
});

function tunnel(args: string, options: TerminalOptions = {}): Terminal {
  const terminal = new Terminal(`node ${RUN} ${args}`, {
    ...options,
    env: { TUNNEL_HOME: machine.home, ...options.env },
  });
  terminals.push(terminal);
  return terminal;
}

/** A service that keeps its connections, an expose of it, and a forward with the dashboard. */
async function forwardOnScreen(
  options: TerminalOptions & { readonly flags?: string; readonly plain?: boolean } = {},
) {
  const service = await listen((socket) => socket.write('hello'));
  const { ticket, process: expose } = await machine.expose(`web=${service.port}`);
  const terminal = tunnel(`forward '${ticket}' 0:web ${LOCAL} ${options.flags ?? ''}`, options);
  const screen = await terminal.until(/127\.0\.0\.1:\d+ → web/);
  const port = Number(/127\.0\.0\.1:(\d+) → web/.exec(screen)?.[1]);
  await terminal.until(
    options.plain ? /connected to .* over iroh-direct/ : /▸CHANNELS[\s\S]*connected over iroh-direct/,
  );
  return { terminal, port, expose, close: service.close };
}

/** Makes a tunnel process run `code` when it gets SIGUSR2. */
function onSigusr2(code: string): Readonly<Record<string, string>> {
  const file = join(machine.home, 'on-sigusr2.mjs');
  writeFileSync(file, `process.on('SIGUSR2', () => { ${code} });`);
  return { NODE_OPTIONS: `--import=${file}` };
}

async function expectRestored(terminal: Terminal, exit: string): Promise<string> {
  // The whole of what stty says.
  const screen = await terminal.until(new RegExp(`${exit}[\\s\\S]*rows[\\s\\S]*echoctl`));
  expect(terminal.modes()).toEqual({ alternate: false, cursor: true });
  // As a shell needs it: lines and echo, not single keys.
  expect(screen).toMatch(/(?<!-)icanon/);
  expect(screen).toMatch(/(?<!-)echo\b/);
  return screen;
}

describe.skipIf(NO_TMUX)(`the dashboard of a process${NO_TMUX ? ` (${NO_TMUX})` : ''}`, () => {
  it('shows tunnels, peers, channels and events, and keys lead through them', async () => {
    const { terminal, port, close } = await forwardOnScreen();
    const sockets: Socket[] = [await dial(port), await dial(port)];
    await terminal.until(/CHANNELS 2/);
    const screen = await terminal.until(/▼ 5 B/);
    expect(screen).toMatch(/^ tunnel {2}forward {2}.*1 peer/m);
    expect(screen).toMatch(/● {2}tcp {2}127\.0\.0\.1:\d+ → web .*2 open/);
    expect(screen).toMatch(/● {2}[0-9a-f]{4}…[0-9a-f]{4} {2}iroh-direct/);
    terminal.press('?');
    await terminal.until(/HELP/);
    terminal.press('Escape');
    await terminal.until(/▸CHANNELS/);
    terminal.press('s');
    await terminal.until(/sort: bytes/);
    terminal.press('Enter');
    const detail = await terminal.until(/CHANNEL \d/);
    expect(detail).toMatch(/state +open/);
    expect(detail).toMatch(/from +127\.0\.0\.1:\d+/);
    terminal.press('Escape');
    terminal.press('/');
    terminal.type('nothing like it');
    await terminal.until(/CHANNELS 0 of 2 matching/);
    terminal.press('Escape');
    await terminal.until(/CHANNELS 2 /);
    terminal.press('BTab');
    await terminal.until(/▸PEERS/);
    terminal.press('Enter');
    // The other end tells what it measures, within its second.
    await terminal.until(/as the peer sees it[\s\S]*channels +2 +2/);
    for (const socket of sockets) socket.destroy();
    await close();
  });

  it('resets the selected channel after asking, and no other', async () => {
    const { terminal, port, close } = await forwardOnScreen();
    const first = await dial(port);
    await terminal.until(/CHANNELS 1/);
    const second = await dial(port);
    await terminal.until(/CHANNELS 2/);
    const ending = endOf(second);
    second.resume();
    // The newest is on top while both are idle.
    await terminal.until(/›.*\b2 {2}web/);
    terminal.press('x');
    await terminal.until(/reset channel 2\?/);
    terminal.press('n');
    await terminal.until(/not reset/);
    terminal.press('x', 'y');
    expect(await ending).toBe('reset');
    await terminal.until(/channel 2 was reset/);
    await terminal.until(/CHANNELS 1/);
    expect(first.destroyed).toBe(false);
    first.destroy();
    second.destroy();
    await close();
  });

  it.each([
    [200, 60],
    [40, 15],
  ])('follows a resize to %i×%i', async (columns, rows) => {
    const { terminal, close } = await forwardOnScreen();
    terminal.resize(columns, rows);
    const linesOf = (text: string) => text.trimEnd().split('\n');
    const screen = await terminal.until((text) => {
      const lines = linesOf(text);
      const full = lines.some((line) => line.length === columns);
      return full && lines.length === rows && lines[0]?.startsWith(' tunnel') === true;
    });
    expect(linesOf(screen).at(-1)).toContain('q quit');
    expect(screen).toContain('CHANNELS 0');
    for (const line of linesOf(screen)) expect(line.length).toBeLessThanOrEqual(columns);
    await close();
  });

  it('gives the terminal back after q, and sums up', async () => {
    const { terminal, close } = await forwardOnScreen();
    expect(terminal.modes()).toEqual({ alternate: true, cursor: false });
    terminal.press('q');
    expect(await expectRestored(terminal, 'EXIT 0')).toContain('0 connections');
    await close();
  });

  it('asks before q ends open channels, and waits for them visibly', async () => {
    const { terminal, port, close } = await forwardOnScreen();
    const socket = await dial(port);
    const ending = endOf(socket);
    socket.resume();
    await terminal.until(/CHANNELS 1/);
    terminal.press('q');
    await terminal.until(/stop\?.* 1 open channel gets/);
    terminal.press('y');
    await terminal.until(/STOPPING/);
    terminal.press('q');
    await expectRestored(terminal, 'EXIT 0');
    expect(await ending).toBe('reset');
    await close();
  });

  it('gives the terminal back after Ctrl-C, with 130', async () => {
    const { terminal, close } = await forwardOnScreen();
    terminal.press('C-c');
    await expectRestored(terminal, 'EXIT 130');
    await close();
  });

  it.each([
    ['SIGTERM', 'EXIT 0'],
    ['SIGQUIT', 'EXIT 131'],
  ] as const)('gives the terminal back after %s', async (signal, exit) => {
    const { terminal, close } = await forwardOnScreen();
    process.kill(terminal.pid(), signal);
    await expectRestored(terminal, exit);
    await close();
  });

  it('stays on SIGHUP, which asks to read files again, while its terminal is there', async () => {
    const { terminal, port, close } = await forwardOnScreen();
    process.kill(terminal.pid(), 'SIGHUP');
    const socket = await dial(port);
    await terminal.until(/CHANNELS 1 /);
    expect(terminal.modes()).toEqual({ alternate: true, cursor: false });
    socket.destroy();
    await close();
  });

  it('gives the terminal back after a crash, with the error readable', async () => {
    const { terminal, close } = await forwardOnScreen({
      env: onSigusr2("throw new Error('boom')"),
    });
    process.kill(terminal.pid(), 'SIGUSR2');
    expect(await expectRestored(terminal, 'EXIT [1-9]')).toContain('boom');
    await close();
  });

  it('is not torn by what something else writes to the terminal', async () => {
    const { terminal, close } = await forwardOnScreen({
      env: onSigusr2(String.raw`process.stderr.write('\x1b[2Jstray line\n')`),
    });
    process.kill(terminal.pid(), 'SIGUSR2');
    const screen = await terminal.until(/! +stray line/);
    expect(screen).toMatch(/^ tunnel {2}forward/);
    await close();
  });

  it('shows within 5 s that a peer has gone, and why, and that it is back', async () => {
    const { terminal, expose, close } = await forwardOnScreen();
    expose.kill('SIGTERM');
    await terminal.until(/◌ .*reconnecting \d+s: .*shutting down/, 5000);
    await expose.exited;
    await machine.expose('web=1');
    await terminal.until(/● .*iroh-direct/, 20_000);
    await close();
  });

  it('shows that a path went silent, and why, and that it is back', async () => {
    const { terminal, port, expose, close } = await forwardOnScreen();
    const socket = await dial(port);
    await terminal.until(/CHANNELS 1/);
    // Nothing says goodbye: as with a cable that is pulled.
    expose.kill('SIGSTOP');
    await terminal.until(/◌ .*reconnecting \d+s: .*(no answer|does not answer)/, 10_000);
    await terminal.until(/1 waiting/);
    expose.kill('SIGCONT');
    await terminal.until(/● .*iroh-direct/, 20_000);
    await terminal.until(/1 resumed, 0 lost/);
    expect(socket.destroyed).toBe(false);
    socket.destroy();
    await close();
  });

  it('says so when the peer keeps its figures to itself', async () => {
    const { ticket } = await machine.expose('web=1', '--no-share-stats');
    const terminal = tunnel(`forward '${ticket}' 0:web ${LOCAL}`);
    await terminal.until(/● .*iroh-direct/);
    terminal.press('BTab', 'Enter');
    await terminal.until(/the peer does not tell its own figures/);
  });

  it('of an expose shows the line for the other machine until somebody has come', async () => {
    const { port, close } = await listen(() => undefined);
    const terminal = tunnel(`expose web=${port} ${LOCAL}`);
    const screen = await terminal.until(/'tunnel:\/\/[\s\S]*q quit/);
    // As a person copies it: with the breaks, which do no harm.
    const command = /forward \\\n ('tunnel:[\s\S]*?') ?/.exec(screen)?.[1] as string;
    const forward = machine.start('forward', command.slice(1, -1), '0:web');
    await forward.event('session', { state: 'connected' });
    await terminal.until(/PEERS 1/);
    expect(terminal.screen()).not.toContain('token');
    terminal.press('t');
    await terminal.until(/tunnel:\/\//);
    terminal.press('t', 'q');
    await expectRestored(terminal, 'EXIT 0');
    await close();
  });
});

describe.skipIf(NO_TMUX)('where there is no dashboard', () => {
  it('--plain gets lines', async () => {
    const { terminal, close } = await forwardOnScreen({ flags: '--plain', plain: true });
    expect(terminal.modes().alternate).toBe(false);
    expect(terminal.screen()).toMatch(/^listening on 127/m);
    await close();
  });

  it.each([
    ['a dumb terminal', { TERM: 'dumb' }],
    ['CI', { CI: 'true' }],
  ])('%s gets lines, and nothing of a spinner that could not spin', async (_what, env) => {
    const terminal = tunnel(`expose web=1 ${LOCAL}`, { columns: 250, env });
    const ticket = /'(tunnel:\/\/\S+)'/.exec(await terminal.until(/'tunnel:\/\/\S+' 1:web/))?.[1] as string;
    machine.start('forward', ticket, '0:web');
    const screen = await terminal.until(/^connected to .* over iroh-direct/m);
    expect(terminal.modes().alternate).toBe(false);
    expect(screen).not.toContain('waiting for a peer');
  });

  it('a terminal that does not know its width gets lines and a spinner', async () => {
    const forward = `node ${RUN} forward ${'0'.repeat(64)} 0:web --plain ${LOCAL}`;
    const terminal = new Terminal(`sh -c 'stty cols 0 && exec ${forward}'`, {
      env: { TUNNEL_HOME: machine.home },
    });
    terminals.push(terminal);
    await terminal.until(/^. connecting to /m);
    await terminal.until(/^no session with /m);
    terminal.press('C-c');
    await terminal.until(/EXIT 130/);
  });

  it('NO_COLOR takes the colours and leaves the rest', async () => {
    const { terminal, close } = await forwardOnScreen({ env: { NO_COLOR: '1' } });
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
    expect(terminal.screen({ styled: true })).not.toMatch(/\x1b\[[0-9;]*(3[0-8]|9[0-7])[;m]/);
    expect(terminal.screen()).toContain('▸CHANNELS');
    await close();
  });

  it('tunnel dashboard without a terminal says what to use instead, with 64', async () => {
    const { code, stderr } = await machine.run('dashboard');
    expect(code).toBe(64);
    expect(stderr).toContain('tunnel status');
  });
});

describe.skipIf(NO_TMUX)('tunnel dashboard', () => {
  it('shows every process, resets a channel of another, and sees processes come and go', async () => {
    const service = await listen((socket) => socket.write('hello'));
    const { ticket, process: expose } = await machine.expose(`web=${service.port}`);
    const dashboard = tunnel('dashboard', { columns: 120, rows: 30 });
    await dashboard.until(/web → 127/);
    const { process: forward, port } = await machine.forward(ticket, 'web');
    const screen = await dashboard.until(/2 processes/);
    expect(screen).toMatch(new RegExp(`${forward.pid} +tcp +127\\.0\\.0\\.1:${port} → web`));
    const socket = await dial(port);
    const ending = endOf(socket);
    socket.resume();
    // Both ends of the one channel.
    await dashboard.until(/CHANNELS 2/);
    dashboard.press('x');
    await dashboard.until(/reset channel/);
    dashboard.press('y');
    expect(await ending).toBe('reset');
    await dashboard.until(/was reset/);
    forward.kill('SIGKILL');
    await dashboard.until(new RegExp(`tunnel {2}expose(?![^]*\\b${forward.pid}\\b)`));
    expose.kill('SIGTERM');
    await dashboard.until(/0 processes/);
    dashboard.press('q');
    await expectRestored(dashboard, 'EXIT 0');
    socket.destroy();
    await service.close();
  });

  it('gives the terminal back after SIGHUP: it has no files to read again', async () => {
    const dashboard = tunnel('dashboard');
    await dashboard.until(/0 processes/);
    process.kill(dashboard.pid(), 'SIGHUP');
    await expectRestored(dashboard, 'EXIT 129');
  });
});
