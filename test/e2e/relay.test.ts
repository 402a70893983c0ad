/** A relay of one's own: the command, and tunnels that have no other way. */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { Network, namespacesMissing } from '../support/netns.js';
import { random, sha256 } from '../support/sockets.js';
import { Machine, type TunnelProcess } from '../support/tunnel-process.js';

const MIB = 1024 * 1024;
const machines: Machine[] = [];

function machine(...options: ConstructorParameters<typeof Machine>): Machine {
  const made = new Machine(...options);
  machines.push(made);
  return made;
}

afterEach(async () => {
  for (const made of machines.splice(0).reverse()) await made.dispose();
});

describe('tunnel relay', () => {
  it('says its URL when it is ready, ends with 0 on SIGTERM and 130 on SIGINT, and frees its port', async () => {
    const host = machine();
    const relay = host.startAs('relay', '--listen', '127.0.0.1:0', '--json');
    const ready = await relay.event('ready');
    expect(ready).toMatchObject({
      url: expect.stringMatching(/^http:\/\/127\.0\.0\.1:\d+\/$/),
      pid: relay.pid,
    });
    expect((await fetch(ready.url as string)).status).toBe(200);
    const taken = await host.run('relay', '--listen', ready.listen as string);
    expect(taken).toMatchObject({ code: 73, stdout: '', stderr: expect.stringContaining('PORT_IN_USE') });
    relay.kill('SIGTERM');
    expect(await relay.exited).toBe(0);
    const again = host.startAs('relay', '--listen', ready.listen as string, '--json');
    await again.event('ready');
    again.kill('SIGINT');
    expect(await again.exited).toBe(130);
    expect([relay.stderr, again.stderr]).toEqual(['', '']);
  });

  it.each([
    [['--listen', 'here'], 64, 'USAGE'],
    [['--listen', '0.0.0.0:70000'], 64, 'USAGE'],
    [['--rate', 'fast'], 64, 'USAGE'],
    [['--cert', 'some.pem'], 64, '--key'],
    [['--quic', '127.0.0.1:7842'], 64, 'needs a certificate'],
    [['--allow', 'somebody'], 64, 'BAD_NODE_ID'],
    [['--allow-file', '/nonexistent'], 64, "'/nonexistent' cannot be read"],
    [['--cert', '/nonexistent.pem', '--key', '/nonexistent.key'], 78, "'/nonexistent.pem' cannot be read"],
    [['--listen', '192.0.2.1:3340'], 73, 'CANNOT_BIND'],
  ])('%j is refused with %i', async (args, code, text) => {
    const { code: actual, stdout, stderr } = await machine().run('relay', ...args);
    expect({ actual, stdout, lines: stderr.trim().split('\n').length }).toEqual({
      actual: code,
      stdout: '',
      lines: 1,
    });
    expect(stderr).toContain(text);
  });

  it('lets in the nodes of a file, read again on SIGHUP', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'tunnel-relay-'));
    const file = join(folder, 'allowed');
    writeFileSync(file, '# nobody yet\n');
    const host = machine();
    const relay = host.startAs('relay', '--listen', '127.0.0.1:0', '--allow-file', file, '--json');
    const { url } = (await relay.event('ready')) as unknown as { url: string };
    const guest = machine();
    // The two have no address family in common, so there is no direct path.
    const expose = guest.startAs('expose', '9', '--bind', '127.0.0.1', '--relay', url, '--json');
    const ticket = (await expose.event('ready')).ticket as string;
    const forward = guest.startAs('forward', ticket, '0:9', '--bind', '::1', '--relay', url, '--json');
    writeFileSync(file, `${await guest.nodeId()}   # the guest\n`);
    relay.kill('SIGHUP');
    expect(await forward.event('session', { state: 'connected' })).toMatchObject({ path: 'iroh-relay' });
    writeFileSync(file, 'nonsense\n');
    relay.kill('SIGHUP');
    expect(await relay.event('error')).toMatchObject({ code: 'BAD_NODE_ID' });
    rmSync(folder, { recursive: true });
  });

  it('gives metrics to those who ask', async () => {
    const [port] = freePorts(1);
    const relay = machine().startAs(
      'relay',
      '--listen',
      '127.0.0.1:0',
      '--metrics',
      `127.0.0.1:${port}`,
      '--json',
    );
    await relay.event('ready');
    const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
    expect(text).toContain('relayserver_accepts_total 0');
  });
});

function freePorts(count: number): number[] {
  const script = `const s=[...Array(${count})].map(()=>require('net').createServer().listen(0,'127.0.0.1'));
    Promise.all(s.map((x)=>new Promise((r)=>x.once('listening',r)))).then(()=>{
    console.log(JSON.stringify(s.map((x)=>x.address().port)));process.exit()})`;
  return JSON.parse(execFileSync(process.execPath, ['-e', script], { encoding: 'utf8' })) as number[];
}

describe.skipIf(namespacesMissing)('two networks with nothing but a relay between them', () => {
  const URL = 'http://10.77.1.1:3340/';
  let network: Network;

  beforeAll(async () => {
    network = await Network.create();
    // The router passes nothing on; it is the relay that both can reach.
    await network.cut();
  });

  afterAll(() => network.dispose());

  const startRelay = (host: Machine): TunnelProcess =>
    host.startAs('relay', '--listen', '10.77.1.1:3340', '--json');

  it('carry a tunnel over it, and a transfer goes on when the relay was killed and is back', async () => {
    const router = machine({ namespace: network.router.namespace });
    const [far, near] = [network.far, network.near].map(({ namespace }) => machine({ namespace })) as [
      Machine,
      Machine,
    ];
    const relay = startRelay(router);
    expect(await relay.event('ready')).toMatchObject({ url: URL });
    const echo = await network.far.listen((socket) => socket.pipe(socket));
    const expose = far.startAs('expose', `echo=${echo.port}`, '--relay', URL, '--json');
    const ticket = (await expose.event('ready')).ticket as string;
    const forward = near.startAs('forward', ticket, '0:echo', '--relay', URL, '--json');
    const port = await forward.listeningPort();
    expect(await forward.event('session', { state: 'connected' })).toMatchObject({ path: 'iroh-relay' });

    const app = await network.near.dial(port);
    const data = random(24 * MIB);
    const back: Buffer[] = [];
    let received = 0;
    let killed: Promise<unknown> | undefined;
    app.on('data', (chunk: Buffer) => {
      back.push(chunk);
      received += chunk.length;
      if (received < 4 * MIB || killed) return;
      relay.kill('SIGKILL');
      killed = relay.exited.then(() => startRelay(router).event('ready'));
    });
    app.end(data);
    await once(app, 'end');
    await killed;
    expect(killed, 'the relay was killed in mid-transfer').toBeDefined();
    expect(sha256(Buffer.concat(back))).toBe(sha256(data));
    await echo.close();
  });
});

describe.skipIf(namespacesMissing)('one network without internet', () => {
  let network: Network;

  beforeEach(async () => {
    network = await Network.create();
  });

  afterEach(() => network.dispose());

  it('a peer is found by its node ID alone', async () => {
    const echo = await network.near.listen((socket) => socket.pipe(socket));
    const [there, here] = [0, 1].map(() => machine({ namespace: network.near.namespace, bind: 'any' })) as [
      Machine,
      Machine,
    ];
    const { ticket, nodeId } = await there.expose(`echo=${echo.port}`);
    const [, token] = /token=(.+)$/.exec(ticket) as RegExpExecArray;
    const bare = `tunnel://${nodeId}?token=${token}`;
    const { port } = await here.forward(bare, 'echo');
    const app = await network.near.dial(port);
    app.write('found');
    const [answer] = (await once(app, 'data')) as [Buffer];
    expect(answer.toString()).toBe('found');
    app.destroy();
    await echo.close();
  });
});
