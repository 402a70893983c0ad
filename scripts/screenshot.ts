/**
 * `npm run screenshot`: docs/dashboard.svg, from a real run. One machine offers three services, two others
 * use them, and what an `expose` shows of it after half a minute is drawn. Needs tmux; loopback only.
 */
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { NO_TMUX, Terminal } from '../test/support/terminal.js';
import { Machine, RUN } from '../test/support/tunnel-process.js';
import { drawTerminal } from './terminal-svg.js';

const COLUMNS = 110;
const ROWS = 28;
const LOAD_MS = 30_000;

/** A server that sends to each connection at about this rate, and throws away what comes. */
async function source(bytesPerSecond: number, swingMs: number): Promise<number> {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    const tick = setInterval(() => {
      const swing = 1.1 + Math.sin((2 * Math.PI * performance.now()) / swingMs);
      if (!socket.writableNeedDrain)
        socket.write(Buffer.alloc(Math.round((bytesPerSecond / 20) * swing * (0.5 + Math.random()))));
    }, 50);
    socket.on('error', () => undefined);
    socket.on('close', () => clearInterval(tick));
    // Some have more to say after the question.
    socket.on('end', () => setTimeout(() => socket.end(), 5000));
    socket.resume();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  server.unref();
  return (server.address() as AddressInfo).port;
}

function use(port: number, sendBytes = 0): Socket {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  socket.on('error', () => undefined);
  socket.resume();
  socket.on('end', () => socket.end());
  if (sendBytes > 0) socket.write(Buffer.alloc(sendBytes));
  return socket;
}

async function main(): Promise<void> {
  if (NO_TMUX) throw new Error(NO_TMUX);
  const exposing = new Machine();
  const machines = [new Machine(), new Machine()];
  for (const [index, name] of ['alice', 'bob'].entries()) {
    const { stdout } = await (machines[index] as Machine).run('id');
    await exposing.run('peers', 'add', name, stdout.trim());
  }
  const ports = {
    db: await source(2_000_000, 17_000),
    web: await source(300_000, 7000),
    files: await source(30_000_000, 23_000),
  };
  const services = Object.entries(ports).map(([name, port]) => `${name}=${port}`);
  const terminal = new Terminal(`node ${RUN} expose ${services.join(' ')} --no-relay --bind 127.0.0.1`, {
    columns: COLUMNS,
    rows: ROWS,
    env: { TUNNEL_HOME: exposing.home, TERM: 'xterm-256color' },
  });
  try {
    const shown = await terminal.until(/'tunnel:\/\/[^']+'/);
    const ticket = (/'(tunnel:\/\/[^']+)'/.exec(shown)?.[1] ?? '').replace(/\s/g, '');
    const sockets: Socket[] = [];
    const webs: number[] = [];
    for (const [index, machine] of machines.entries()) {
      const forward = machine.start('forward', ticket, '0:db', '0:web', '0:files');
      await forward.event('session', { state: 'connected' });
      for (const [service, count] of Object.entries({ db: 4 - index, web: 2, files: 1 })) {
        const { local } = await forward.event('listening', { service });
        const port = Number(String(local).replace(/^.*:/, ''));
        if (service === 'web') webs.push(port);
        for (let one = 0; one < count; one += 1) sockets.push(use(port, 40_000 * (one + 1)));
      }
    }
    const until = performance.now() + LOAD_MS;
    while (performance.now() < until) {
      await sleep(3000);
      // Connections come and go.
      const visit = use(webs[0] as number, 3000);
      setTimeout(() => visit.end(), 2000);
    }
    // One that has asked and now only listens, and one that was cut off.
    sockets[5]?.end();
    sockets[0]?.resetAndDestroy();
    await sleep(1500);
    const svg = drawTerminal(terminal.screen({ styled: true }), {
      columns: COLUMNS,
      rows: ROWS,
      title: 'tunnel expose',
    });
    const docs = fileURLToPath(new URL('../docs/', import.meta.url));
    mkdirSync(docs, { recursive: true });
    writeFileSync(join(docs, 'dashboard.svg'), svg);
    process.stdout.write(`docs/dashboard.svg\n${terminal.screen()}`);
    for (const socket of sockets) socket.destroy();
  } finally {
    terminal.close();
    for (const machine of [exposing, ...machines]) await machine.dispose();
  }
}

await main();
process.exit(0);
