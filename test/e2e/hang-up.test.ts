/** A terminal that goes away under a running tunnel: the process ends as it should, and never by a fault. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { eventually } from '../support/eventually.js';
import { NO_TMUX, Terminal } from '../support/terminal.js';
import { Machine, RUN, type TunnelProcess } from '../support/tunnel-process.js';

const OUTLIVE = fileURLToPath(new URL('../support/outlive-terminal.js', import.meta.url));
const LOCAL = '--no-relay --bind 127.0.0.1';
let machine: Machine;
let expose: TunnelProcess;
let ticket: string;
let terminals: Terminal[];
let ends: string[];

beforeEach(async () => {
  machine = new Machine();
  ({ process: expose, ticket } = await machine.expose('web=1'));
  terminals = [];
  ends = [];
});

afterEach(async () => {
  for (const terminal of terminals) terminal.close();
  for (const file of ends) if (told(file).length === 1) process.kill(pidOf(file), 'SIGKILL');
  await machine.dispose();
});

/** A forward on a terminal of its own, and the file that tells how it ended. */
function forwardOn(how: 'foreground' | 'detached', flags: string): { terminal: Terminal; file: string } {
  const file = join(machine.home, `ended-${ends.length}`);
  const terminal = new Terminal(
    `node ${OUTLIVE} ${file} ${how} ${RUN} forward '${ticket}' 0:web ${LOCAL} ${flags}`,
    { env: { TUNNEL_HOME: machine.home } },
  );
  terminals.push(terminal);
  ends.push(file);
  return { terminal, file };
}

function told(file: string): string[] {
  return existsSync(file) ? readFileSync(file, 'utf8').trim().split('\n') : [];
}

function pidOf(file: string): number {
  return Number(told(file)[0]);
}

async function endOf(file: string): Promise<string | undefined> {
  await eventually(() => told(file).length === 2, 20_000);
  return told(file)[1];
}

describe.skipIf(NO_TMUX)(`a terminal that hangs up${NO_TMUX ? ` (${NO_TMUX})` : ''}`, () => {
  it('ends a dashboard by SIGHUP, or by 129 when a frame was on its way', async () => {
    const rounds = [0, 1, 2, 3].map(() => forwardOn('foreground', ''));
    for (const { terminal, file } of rounds) {
      await terminal.until(/●.*iroh-direct/);
      terminal.close();
      expect(['SIGHUP', '129']).toContain(await endOf(file));
    }
  });

  it('ends plain lines and JSON by SIGHUP, where SIGHUP comes: that is no wish to read files again', async () => {
    for (const flags of ['--plain', '--json']) {
      const { terminal, file } = forwardOn('foreground', flags);
      await terminal.until((screen) => screen.replaceAll('\n', '').includes('iroh-direct'));
      process.kill(pidOf(file), 'SIGHUP');
      terminal.close();
      expect(['SIGHUP', '129']).toContain(await endOf(file));
    }
  });

  it('ends plain lines by 129 with the next of them', async () => {
    const { terminal, file } = forwardOn('detached', '--plain');
    await terminal.until(/connected to .* over iroh-direct/);
    terminal.close();
    expose.kill('SIGTERM');
    expect(await endOf(file)).toBe('129');
  });

  it('does not end a process that has its output elsewhere, whose end is an orderly one', async () => {
    const output = join(machine.home, 'lines.json');
    const { terminal, file } = forwardOn('detached', `--json > ${output}`);
    const lines = () => (existsSync(output) ? readFileSync(output, 'utf8') : '');
    const states = (state: string) => lines().split(`"state":"${state}"`).length - 1;
    expect(await eventually(() => states('connected') === 1, 20_000)).toBe(true);
    terminal.close();
    expose.kill('SIGTERM');
    await expose.exited;
    expect(await eventually(() => states('reconnecting') >= 1, 20_000)).toBe(true);
    await machine.expose('web=1');
    expect(await eventually(() => states('connected') === 2, 20_000)).toBe(true);
    process.kill(pidOf(file), 'SIGTERM');
    expect(await endOf(file)).toBe('0');
  });
});
