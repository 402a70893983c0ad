/** UDP through real processes: expose, forward, and programs that speak it. */
import { type ChildProcess, execFile, execFileSync, spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { eventually } from '../support/eventually.js';
import { dial, listen, readAll } from '../support/sockets.js';
import { Machine, type TunnelProcess } from '../support/tunnel-process.js';
import { echo, type UdpPeer, udpPeer } from '../support/udp.js';

const run = promisify(execFile);
let here: Machine;
let there: Machine;
const children: ChildProcess[] = [];
const peers: UdpPeer[] = [];

beforeEach(() => {
  here = new Machine();
  there = new Machine();
});

afterEach(async () => {
  await there.dispose();
  await here.dispose();
  for (const child of children.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    const gone = once(child, 'exit');
    child.kill('SIGKILL');
    await gone;
  }
  for (const peer of peers.splice(0)) peer.close();
});

async function peer(options: Parameters<typeof udpPeer>[0] = {}): Promise<UdpPeer> {
  const made = await udpPeer(options);
  peers.push(made);
  return made;
}

function installed(program: string, ...args: string[]): boolean {
  return spawnSync(program, args).error === undefined;
}

/** A port that is free for TCP and UDP now. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return port;
}

async function forward(ticket: string, ...specs: string[]): Promise<TunnelProcess> {
  const made = there.start('forward', ticket, ...specs);
  await made.event('session', { state: 'connected' });
  return made;
}

async function portOf(process: TunnelProcess, service: string, protocol: string): Promise<number> {
  const { local } = await process.event('listening', { service, protocol });
  return Number(String(local).replace(/^.*:/, ''));
}

/** Sends until it is answered, as whoever uses UDP does. */
async function ask(app: UdpPeer, payload: Uint8Array): Promise<Buffer> {
  const timer = setInterval(() => app.socket.send(payload), 500);
  try {
    const answered = once(app.socket, 'message');
    app.socket.send(payload);
    return ((await answered) as [Buffer])[0];
  } finally {
    clearInterval(timer);
  }
}

describe('forward <service>/udp', () => {
  it('carries packets of many sizes, and stands beside TCP of the same name', async () => {
    const target = await peer({ answer: echo });
    const tcp = await listen((socket) => socket.end('tcp'));
    const { process: exposed, ticket } = await here.expose(`svc=udp:${target.port}`, `svc=${tcp.port}`);
    const near = await forward(ticket, '0:svc/udp', '0:svc');
    const app = await peer({ connectTo: await portOf(near, 'svc', 'udp') });
    for (const size of [0, 1, 1100, 1200, 1500, 9012, 9013, 30_000, 65_507]) {
      const payload = randomBytes(size);
      expect((await ask(app, payload)).equals(payload), `${size} bytes`).toBe(true);
    }
    const client = await dial(await portOf(near, 'svc', 'tcp'));
    expect(await readAll(client)).toMatchObject({ ending: 'end', bytes: 3 });
    client.end();
    near.kill('SIGTERM');
    await near.exited;
    const closed = await near.event('channel.close', { protocol: 'udp' });
    expect(closed).toMatchObject({
      service: 'svc',
      reason: 'shutdown',
      packetsOut: 9,
      packetsIn: 9,
      dropped: {},
    });
    expect(closed).toMatchObject({ lostIn: 0, lostOut: 0 });
    expect(await exposed.event('channel.close', { protocol: 'udp' })).toMatchObject({
      reason: 'closed',
      packetsIn: 9,
      packetsOut: 9,
    });
    expect(await near.event('udp.totals')).toMatchObject({ service: 'svc', flows: 1, packetsOut: 9 });
    await tcp.close();
  });

  it('ends idle flows after --udp-idle, and begins new ones', async () => {
    const target = await peer({ answer: echo });
    const { ticket } = await here.expose(`svc=udp:${target.port}`);
    const near = await forward(ticket, '0:svc/udp', '--udp-idle', '0.4');
    const app = await peer({ connectTo: await portOf(near, 'svc', 'udp') });
    await ask(app, Buffer.from('x'));
    await near.event('channel.close', { reason: 'idle' });
    await ask(app, Buffer.from('x'));
  });

  it('goes on after a cut with the same source port at the target, without a burst of what was sent meanwhile', async () => {
    const target = await peer({ answer: echo });
    const { process: exposed, ticket } = await here.expose(`svc=udp:${target.port}`);
    const near = await forward(ticket, '0:svc/udp');
    const app = await peer({ connectTo: await portOf(near, 'svc', 'udp') });
    await ask(app, Buffer.from('before'));
    const seen = near.events.length;
    exposed.kill('SIGSTOP');
    const stream = setInterval(() => app.socket.send('meanwhile'), 10);
    await near.event('session', { state: 'reconnecting' }, seen);
    clearInterval(stream);
    exposed.kill('SIGCONT');
    await near.event('session', { state: 'connected' }, seen);
    const after = target.received.length;
    let answer = 'before';
    while (answer !== 'after') answer = String(await ask(app, Buffer.from('after')));
    expect(new Set(target.sources).size).toBe(1);
    // About 450 were sent. A session is known to be silent after a second.
    expect(target.received.length - after).toBeLessThan(50);
    expect(target.received.length).toBeLessThan(400);
    near.kill('SIGTERM');
    const closed = await near.event('channel.close');
    expect((closed.dropped as Record<string, number>)['no-path']).toBeGreaterThan(100);
    expect(near.events.filter(({ event }) => event === 'channel.open')).toHaveLength(1);
  });

  it('stays within the cap of flows under a flood from 10,000 source ports, and serves on', async () => {
    const target = await peer({ answer: echo });
    const { process: exposed, ticket } = await here.expose(`svc=udp:${target.port}`);
    const near = await forward(ticket, '0:svc/udp');
    const port = await portOf(near, 'svc', 'udp');
    const app = await peer({ connectTo: port });
    await ask(app, Buffer.from('before'));
    for (let group = 0; group < 100; group += 1) {
      const sockets = Array.from({ length: 100 }, () => createSocket('udp4'));
      await Promise.all(
        sockets.map(
          (socket) => new Promise<void>((done) => socket.send('flood', port, '127.0.0.1', () => done())),
        ),
      );
      await Promise.all(sockets.map((socket) => new Promise<void>((done) => socket.close(done))));
    }
    let answer = 'before';
    // Asked twice on a busy machine, the first question may be answered twice.
    while (answer === 'before') answer = String(await ask(app, Buffer.from('after')));
    expect(answer).toBe('after');
    const most = (process: TunnelProcess) => {
      let open = 0;
      return process.events.reduce((highest, { event }) => {
        open += event === 'channel.open' ? 1 : event === 'channel.close' ? -1 : 0;
        return Math.max(highest, open);
      }, 0);
    };
    // The flood is UDP: some of it is lost on a busy machine.
    expect(most(exposed)).toBeGreaterThan(100);
    expect(most(exposed)).toBeLessThanOrEqual(1024);
    // Here the end of a flow is reported once the peer has said what it saw of it.
    expect(most(near)).toBeLessThan(1024 + 1024 + 512);
  });

  it('says once where UDP is not on datagrams, and works there', async () => {
    const target = await peer({ answer: echo });
    const exposed = await here.expose(`svc=udp:${target.port}`, '--webtransport', '127.0.0.1:0');
    const near = await forward(exposed.ticket, '0:svc/udp', '--via', 'webtransport');
    const app = await peer({ connectTo: await portOf(near, 'svc', 'udp') });
    for (const size of [0, 1000, 16_379, 16_380, 65_507]) {
      const payload = randomBytes(size);
      expect((await ask(app, payload)).equals(payload), `${size} bytes`).toBe(true);
    }
    for (const process of [near, exposed.process]) {
      await process.event('notice', { code: 'udp-not-on-datagrams' });
      expect(process.events.filter(({ code }) => code === 'udp-not-on-datagrams')).toHaveLength(1);
    }
  });

  it('is refused in words: a port in use, a time that is none, a service that is not offered', async () => {
    const busy = await peer();
    const { ticket } = await here.expose('svc=udp:53', 'web=8080');
    const taken = await there.run('forward', ticket, `${busy.port}:svc/udp`);
    expect(taken.code).toBe(73);
    expect(taken.stderr).toContain(`127.0.0.1:${busy.port}`);
    const idle = await there.run('forward', ticket, '0:svc/udp', '--udp-idle', 'soon');
    expect(idle.code).toBe(64);
    expect(idle.stderr).toContain("'soon'");
    const missing = there.start('forward', ticket, '0:web/udp');
    expect(await missing.exited).toBe(77);
    expect(missing.stderr).toContain('svc/udp');
  });
});

describe.skipIf(!installed('dnsmasq', '--version') || !installed('dig', '-v'))(
  'dig and dnsmasq (apt-get install dnsmasq bind9-dnsutils)',
  () => {
    it('answers of every size come through, over TCP where they are truncated', async () => {
      const port = await freePort();
      const texts = Array.from({ length: 12 }, (_, i) => `${i}-${'x'.repeat(200)}`);
      const folder = mkdtempSync(join(tmpdir(), 'tunnel-dns-'));
      const args = [
        '--no-daemon',
        '--no-resolv',
        '--no-hosts',
        `--port=${port}`,
        '--listen-address=127.0.0.1',
      ];
      args.push(
        '--bind-interfaces',
        '--edns-packet-max=4096',
        `--pid-file=${join(folder, 'pid')}`,
        '--user=root',
      );
      args.push(
        '--host-record=small.test,192.0.2.1',
        ...texts.map((text) => `--txt-record=large.test,${text}`),
      );
      const dns = spawn('dnsmasq', args, { stdio: 'ignore' });
      children.push(dns);
      const { ticket } = await here.expose(`dns=udp:${port}`, `dns=tcp:${port}`);
      const local = await freePort();
      await forward(ticket, `${local}:dns/udp`, `${local}:dns`);
      const dig = async (...query: string[]) =>
        (await run('dig', ['@127.0.0.1', '-p', String(local), '+time=5', '+tries=3', ...query])).stdout;
      expect(await dig('small.test', 'A', '+short')).toBe('192.0.2.1\n');
      const large = await dig('large.test', 'TXT', '+bufsize=4096', '+ignore');
      expect(large).toMatch(/ANSWER: 12/);
      expect(large).not.toContain('(TCP)');
      expect(Number(/MSG SIZE {2}rcvd: (\d+)/.exec(large)?.[1])).toBeGreaterThan(2400);
      const truncated = await dig('large.test', 'TXT', '+bufsize=512');
      expect(truncated).toContain('Truncated, retrying in TCP mode');
      expect(truncated).toMatch(/ANSWER: 12/);
      rmSync(folder, { recursive: true, force: true });
    });
  },
);

describe.skipIf(!installed('iperf3', '--version'))('iperf3 -u (apt-get install iperf3)', () => {
  it('runs over UDP with its control connection over TCP beside it, both ways', async () => {
    const port = await freePort();
    const server = spawn('iperf3', ['-s', '--forceflush', '-p', String(port), '-B', '127.0.0.1'], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    children.push(server);
    await once(server.stdout as NodeJS.ReadableStream, 'data');
    const { ticket } = await here.expose(`perf=tcp:${port}`, `perf=udp:${port}`);
    const local = await freePort();
    await forward(ticket, `${local}:perf`, `${local}:perf/udp`);
    for (const direction of [[], ['-R']]) {
      const args = [
        '-c',
        '127.0.0.1',
        '-p',
        String(local),
        '-u',
        '-b',
        '4M',
        '-l',
        '1000',
        '-t',
        '2',
        '-J',
        ...direction,
      ];
      const { stdout } = await run('iperf3', args);
      const { end } = JSON.parse(stdout) as { end: { sum: { packets: number; lost_packets: number } } };
      expect(end.sum.packets).toBeGreaterThan(800);
      expect(end.sum.lost_packets).toBeLessThan(end.sum.packets / 10);
    }
  });
});

describe.skipIf(!installed('openssl', 'version'))('DTLS (openssl s_server and s_client)', () => {
  it('a handshake with a certificate chain, then lines, go through', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'tunnel-dtls-'));
    const [key, certificate] = [join(folder, 'key.pem'), join(folder, 'cert.pem')];
    // Names instead of a large key, which takes seconds to make: more than one packet holds, too.
    const names = Array.from({ length: 80 }, (_, index) => `DNS:name-${index}.dtls.test`).join(',');
    const make = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
    const of = ['-days', '2', '-subj', '/CN=dtls.test', '-addext', `subjectAltName=${names}`];
    execFileSync('openssl', [...make, '-keyout', key, '-out', certificate, ...of], { stdio: 'ignore' });
    const port = await freePort();
    const serve = [
      's_server',
      '-dtls',
      '-accept',
      `127.0.0.1:${port}`,
      '-key',
      key,
      '-cert',
      certificate,
      '-quiet',
    ];
    const server = spawn('openssl', serve, { stdio: ['pipe', 'pipe', 'ignore'] });
    children.push(server);
    let received = '';
    server.stdout?.setEncoding('utf8').on('data', (text: string) => {
      received += text;
    });
    // It listens when it answers; a handshake that is not answered is repeated by the client.
    const { ticket } = await here.expose(`dtls=udp:${port}`);
    const near = await forward(ticket, '0:dtls/udp');
    const local = await portOf(near, 'dtls', 'udp');
    const connect = [
      's_client',
      '-dtls',
      '-connect',
      `127.0.0.1:${local}`,
      '-CAfile',
      certificate,
      '-verify_return_error',
    ];
    const client = spawn('openssl', connect, { stdio: ['pipe', 'pipe', 'ignore'] });
    children.push(client);
    let said = '';
    client.stdout?.setEncoding('utf8').on('data', (text: string) => {
      said += text;
    });
    expect(await eventually(() => said.includes('Verify return code: 0 (ok)'), 15_000)).toBe(true);
    client.stdin?.write('from the client\n');
    expect(await eventually(() => received.includes('from the client'), 10_000)).toBe(true);
    server.stdin?.write('from the server\n');
    expect(await eventually(() => said.includes('from the server'), 10_000)).toBe(true);
    rmSync(folder, { recursive: true, force: true });
  });
});
