/** Which way two nodes find to each other through NATs, and that they say so. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import { describeFaults, lasting, say } from '../support/describe-faults.js';
import { Party } from '../support/party.js';
import { type NatKind, RELAY_ADDRESSES, RELAY_NAME, Topology } from '../support/topology.js';
import { Machine, type TunnelProcess } from '../support/tunnel-process.js';

const MIB = 1024 * 1024;
const EVENT_MS = 60_000;
const URLS = RELAY_ADDRESSES.map((address) => `https://${address}/`);
const NAMED = [`https://${RELAY_NAME}/`];
const folder = mkdtempSync(join(tmpdir(), 'tunnel-paths-'));
const [key, certificate] = [join(folder, 'key.pem'), join(folder, 'cert.pem')];
const machines: Machine[] = [];

function machine(namespace: string): Machine {
  const made = new Machine({ namespace, bind: 'any', eventTimeoutMs: EVENT_MS });
  machines.push(made);
  return made;
}

describeFaults('paths', { timeout: 180_000 }, () => {
  let topology: Topology;
  let relays: TunnelProcess[] = [];

  beforeAll(() => {
    execFileSync(
      'openssl',
      [
        ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'],
        ...['-keyout', key, '-out', certificate, '-days', '2', '-subj', '/CN=relay.test'],
        ...[
          '-addext',
          `subjectAltName=DNS:${RELAY_NAME},${RELAY_ADDRESSES.map((one) => `IP:${one}`).join(',')}`,
        ],
        ...['-addext', 'basicConstraints=critical,CA:FALSE'],
      ],
      { stdio: 'ignore' },
    );
    process.env.NODE_EXTRA_CA_CERTS = certificate;
  });

  afterAll(() => {
    delete process.env.NODE_EXTRA_CA_CERTS;
    rmSync(folder, { recursive: true, force: true });
  });

  beforeEach(async () => {
    topology = await Topology.create();
  });

  afterEach(async () => {
    for (const one of machines.splice(0).reverse()) await one.dispose();
    relays = [];
    await topology.dispose();
  });

  /** Two, since one alone cannot tell whether a NAT gives each destination another port. */
  async function startRelays(hosts: readonly string[] = RELAY_ADDRESSES): Promise<void> {
    for (const address of hosts) {
      const host = machine(topology.internet.namespace);
      const relay = host.startAs(
        ...['relay', '--listen', `${address}:443`, '--cert', certificate, '--key', key, '--json'],
      );
      await relay.event('ready');
      relays.push(relay);
    }
  }

  async function nats(left: NatKind, right: NatKind): Promise<void> {
    await topology.left.nat(left);
    await topology.right.nat(right);
  }

  const relayFlags = (urls: readonly string[] = URLS) => urls.flatMap((url) => ['--relay', url]);

  /** The right host offers an echo, the left one forwards it. */
  async function connect(flags: readonly string[] = relayFlags()) {
    const echo = await topology.right.host.listen((socket) => socket.pipe(socket));
    const far = machine(topology.right.host.namespace);
    const near = machine(topology.left.host.namespace);
    const expose = far.startAs('expose', `echo=${echo.port}`, '--no-lan', ...flags, '--json');
    const ticket = (await expose.event('ready')).ticket as string;
    const startedAt = performance.now();
    const forward = near.startAs('forward', ticket, '0:echo', '--no-lan', ...flags, '--json');
    const port = await forward.listeningPort();
    const session = await forward.event('session', { state: 'connected' });
    say(`connected over ${session.path} after ${Math.round(performance.now() - startedAt)} ms`);
    const direct = async () => {
      if (session.path !== 'iroh-direct') await forward.event('path', { path: 'iroh-direct' });
      say(`direct after ${Math.round(performance.now() - startedAt)} ms`);
    };
    return { forward, expose, port, ticket, near, session, direct };
  }

  /** Every byte there and back. */
  async function transfer(port: number, bytes: number, meanwhile?: (party: Party) => Promise<void>) {
    const app = new Party(await topology.left.host.dial(port), 'seed', 'seed');
    const sending = app.send(bytes);
    await meanwhile?.(app);
    expect(await sending).toBe(true);
    app.finish();
    expect(await app.whenSeen(EVENT_MS)).toBe('end');
    expect([app.received, app.wrongAt]).toEqual([bytes, undefined]);
  }

  it('on one LAN by ticket are direct, without any relay', async () => {
    const far = machine(topology.left.neighbour.namespace);
    const near = machine(topology.left.host.namespace);
    const { ticket } = await far.expose('9');
    const ping = near.start('ping', ticket);
    expect(await ping.exited).toBe(0);
    expect(ping.events.at(-1)).toMatchObject({ direct: true, sent: 1 });
  });

  it.each([
    ['IPv4 only', 'IPv4 only'],
    ['IPv6 only', 'both'],
    ['both', 'IPv6 only'],
    ['IPv6 only', 'IPv6 only'],
  ])(
    'on one LAN by the node ID alone, %s and %s, are direct, and see who announces itself',
    async (...families) => {
      const { host, neighbour } = topology.left;
      if (!families.includes('IPv4 only')) await topology.leftIpv6Only();
      if (families.every((family) => family === 'IPv6 only'))
        await neighbour.run('ip', ['-4', 'addr', 'flush', 'dev', 'net0']);
      const [nearHost, farHost] = families[0] === 'both' ? [neighbour, host] : [host, neighbour];
      const [near, far] = [machine(nearHost.namespace), machine(farHost.namespace)];
      const { nodeId } = await far.expose('9', '--public', '--announce', 'workshop');
      const startedAt = performance.now();
      const ping = near.start('ping', nodeId);
      expect(await ping.exited).toBe(0);
      say(`pinged after ${Math.round(performance.now() - startedAt)} ms`);
      expect(ping.events.at(-1)).toMatchObject({ direct: true });
      const { stdout } = await near.run('peers', 'nearby', '--json', '--timeout', '10s');
      expect(JSON.parse(stdout).nodes).toMatchObject([{ name: 'workshop', nodeId }]);
    },
  );

  it.each<[NatKind, NatKind]>([
    ['full-cone', 'full-cone'],
    ['port-restricted', 'port-restricted'],
    ['symmetric', 'full-cone'],
  ])('a %s and a %s NAT become direct', async (left, right) => {
    await nats(left, right);
    await startRelays();
    const { port, direct } = await connect();
    await direct();
    await transfer(port, 8 * MIB);
  });

  it('two symmetric NATs stay on the relay, say why, and carry what is sent', async () => {
    await nats('symmetric', 'symmetric');
    await startRelays();
    const { forward, port, session } = await connect();
    expect(session.path).toBe('iroh-relay');
    expect(await forward.event('notice', { code: 'relayed' })).toMatchObject({ reason: 'symmetric-nat' });
    await transfer(port, 4 * MIB);
    expect(forward.events.some(({ path, event }) => event === 'path' && path === 'iroh-direct')).toBe(false);
  });

  it('without UDP the relay carries it over TCP, and says why', async () => {
    await topology.left.dropUdp(true);
    await startRelays();
    const { forward, port, session, ticket, near } = await connect();
    expect(session.path).toBe('iroh-relay');
    await transfer(port, 4 * MIB);
    expect(await forward.event('notice', { code: 'relayed' })).toMatchObject({ reason: 'no-udp' });
    const ping = near.startAs('ping', ticket, '--no-lan', ...relayFlags(), '--interval', '100ms', '--json');
    expect(await ping.exited).toBe(0);
    const [summary, notice] = ping.events.slice(-2);
    expect(summary).toMatchObject({ event: 'summary', sent: 10, received: 10, direct: false });
    expect(notice).toMatchObject({ event: 'notice', code: 'relayed', reason: 'no-udp' });
  });

  it('a direct transfer does not mind that the relays are killed', async () => {
    await nats('port-restricted', 'port-restricted');
    await startRelays();
    const { forward, port, direct } = await connect();
    await direct();
    await transfer(port, 16 * MIB, async (app) => {
      await app.whenReceived(2 * MIB, EVENT_MS);
      for (const relay of relays) relay.kill('SIGKILL');
    });
    await lasting(3000);
    await transfer(port, 2 * MIB);
    expect(forward.events.filter(({ state }) => state === 'reconnecting')).toEqual([]);
  });

  it('a relayed transfer goes on over the second relay when its own is killed for good', async () => {
    await nats('symmetric', 'symmetric');
    await startRelays();
    const { near, port } = await connect();
    const { stdout } = await near.run('status', '--json');
    const used = URLS.findIndex((url) => stdout.includes(`"remote":"${url}`));
    expect(used).toBeGreaterThanOrEqual(0);
    await transfer(port, 96 * MIB, async (app) => {
      await app.whenReceived(2 * MIB, EVENT_MS);
      const startedAt = performance.now();
      relays[used]?.kill('SIGKILL');
      const before = app.received;
      await app.until('a MiB over the second relay', 120_000, () => app.received > before + MIB);
      say(`a MiB more ${Math.round(performance.now() - startedAt)} ms after the relay was killed`);
    });
  });

  it('a node with IPv6 only and one with both are direct on one LAN, by ticket', async () => {
    await topology.leftIpv6Only();
    const far = machine(topology.left.host.namespace);
    const near = machine(topology.left.neighbour.namespace);
    const { ticket } = await far.expose('9');
    const ping = near.start('ping', ticket);
    expect(await ping.exited).toBe(0);
    expect(ping.events.at(-1)).toMatchObject({ direct: true });
    const { remote } = await ping.event('ping');
    expect(remote).toMatch(/^\[2001:db8:78:/);
  });

  it.each<NatKind>(['none', 'port-restricted'])(
    'a node with IPv6 only and one with both become direct through firewalls as of NAT %s',
    async (kind) => {
      await topology.leftIpv6Only();
      await nats(kind, kind);
      await startRelays(['[::]']);
      const { near, port, direct } = await connect(relayFlags(NAMED));
      await direct();
      await transfer(port, 8 * MIB);
      const { stdout } = await near.run('status', '--json');
      expect(stdout).toContain('"remote":"[2001:db8:79::2]:');
      expect(stdout).toContain('"family":"IPv6"');
    },
  );

  it('a node with IPv6 only and one with both reach each other by a relay where UDP is dropped', async () => {
    await topology.leftIpv6Only();
    await topology.left.dropUdp(true);
    await startRelays(['[::]']);
    const { forward, port, session } = await connect(relayFlags(NAMED));
    expect(session.path).toBe('iroh-relay');
    await transfer(port, 4 * MIB);
    expect(await forward.event('notice', { code: 'relayed' })).toMatchObject({ reason: 'no-udp' });
  });

  it('a node with IPv6 only and one with IPv4 only reach each other by a relay, and say why', async () => {
    await topology.leftIpv6Only();
    await topology.right.host.run('ip', ['-6', 'addr', 'flush', 'dev', 'net0']);
    await startRelays(['[::]']);
    const { forward, port, session } = await connect(relayFlags(NAMED));
    expect(session.path).toBe('iroh-relay');
    await transfer(port, 4 * MIB);
    expect(await forward.event('notice', { code: 'relayed' })).toMatchObject({ reason: 'no-common-family' });
  });

  it('an uplink that changes in mid-transfer loses no byte and resets no connection', async () => {
    await nats('port-restricted', 'none');
    const { forward, port } = await connect(['--no-relay']);
    await transfer(port, 24 * MIB, async (app) => {
      await app.whenReceived(4 * MIB, EVENT_MS);
      const startedAt = performance.now();
      await topology.changeUplink();
      const before = app.received;
      await app.until('a byte over the new uplink', EVENT_MS, () => app.received > before + MIB);
      say(`a MiB more ${Math.round(performance.now() - startedAt)} ms after the uplink changed`);
    });
    expect(
      forward.events.filter(({ event, reason }) => event === 'channel.close' && reason !== 'eos'),
    ).toEqual([]);
  });

  it('after a change of uplink the relay carries it at once, and a direct path is found anew', async () => {
    await nats('port-restricted', 'port-restricted');
    await startRelays();
    const { forward, port, direct } = await connect();
    await direct();
    const before = forward.events.length;
    await transfer(port, 24 * MIB, async (app) => {
      await app.whenReceived(4 * MIB, EVENT_MS);
      await topology.changeUplink();
    });
    await forward.event('path', { path: 'iroh-direct' }, before);
    expect(
      forward.events.filter(({ event, reason }) => event === 'channel.close' && reason !== 'eos'),
    ).toEqual([]);
  });

  it.each<[NatKind, boolean, string | undefined]>([
    ['none', false, undefined],
    ['port-restricted', false, undefined],
    ['symmetric', false, 'nat'],
    ['port-restricted', true, 'udp-out'],
  ])('doctor knows a network with NAT %s, UDP dropped: %s', async (kind, dropped, name) => {
    await startRelays();
    await topology.left.nat(kind);
    await topology.left.dropUdp(dropped);
    const here = machine(topology.left.host.namespace);
    const { code, stdout } = await here.run('doctor', '--json', '--no-lan', ...relayFlags());
    const checks = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { name: string; ok: boolean; detail: string });
    say(checks.map((check) => `${check.ok ? 'ok' : 'problem'} ${check.name} ${check.detail}`).join('\n'));
    expect(checks.filter(({ ok }) => !ok).map((check) => check.name)).toEqual(
      name === undefined ? [] : [name],
    );
    expect(code).toBe(name === undefined ? 0 : 69);
    const detail = (of: string) => checks.find((check) => check.name === of)?.detail ?? '';
    if (!dropped) {
      const outside = kind === 'none' ? topology.left.host.address : topology.left.publicAddress;
      expect(detail('udp-out')).toContain(`as ${outside}:`);
    }
    if (kind === 'none') expect(detail('nat')).toContain('none');
    if (kind === 'port-restricted' && !dropped) expect(detail('nat')).toContain('one port for all');
  });
});
