/** What `tunnel doctor` makes of what it finds. */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { type AddressInfo, createServer } from 'node:net';
import { describe, expect, it } from 'vitest';
import {
  CHECK_NAMES,
  type Check,
  checkJson,
  checkLines,
  doctorExitCode,
  failed,
  fine,
  problem,
  skipped,
  summaryLine,
} from '../../src/cli/doctor/check.js';
import {
  checkDns,
  checkFamily,
  checkLan,
  checkLoopback,
  checkMdns,
  checkNat,
  checkPortal,
  checkRelays,
  checkUdpOut,
  dnsHost,
  type Findings,
} from '../../src/cli/doctor/network.js';
import { probeRelay, udpRoundTrip } from '../../src/cli/doctor/network-probes.js';
import {
  checkAddresses,
  checkAdmissionError,
  checkDialError,
  checkPing,
  checkReach,
} from '../../src/cli/doctor/peer.js';
import { checkAddon, checkNode, checkWebTransport } from '../../src/cli/doctor/program.js';
import { probeQuic } from '../../src/cli/doctor/quic-probe.js';
import { addressesIn, lookUp } from '../../src/cli/doctor/resolve.js';
import {
  checkBuffers,
  checkClock,
  checkDescriptors,
  checkLastPort,
  checkPort,
  checkProxy,
  parseLocalPort,
} from '../../src/cli/doctor/system.js';
import type { Environment, Relays } from '../../src/cli/proxy.js';
import { TunnelError } from '../../src/error.js';
import type { NetworkReport } from '../../src/session/engines/iroh-network.js';
import type { NodeId } from '../../src/session/node-id.js';
import { thrown } from '../support/errors.js';
import { checkLeaks } from '../support/leaks.js';

const ID = 'ab'.repeat(32) as NodeId;

/** `ok`, `skipped`, or the exit code of a problem, which has a fix. */
function verdict(check: Check | undefined): string | number | undefined {
  if (!check) return undefined;
  if (check.ok) return check.detail.startsWith('skipped: ') ? 'skipped' : 'ok';
  expect(check.fix, check.name).toBeTruthy();
  return check.exit;
}

describe('a line', () => {
  const checks = [
    fine('node', 'good'),
    fine('clock', 'good', 'more'),
    skipped('nat', 'why'),
    problem('port', 'bad', 'do', 'port'),
  ];

  it('has exactly the fields that scripts know', () => {
    expect(checks.map(checkJson)).toEqual([
      { event: 'check', name: 'node', ok: true, detail: 'good' },
      { event: 'check', name: 'clock', ok: true, detail: 'good', fix: 'more' },
      { event: 'check', name: 'nat', ok: true, detail: 'skipped: why' },
      { event: 'check', name: 'port', ok: false, detail: 'bad', fix: 'do' },
    ]);
  });

  it('begins with its verdict, and has its fix below', () => {
    expect(checks.flatMap(checkLines).map((line) => line.replace(/ +/g, ' '))).toEqual([
      'ok node good',
      'ok clock good',
      ' better: more',
      'skipped nat why',
      'problem port bad',
      ' fix: do',
    ]);
  });

  it('never passes on what a terminal would obey', () => {
    expect(checkLines(problem('relay', 'a\u001b[2J', 'b\u0007', 'network')).join()).not.toMatch(/\p{Cc}/u);
  });

  it('counts, and the first problem gives the exit code', () => {
    expect(summaryLine(checks)).toBe('4 checks, 1 problem');
    expect(summaryLine(checks.slice(0, 3))).toBe('3 checks, no problem');
    expect(doctorExitCode(checks.slice(0, 3))).toBe(0);
    expect(doctorExitCode([...checks, problem('keys', '', 'x', 'config')])).toBe(73);
    expect(
      doctorExitCode([failed('keys', new TunnelError('BAD_STATE', 'x', { hint: 'y' })), ...checks]),
    ).toBe(78);
  });
});

/** A table of docs/networking.md: its rows by the names in the first cell. */
function documented(heading: string): Map<string, readonly string[]> {
  const docs = readFileSync(new URL('../../docs/networking.md', import.meta.url), 'utf8');
  const [, table = ''] = docs.split(`\n| ${heading} |`);
  const rows = new Map<string, readonly string[]>();
  for (const line of table.split('\n').slice(2)) {
    if (!line.startsWith('| ')) break;
    // A bar within a cell is written `\|`.
    const [names = '', ...cells] = line.slice(2, -2).split(/ \| | \|$/);
    for (const [, name] of names.matchAll(/`([^`]+)`/g)) rows.set(name as string, cells);
  }
  return rows;
}

describe('docs/networking.md', () => {
  const isPeers = (name: string) => name.startsWith('peer-');

  it('has a row for every line, in their order, and none besides', () => {
    expect([...documented('check').keys()]).toEqual(CHECK_NAMES.filter((name) => !isPeers(name)));
    expect([...documented('layer').keys()]).toEqual(CHECK_NAMES.filter(isPeers));
  });

  it('says what to do about every problem', () => {
    for (const [name, [problem = '', fix = '']] of [...documented('check'), ...documented('layer')]) {
      expect(
        [problem, fix].map((cell) => cell.trim() !== ''),
        name,
      ).toEqual([true, !problem.startsWith('none')]);
    }
  });
});

describe('the program', () => {
  const range = '^20.20.0 || ^22.12.0 || >=24';
  it.each([
    ['20.20.0', 'ok'],
    ['20.20.2', 'ok'],
    ['20.19.9', 71],
    ['21.7.0', 71],
    ['22.11.0', 71],
    ['22.12.0', 'ok'],
    ['22.20.1', 'ok'],
    ['23.5.0', 71],
    ['24.0.0', 'ok'],
    ['26.1.0', 'ok'],
  ])('Node %s is %s', (version, expected) => {
    expect(verdict(checkNode(version, range))).toBe(expected);
  });

  it('says what the addon is, or how to get it', async () => {
    const build = { version: '0.1.0', iroh: '1.4.1', target: 'x86_64-unknown-linux-gnu', sourceHash: '' };
    expect(await checkAddon(async () => build)).toMatchObject({
      ok: true,
      detail: expect.stringContaining('1.4.1'),
    });
    const missing = await checkAddon(async () => {
      throw new TunnelError('ENGINE_UNAVAILABLE', 'There is no prebuilt iroh engine', { hint: 'build it' });
    });
    expect([verdict(missing), missing.fix]).toEqual([71, 'build it']);
  });

  it('says how WebTransport can be had', async () => {
    expect((await checkWebTransport(async () => ({ http3: false }))).detail).toBe('by HTTP/2');
    const broken = await checkWebTransport(async () => {
      throw new TunnelError('ENGINE_UNAVAILABLE', 'it cannot be loaded');
    });
    expect([verdict(broken), broken.fix]).toEqual([71, 'run: npm ci']);
  });
});

describe('the system', () => {
  checkLeaks();

  it.each([
    [undefined, 'skipped'],
    [64, 71],
    [1023, 71],
    [1024, 'ok'],
  ])('%s open files are %s', (limit, expected) => {
    expect(verdict(checkDescriptors(limit, 33))).toBe(expected);
  });

  it('buffers of what was asked for are good, those of a stock Linux could be better, tiny ones are a problem', () => {
    const asked = 4 * 1024 * 1024;
    expect(checkBuffers({ asked, given: asked })).not.toHaveProperty('fix');
    const stock = checkBuffers({ asked, given: 212_992 }, 'linux');
    expect([verdict(stock), stock.fix]).toEqual(['ok', expect.stringContaining('net.core.rmem_max')]);
    expect(verdict(checkBuffers({ asked, given: 65_536 }, 'darwin'))).toBe(71);
  });

  const now = Date.UTC(2026, 5, 1);
  const even = { now, wallMs: 5000, monotonicMs: 5001 };
  const from = 'https://relay.example.org/';
  it.each([
    [even, 'ok', 'nobody to compare'],
    [{ ...even, remote: { from, aheadMs: 800 } }, 'ok', 'agrees'],
    [{ ...even, remote: { from, aheadMs: 3_600_000 } }, 71, '3600 s behind'],
    [{ ...even, remote: { from, aheadMs: -90_000 } }, 71, '90 s ahead of'],
    [{ ...even, wallMs: 3_605_000 }, 71, 'jumped by 3600.0 s'],
    [{ ...even, now: 86_400_000 }, 71, '1970'],
  ])('a clock as %j is %s', (clock, expected, words) => {
    const check = checkClock(clock);
    expect(verdict(check)).toBe(expected);
    expect(check.detail).toContain(words);
  });

  it.each([
    ['15432', { protocol: 'tcp', host: '127.0.0.1', port: 15432 }],
    ['5353/udp', { protocol: 'udp', host: '127.0.0.1', port: 5353 }],
    ['0.0.0.0:80/tcp', { protocol: 'tcp', host: '0.0.0.0', port: 80 }],
    ['[::1]:53/udp', { protocol: 'udp', host: '::1', port: 53 }],
  ])('--port %s is understood', (text, expected) => {
    expect(parseLocalPort(text)).toEqual(expected);
  });

  it.each(['', '0', '65536', 'http', '::1:80', 'localhost:80', '80/sctp'])('--port %j is not', (text) => {
    expect(thrown(() => parseLocalPort(text)).code).toBe('USAGE');
  });

  it('knows a port that is in use from one that is free, and an address that is not here', async () => {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const tcp = { protocol: 'tcp', host: '127.0.0.1', port } as const;
    expect(verdict(await checkPort(tcp))).toBe(73);
    server.close();
    await once(server, 'close');
    expect(verdict(await checkPort(tcp))).toBe('ok');
    const socket = createSocket('udp4').bind(0, '127.0.0.1');
    await once(socket, 'listening');
    expect(verdict(await checkPort({ ...tcp, protocol: 'udp', port: socket.address().port }))).toBe(73);
    socket.close();
    await once(socket, 'close');
    expect(verdict(await checkPort({ ...tcp, host: '192.0.2.77' }))).toBe(73);
  });

  it('knows whose the port is that an identity was last reached on', async () => {
    const socket = createSocket('udp4').bind(0, '0.0.0.0');
    await once(socket, 'listening');
    const { port } = socket.address();
    const taken = await checkLastPort(port, 'stale');
    expect([verdict(taken), taken.fix]).toEqual(['ok', expect.stringContaining(`sport = :${port}`)]);
    expect((await checkLastPort(port, 4711)).detail).toContain('the process 4711');
    socket.close();
    await once(socket, 'close');
    const free = await checkLastPort(port, undefined);
    expect([verdict(free), free.fix]).toEqual(['ok', undefined]);
    expect(verdict(await checkLastPort(undefined, undefined))).toBe('skipped');
  });

  const reached = async () => undefined;
  const refused = async () => {
    throw Object.assign(new Error(), { code: 'ECONNREFUSED' });
  };
  const RELAYS = ['https://a.test', 'https://b.test'];
  it.each([
    [{}, 'default', reached, 'ok', 'none is set'],
    [{ NO_PROXY: '*', ALL_PROXY: 'socks5://x' }, 'default', reached, 78, "the kind 'socks5'"],
    [{ https_proxy: 'http://me:secret@proxy:3128' }, 'default', reached, 'ok', 'through proxy:3128'],
    [{ HTTP_PROXY: 'http://a:1', HTTPS_PROXY: 'http://b:2' }, 'default', reached, 'ok', 'HTTPS_PROXY'],
    [{ HTTP_PROXY: 'http://proxy:3128' }, 'default', refused, 69, 'ECONNREFUSED'],
    [{ HTTP_PROXY: 'http://proxy:3128' }, 'none', refused, 'ok', 'nothing uses it'],
    [{ https_proxy: 'http://p:1', no_proxy: 'iroh.link' }, 'default', refused, 'ok', 'excludes every relay'],
    [
      { https_proxy: 'http://p:1', no_proxy: 'a.test' },
      RELAYS,
      reached,
      'ok',
      'also those that no_proxy names',
    ],
    [
      { https_proxy: 'http://p:1', ALL_PROXY: 'socks5://x' },
      RELAYS,
      reached,
      'ok',
      'ALL_PROXY names a proxy of',
    ],
    [{ HTTP_PROXY: 'http://pro xy' }, 'default', reached, 78, 'no URL'],
    [{ HTTPS_PROXY: 'socks5://proxy:1080' }, 'default', reached, 78, 'socks5'],
  ] satisfies [Environment, Relays, () => Promise<void>, string | number, string][])(
    'proxies as in %j for relays %j',
    async (env, relays, reach, expected, words) => {
      const check = await checkProxy({ env, relays, reach });
      expect(verdict(check)).toBe(expected);
      expect(check.detail).toContain(words);
      expect(JSON.stringify(check)).not.toContain('secret');
    },
  );
});

describe('the network', () => {
  checkLeaks();
  const url = 'https://relay.example.org/';
  const report: NetworkReport = {
    udpV4: true,
    udpV6: false,
    publicV4: '203.0.113.7:41000',
    preferredRelay: url,
    relays: [
      { url, probe: 'https', latencyMs: 31 },
      { url, probe: 'udp4', latencyMs: 12.34 },
    ],
  };
  const found = (some: Partial<Findings>): Findings => ({
    waitedMs: 5000,
    relays: 'default',
    report: undefined,
    homeRelays: [],
    probes: [],
    proxied: false,
    ...some,
  });
  const offline = found({});
  const without = found({ relays: 'none' });
  const unreached = found({ relays: [url], probes: [{ url, error: 'ECONNREFUSED' }] });

  it('is no problem where there is none, unless a relay was asked for', () => {
    const noName = { host: 'dns.iroh.link', addresses: [], error: 'ENOTFOUND' };
    const all = (findings: Findings) =>
      [
        checkDns(noName, findings),
        ...checkRelays(findings, ID),
        checkUdpOut(findings),
        checkNat(findings, []),
      ].map(verdict);
    expect(all(offline)).toEqual(['skipped', 'skipped', 'skipped', 'skipped']);
    expect(all(without)).toEqual(['skipped', 'skipped', 'skipped', 'skipped']);
    expect(all(unreached)).toEqual([69, 69, 'skipped', 'skipped']);
  });

  it('a public relay that answers has a round trip, the best one', () => {
    const [check] = checkRelays(found({ report, homeRelays: [{ url, connected: true }] }), ID);
    expect([verdict(check), check?.detail]).toEqual(['ok', `${url}, round trip 12.3 ms`]);
  });

  it.each([
    [{ homeRelays: [{ url, connected: true }] }, 'ok', 'connected'],
    [{ probes: [{ url: 'https://relay.example.org', rttMs: 40 }] }, 'ok', '40 ms'],
    [{ probes: [{ url, rttMs: 40 }], proxied: true }, 69, 'no answer within 5 s'],
    [{ probes: [{ url, error: 'SELF_SIGNED_CERT_IN_CHAIN' }] }, 69, 'SELF_SIGNED'],
    [{ homeRelays: [{ url, connected: false, denied: 'not on the list' }], report }, 69, 'not on the list'],
  ])('a relay that was named, with %j, is %s', (some, expected, words) => {
    const [check] = checkRelays(found({ relays: [url], ...some }), ID);
    expect(verdict(check)).toBe(expected);
    expect(check?.detail).toContain(words);
    if (words === 'SELF_SIGNED') expect(check?.fix).toContain('NODE_EXTRA_CA_CERTS');
    if (words === 'not on the list') expect(check?.fix).toContain(`--allow ${ID}`);
  });

  it('has a line for each relay that was named', () => {
    const other = 'http://192.0.2.1:3340';
    const checks = checkRelays(
      found({ relays: [url, other], report, probes: [{ url: other, error: 'ETIMEDOUT' }] }),
      ID,
    );
    expect(checks.map(verdict)).toEqual(['ok', 69]);
  });

  it.each<[Partial<NetworkReport>, string | number]>([
    [{}, 'ok'],
    [{ udpV4: false, udpV6: true }, 'ok'],
    [{ udpV4: false }, 69],
    // A plain relay could not have answered.
    [{ udpV4: false, relays: [{ url: 'http://r', probe: 'https', latencyMs: 1 }] }, 'skipped'],
    [{ udpV4: false, relays: [] }, 'skipped'],
  ])('UDP with %j is %s', (some, expected) => {
    expect(verdict(checkUdpOut(found({ report: { ...report, ...some } })))).toBe(expected);
  });

  it.each<[Partial<NetworkReport>, string, string | number]>([
    [{}, '10.0.0.2', 'skipped'],
    [{}, '203.0.113.7', 'ok'],
    [{ variesByDestinationV4: false }, '10.0.0.2', 'ok'],
    [{ variesByDestinationV4: true }, '10.0.0.2', 69],
    [{ variesByDestinationV4: false, variesByDestinationV6: true }, '10.0.0.2', 69],
    [{ relays: [] }, '10.0.0.2', 'skipped'],
  ])('a NAT with %j, seen from %s, is %s', (some, address, expected) => {
    const addresses = [{ address, family: 4 }] as const;
    expect(verdict(checkNat(found({ report: { ...report, ...some } }), addresses))).toBe(expected);
  });

  it('that wants a sign-in says so, and only then', () => {
    expect(checkPortal(found({ report })).map(verdict)).toEqual([]);
    expect(checkPortal(found({ report: { ...report, captivePortal: true } })).map(verdict)).toEqual([69]);
  });

  it('looks up the name that matters', () => {
    expect(dnsHost('none')).toBeUndefined();
    expect(dnsHost('default')).toBe('dns.iroh.link');
    expect(dnsHost(['http://10.0.0.1:3340', 'https://relay.example.org:444/'])).toBe('relay.example.org');
    expect(dnsHost(['http://[::1]:3340'])).toBeUndefined();
  });

  it('a name that cannot be looked up is a problem where there is a network, and no proxy to do it', () => {
    const failedLookup = { host: 'relay.example.org', addresses: [], error: 'EAI_AGAIN' };
    expect(verdict(checkDns(failedLookup, found({ report })))).toBe(69);
    expect(verdict(checkDns(failedLookup, found({ relays: [url], proxied: true })))).toBe('skipped');
    expect(verdict(checkDns({ ...failedLookup, addresses: ['192.0.2.1'], error: undefined }, offline))).toBe(
      'ok',
    );
    expect(
      verdict(checkDns({ ...failedLookup, host: undefined, error: undefined }, found({ relays: [url] }))),
    ).toBe('skipped');
  });

  it('asks name servers, and the file of hosts before them, within the time', async () => {
    const server = createSocket('udp4').bind(0, '127.0.0.1');
    await once(server, 'listening');
    const servers = [`127.0.0.1:${server.address().port}`];
    const silent = await lookUp('relay.example.org', { timeoutMs: 300, servers });
    expect(silent).toMatchObject({ addresses: [], error: 'no answer within 0.3 s' });
    // The question with one answer (A, 192.0.2.9) or none: 0x8180, and the name pointed to.
    server.on('message', (question, { port, address }) => {
      const isA = question.readUInt16BE(question.length - 4) === 1;
      const end = question.indexOf(Buffer.from([0, 0, isA ? 1 : 28, 0, 1]), 12) + 5;
      const answer = Buffer.from(isA ? 'c00c00010001000000010004c0000209' : '', 'hex');
      const reply = Buffer.concat([question.subarray(0, end), answer]);
      reply.writeUInt16BE(0x8180, 2);
      reply.writeUInt16BE(isA ? 1 : 0, 6);
      reply.writeUInt32BE(0, 8);
      server.send(reply, port, address);
    });
    expect(await lookUp('relay.example.org', { timeoutMs: 5000, servers })).toMatchObject({
      addresses: ['192.0.2.9'],
      error: undefined,
    });
    server.close();
    await once(server, 'close');
    expect(
      addressesIn('# x\n127.0.0.1 localhost Relay.Test # relay\n::1 relay.test\n', 'relay.test'),
    ).toEqual(['127.0.0.1', '::1']);
    expect(addressesIn('127.0.0.1 localhost # relay', 'relay')).toEqual([]);
  });

  it('tells its addresses by family', () => {
    const many = [1, 2, 3, 4, 5].map((last) => ({ address: `10.0.0.${last}`, family: 4 }) as const);
    expect(checkFamily(4, many, '203.0.113.7:4').detail).toBe(
      '10.0.0.1, 10.0.0.2, 10.0.0.3 and 2 more; seen outside as 203.0.113.7:4',
    );
    expect(verdict(checkFamily(6, many, undefined))).toBe('skipped');
  });

  it('judges packets to itself', async () => {
    expect(verdict(checkLoopback(await udpRoundTrip('127.0.0.1')))).toBe('ok');
    expect(verdict(checkLoopback('EPERM'))).toBe(71);
    expect(verdict(checkLan([]))).toBe('skipped');
    expect(verdict(checkLan([['10.0.0.2', undefined]]))).toBe('ok');
    const half = checkLan([
      ['10.0.0.2', undefined],
      ['10.0.1.2', await udpRoundTrip('192.0.2.77')],
    ]);
    expect([verdict(half), half.detail]).toEqual([
      71,
      'packets do not reach this machine at 10.0.1.2: EADDRNOTAVAIL',
    ]);
  });

  it('judges mDNS', () => {
    const works = { ipv4: undefined, ipv6: undefined };
    const good = { startError: undefined, multicast: works, nearby: [] };
    const node = (name?: string) => ({ nodeId: ID, name, hints: { direct: [], relays: [] } });
    expect(verdict(checkMdns({ ...good, multicast: undefined }))).toBe('skipped');
    expect(verdict(checkMdns({ ...good, startError: 'no multicast' }))).toBe(69);
    expect(checkMdns({ ...good, multicast: { ...works, ipv6: 'ENODEV' } }).detail).toMatch(
      /^multicast works by IPv4;/,
    );
    expect(verdict(checkMdns({ ...good, multicast: { ...works, ipv4: 'EPERM' } }))).toBe(69);
    // Only then the engine asks by IPv6.
    const noRoute = { ...works, ipv4: 'ENETUNREACH' };
    expect(checkMdns({ ...good, multicast: noRoute }).detail).toMatch(/^multicast works by IPv6;/);
    const neither = checkMdns({ ...good, multicast: { ...noRoute, ipv6: 'ENODEV' } });
    expect([verdict(neither), neither.fix]).toEqual([
      69,
      expect.stringContaining('ip route add 224.0.0.0/4'),
    ]);
    expect(checkMdns({ ...good, nearby: [node('x'), node()] }).detail).toContain(
      '2 other nodes seen, 1 under a name',
    );
  });

  it('asks a relay, and knows what is none', async () => {
    const answers = { '/ping': 200 } as Readonly<Record<string, number>>;
    let wanted = answers;
    const server = createHttpServer((request, response) => {
      response.writeHead(wanted[request.url as string] ?? 404, {
        date: new Date(Date.now() + 60_000).toUTCString(),
      });
      response.end('x');
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const probe = await probeRelay(base, 5000);
    expect(probe).toEqual({ url: base, rttMs: expect.any(Number), aheadMs: expect.any(Number) });
    expect(Math.abs((probe.aheadMs as number) - 60_000)).toBeLessThan(2000);
    wanted = {};
    expect((await probeRelay(base, 5000)).error).toContain('HTTP 404');
    server.close();
    await once(server, 'close');
    expect(await probeRelay(base, 5000)).toEqual({ url: base, error: 'ECONNREFUSED' });
  });

  it('gives up on a relay that takes the connection and says nothing', async () => {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const taken = once(server, 'connection');
    expect(await probeRelay(base, 300)).toEqual({ url: base, error: 'no answer within 0.3 s' });
    const [socket] = await taken;
    socket.destroy();
    server.close();
    await once(server, 'close');
  });
});

describe('the way to a peer', () => {
  checkLeaks();
  const nowhere = { direct: [], relays: [], webtransport: 0, isNearby: false };
  const flags = { 'no-relay': true, dns: true, dht: false, relay: undefined };
  const at = '192.0.2.1:4433';

  it('needs an address, or somebody who may know one', () => {
    expect(verdict(checkAddresses(nowhere, flags))).toBe(69);
    expect(checkAddresses(nowhere, { ...flags, 'no-relay': false }).detail).toContain("iroh's DNS may know");
    expect(verdict(checkAddresses(nowhere, { ...flags, 'no-relay': false, dns: false }))).toBe(69);
    expect(checkAddresses(nowhere, { ...flags, dht: true }).detail).toContain('the DHT');
    expect(checkAddresses({ ...nowhere, direct: [at], isNearby: true }, flags).detail).toBe(
      `${at}; seen on the local network`,
    );
  });

  it('asks an address whether QUIC is there, and believes nothing else', async () => {
    const silent = createSocket('udp4').bind(0, '127.0.0.1');
    await once(silent, 'listening');
    const address = `127.0.0.1:${silent.address().port}`;
    // It answers, but not with what a QUIC server answers to this greeting.
    silent.on('message', (message, { port, address: host }) => silent.send(message, port, host));
    expect(await probeQuic(address)).toEqual({ address, result: 'silent' });
    silent.close();
    await once(silent, 'close');
    expect(await probeQuic(address)).toEqual({ address, result: 'refused' });
  });

  it('stops at UDP where nothing answers and no connection came about', () => {
    const probe = (result: 'answers' | 'refused' | 'silent') => ({ address: at, result });
    expect(verdict(checkReach([], false))).toBe('skipped');
    expect(verdict(checkReach([probe('answers'), probe('silent')], false))).toBe('ok');
    expect(verdict(checkReach([probe('silent')], true))).toBe('ok');
    expect(checkReach([probe('refused')], false).fix).toContain('start tunnel expose');
    expect(checkReach([probe('refused'), probe('silent')], false).fix).toContain('firewall');
  });

  it('stops at the connection: another version, another key, or nobody', () => {
    const unreachable = new TunnelError('UNREACHABLE', 'no answer');
    const version = new TunnelError('VERSION', 'x', { hint: 'install the same' });
    expect(verdict(checkDialError(version, [], 1000))).toBe(76);
    const other = checkDialError(unreachable, [{ address: at, result: 'answers' }], 1000);
    expect([verdict(other), other.fix]).toEqual([69, expect.stringContaining('another key')]);
    const late = checkDialError(new TunnelError('ABORTED', 'cancelled'), [], 3000);
    expect([verdict(late), late.detail]).toEqual([69, 'no connection within 3 s']);
  });

  it('stops at admission: denied, undecided, another version', () => {
    const denied = new TunnelError('DENIED', 'the peer is not allowed to connect');
    const late = new TunnelError('ABORTED', 'cancelled');
    const side = { isPending: false, nodeId: ID, hasToken: true };
    const no = checkAdmissionError(denied, side);
    expect([verdict(no), no.fix]).toEqual([
      77,
      `use the newest ticket, or on the peer: tunnel peers allow ${ID}`,
    ]);
    expect(verdict(checkAdmissionError(denied, { ...side, isPending: true }))).toBe(77);
    const undecided = checkAdmissionError(late, { ...side, isPending: true });
    expect([verdict(undecided), undecided.detail]).toEqual([69, expect.stringContaining('has not decided')]);
    expect(verdict(checkAdmissionError(new TunnelError('VERSION', 'x', { hint: 'y' }), side))).toBe(76);
  });

  it('stops at round trips that are not answered', () => {
    const none = { sent: 3, received: 0, direct: false, rttMs: undefined, error: undefined };
    expect(verdict(checkPing(none))).toBe(69);
    expect(verdict(checkPing({ ...none, error: new TunnelError('SESSION_LOST', 'lost') }))).toBe(69);
    expect(verdict(checkPing({ ...none, received: 2, rttMs: { min: 1, p50: 2, max: 3 } }))).toBe('ok');
  });
});
