/** Relays and look-ups of the `iroh` engine, on loopback with a relay of our own. */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { bindIroh, type IrohOptions } from '../../src/session/engines/iroh.js';
import type { IrohEndpoint } from '../../src/session/engines/iroh-network.js';
import {
  type RelayServer,
  type RelayServerOptions,
  startRelay,
} from '../../src/session/engines/iroh-relay.js';
import { Identity } from '../../src/session/identity.js';
import type { Session } from '../../src/session/session.js';
import { rejected } from '../support/errors.js';
import { checkLeaks } from '../support/leaks.js';
import { Recorder } from '../support/recorder.js';
import { next } from './session-contract.js';

checkLeaks({ timeoutMs: 5000 });

const open: { close(): Promise<void> }[] = [];

afterEach(async () => {
  for (const thing of open.splice(0).reverse()) await thing.close();
});

/** Without it there are no two sockets here that cannot reach each other. */
const ipv6 = await hasIpv6();

async function hasIpv6(): Promise<boolean> {
  try {
    await (
      await bindIroh({
        identity: Identity.generate(),
        bind: ['[::1]:0'],
        relay: 'none',
        addressLookup: false,
      })
    ).close();
    return true;
  } catch {
    return false;
  }
}

async function relayOn(options: Partial<RelayServerOptions> = {}): Promise<RelayServer> {
  const relay = await startRelay({ listen: '127.0.0.1:0', ...options });
  open.push(relay);
  return relay;
}

const urlOf = (relay: RelayServer) => `http://${relay.addresses.listen}/`;

async function bind(options: Partial<IrohOptions>): Promise<IrohEndpoint> {
  const endpoint = await bindIroh({
    identity: Identity.generate(),
    bind: ['127.0.0.1:0'],
    relay: 'none',
    addressLookup: false,
    ...options,
  });
  open.push(endpoint);
  return endpoint;
}

/** Resolves once the relays of an endpoint are as they should be. */
function homeRelays(endpoint: IrohEndpoint, as: (relay: IrohEndpoint['homeRelays'][number]) => boolean) {
  return new Promise<IrohEndpoint['homeRelays']>((resolve) => {
    const look = () => {
      if (!endpoint.homeRelays.some(as)) return;
      end();
      resolve(endpoint.homeRelays);
    };
    const end = endpoint.onHomeRelays(look);
    look();
  });
}

async function connect(from: IrohEndpoint, to: IrohEndpoint, relay: string): Promise<[Session, Session]> {
  return Promise.all([from.connect(to.nodeId, { direct: [], relays: [relay] }), next(to.incoming)]);
}

/** Sends over a stream of its own and answers what came back from the other side. */
async function echo(dialler: Session, acceptor: Session, text: string): Promise<string> {
  const near = await dialler.createBidirectionalStream();
  const back = new Recorder();
  near.receive(back.sink(near));
  near.write(null, Buffer.from(text));
  near.finish();
  const far = await next(acceptor.incomingBidirectionalStreams);
  const there = new Recorder();
  far.receive(there.sink(far));
  await there.seen('end');
  far.write(null, there.bytes);
  far.finish();
  await back.seen('end');
  return back.bytes.toString();
}

describe('iroh: a relay', { timeout: 60_000 }, () => {
  it('brings two nodes together that know no more than each other’s ID and the relay, and is left for a direct path', async () => {
    const relay = await relayOn();
    const url = urlOf(relay);
    const [from, to] = await Promise.all([bind({ relay: [url] }), bind({ relay: [url] })]);
    await Promise.all([homeRelays(from, (r) => r.connected), homeRelays(to, (r) => r.connected)]);
    expect(from.homeRelays).toEqual([{ url, connected: true }]);
    const [dialler] = await connect(from, to, url);
    const changed = new Promise<[string, string, string]>((resolve) => {
      dialler.onPathChange((path, previous, reason) => resolve([previous.kind, path.kind, reason]));
    });
    if (dialler.path.kind === 'iroh-relay') {
      expect(dialler.path.remote).toBe(url);
      expect(await changed).toEqual(['iroh-relay', 'iroh-direct', 'preferred']);
    }
    const paths = dialler.paths();
    expect(paths.filter(({ selected }) => selected)).toMatchObject([
      { kind: 'iroh-direct', remote: to.boundAddresses()[0], local: '127.0.0.1' },
    ]);
    expect(paths.find(({ kind }) => kind === 'iroh-relay')).toMatchObject({ remote: url, local: url });
    for (const { rttMs, mtu, congestionWindow, packetsSent, bytesSent } of paths) {
      for (const measured of [rttMs, mtu, congestionWindow, packetsSent, bytesSent]) {
        expect(measured).toBeGreaterThan(0);
      }
    }
    expect(relay.stats()).toMatchObject({ clients: 2, connections: 2 });
    expect(relay.stats().bytesReceived).toBeGreaterThan(0);
    dialler.close();
    await dialler.closed;
    expect(dialler.paths()).toEqual([]);
    expect(dialler.stats().packetsSent).toBeGreaterThan(0);
  });

  it.skipIf(!ipv6)(
    'carries a session that has no direct path, and one goes on when the relay is back',
    async () => {
      const first = await relayOn();
      const url = urlOf(first);
      const relayed = { relay: [url] };
      const from = await bind({ bind: ['127.0.0.1:0'], ...relayed });
      const to = await bind({ bind: ['[::1]:0'], ...relayed });
      await Promise.all([homeRelays(from, (r) => r.connected), homeRelays(to, (r) => r.connected)]);
      const [dialler, acceptor] = await connect(from, to, url);
      expect(await echo(dialler, acceptor, 'over the relay')).toBe('over the relay');
      expect(dialler.paths()).toMatchObject([
        { kind: 'iroh-relay', selected: true, packetsLost: expect.any(Number) },
      ]);
      await first.close();
      await homeRelays(from, (r) => !r.connected);
      const second = await relayOn({ listen: first.addresses.listen });
      await Promise.all([homeRelays(from, (r) => r.connected), homeRelays(to, (r) => r.connected)]);
      expect(await echo(dialler, acceptor, 'and on')).toBe('and on');
      expect(second.stats().packetsSent).toBeGreaterThan(0);
    },
  );

  it.skipIf(!ipv6)('carries no more of one client than its limit', async () => {
    const bytesPerSecond = 200_000;
    const relay = await relayOn({ clientBytesPerSecond: bytesPerSecond });
    const url = urlOf(relay);
    const [from, to] = await Promise.all([
      bind({ bind: ['127.0.0.1:0'], relay: [url] }),
      bind({ bind: ['[::1]:0'], relay: [url] }),
    ]);
    await Promise.all([homeRelays(from, (r) => r.connected), homeRelays(to, (r) => r.connected)]);
    const [dialler, acceptor] = await connect(from, to, url);
    const text = 'x'.repeat(2 * bytesPerSecond);
    const startedAt = performance.now();
    expect(await echo(dialler, acceptor, text)).toBe(text);
    // Each side sends it once. What the limit lets through at once, a tenth of a second's, is not held back.
    expect(performance.now() - startedAt).toBeGreaterThan(2 * 1600);
  });

  it('lets in only who is on its list, which can change, and says so to who is not', async () => {
    const guest = Identity.generate();
    const relay = await relayOn({ allowed: [guest.nodeId] });
    const url = urlOf(relay);
    const welcome = await bind({ identity: guest, relay: [url] });
    await homeRelays(welcome, (r) => r.connected);
    const stranger = await bind({ relay: [url] });
    const [refused] = await homeRelays(stranger, (r) => r.denied !== undefined);
    expect(refused).toMatchObject({ url, connected: false, denied: "this node is not on the relay's list" });
    relay.setAllowed([stranger.nodeId]);
    await homeRelays(welcome, (r) => r.denied !== undefined);
    await homeRelays(stranger, (r) => r.connected);
    relay.setAllowed(undefined);
    await homeRelays(welcome, (r) => r.connected);
    expect(relay.stats().clients).toBe(2);
  });

  it('lets in an endpoint that a node on its list vouches for, and throws both out together', async () => {
    const member = Identity.generate();
    const relay = await relayOn({ allowed: [member.nodeId] });
    const url = urlOf(relay);
    const guest = await bind({ relay: [url], vouchedBy: member });
    await homeRelays(guest, (r) => r.connected);
    const crasher = await bind({ relay: [url], vouchedBy: Identity.generate() });
    await homeRelays(crasher, (r) => r.denied !== undefined);
    relay.setAllowed([]);
    await homeRelays(guest, (r) => r.denied !== undefined);
  });

  it('tells a node what the network is like', async () => {
    const url = urlOf(await relayOn());
    const endpoint = await bind({ relay: [url] });
    const report = await endpoint.networkReport();
    // Without TLS there is no address discovery over UDP.
    expect(report).toMatchObject({ udpV4: false, udpV6: false, preferredRelay: url });
    expect(report.relays).toEqual([{ url, probe: 'https', latencyMs: expect.any(Number) }]);
  });

  it('has no report for who does not wait, nor for who has no relay', async () => {
    const endpoint = await bind({});
    const gaveUp = new AbortController();
    const waiting = rejected(endpoint.networkReport({ signal: gaveUp.signal }));
    gaveUp.abort();
    expect((await waiting).code).toBe('ABORTED');
    const closing = rejected(endpoint.networkReport());
    await endpoint.close();
    expect((await closing).code).toBe('ABORTED');
  });

  it('gives its port back when it is closed, and names one that is taken', async () => {
    const relay = await relayOn();
    const { listen } = relay.addresses;
    expect((await rejected(startRelay({ listen }))).code).toBe('PORT_IN_USE');
    expect((await rejected(startRelay({ listen: '192.0.2.1:0' }))).code).toBe('CANNOT_BIND');
    await relay.close();
    await relay.close();
    expect(await relay.ended).toBeUndefined();
    expect((await relayOn({ listen })).addresses.listen).toBe(listen);
  });
});

describe('iroh: a relay with a certificate', { timeout: 60_000 }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'tunnel-relay-'));
  const [key, certificate] = [join(folder, 'key.pem'), join(folder, 'cert.pem')];
  const openssl = hasOpenssl();

  function hasOpenssl(): boolean {
    try {
      execFileSync(
        'openssl',
        [
          ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'],
          ...['-keyout', key, '-out', certificate, '-days', '2', '-subj', '/CN=relay.test'],
          ...['-addext', 'subjectAltName=IP:127.0.0.1', '-addext', 'basicConstraints=critical,CA:FALSE'],
        ],
        { stdio: 'ignore' },
      );
      return true;
    } catch {
      return false;
    }
  }

  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it.skipIf(!openssl)('serves those who trust it, by TLS, and tells their address over QUIC', async () => {
    const relay = await relayOn({ tls: { certificate, key }, http: '127.0.0.1:0', quic: '127.0.0.1:7842' });
    expect(relay.addresses.http).toMatch(/^127\.0\.0\.1:\d+$/);
    const url = `https://${relay.addresses.listen}/`;
    const [trusting, wary] = await Promise.all([
      bind({ relay: [url], relayRoots: readFileSync(certificate, 'utf8') }),
      bind({ relay: [url] }),
    ]);
    await homeRelays(trusting, (r) => r.connected);
    const report = await trusting.networkReport();
    expect(report).toMatchObject({ udpV4: true, publicV4: trusting.boundAddresses()[0] });
    expect(report.relays.map(({ probe }) => probe)).toContain('udp4');
    expect(relay.stats().addressDiscoveries).toBeGreaterThan(0);
    expect(wary.homeRelays.some(({ connected }) => connected)).toBe(false);
  });

  it.skipIf(!openssl)('asks the ACME directory that it is told of', async () => {
    let tell!: (url: string) => void;
    const asked = new Promise<string>((resolve) => {
      tell = resolve;
    });
    const files = { cert: readFileSync(certificate), key: readFileSync(key) };
    const directory = createServer(files, (request, response) => {
      tell(request.url ?? '');
      response.writeHead(503).end();
    });
    await once(directory.listen(0, '127.0.0.1'), 'listening');
    const { port } = directory.address() as AddressInfo;
    const relay = await relayOn({
      tls: {
        domains: ['relay.test'],
        directory: `https://127.0.0.1:${port}/directory`,
        contact: ['admin@relay.test'],
        folder: join(folder, 'acme'),
        roots: readFileSync(certificate, 'utf8'),
      },
    });
    expect(await asked).toBe('/directory');
    await relay.close();
    directory.closeAllConnections();
    directory.close();
    await once(directory, 'close');
  });

  it('names files that hold none, as BAD_CERTIFICATE', async () => {
    const missing = { certificate: join(folder, 'none.pem'), key: join(folder, 'none.key') };
    expect((await rejected(startRelay({ listen: '127.0.0.1:0', tls: missing }))).code).toBe(
      'BAD_CERTIFICATE',
    );
    const error = await rejected(bind({ relayRoots: '-----BEGIN CERTIFICATE-----\nnonsense' }));
    expect(error.code).toBe('CANNOT_BIND');
  });
});

describe('iroh: addresses told by hand', () => {
  it('lead to a node whose ID alone is dialled', async () => {
    const [from, to] = await Promise.all([bind({}), bind({})]);
    const unknown = await rejected(from.connect(to.nodeId, { direct: [], relays: [] }));
    expect(unknown.code).toBe('UNREACHABLE');
    from.addAddresses(to.nodeId, { direct: to.boundAddresses(), relays: [] });
    const [session] = await Promise.all([
      from.connect(to.nodeId, { direct: [], relays: [] }),
      next(to.incoming),
    ]);
    expect(session.path).toMatchObject({ kind: 'iroh-direct', remote: to.boundAddresses()[0] });
  });
});
