/** `tunnel doctor` with real faults: what it says, what it ends with, and that it changes nothing. */
import { once } from 'node:events';
import { chmodSync, existsSync, readdirSync } from 'node:fs';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { CHECK_NAMES } from '../../src/cli/doctor/check.js';
import { bindIroh } from '../../src/session/engines/iroh.js';
import { encodeFrame, FrameType } from '../../src/session/frame.js';
import { encodeHello } from '../../src/session/hello.js';
import { Identity } from '../../src/session/identity.js';
import { formatTicket } from '../../src/session/ticket.js';
import { eventually } from '../support/eventually.js';
import { Network, namespacesMissing } from '../support/netns.js';
import { type JsonEvent, Machine, type MachineOptions } from '../support/tunnel-process.js';

const UNIX = process.platform !== 'win32';
/** Those that are always there. */
const LOCAL = CHECK_NAMES.filter((name) => !/^(?:peer-.*|endpoint|captive-portal)$/.test(name));

let far: Machine;
let near: Machine;

beforeEach(() => {
  far = new Machine();
  near = new Machine();
});

afterEach(async () => {
  await near.dispose();
  await far.dispose();
});

interface Diagnosis {
  readonly code: number | null;
  readonly checks: readonly JsonEvent[];
  /** The last line of that name. */
  check(name: string): JsonEvent;
}

/** Runs it to its end, with `--json`; everything it prints is a check. */
async function doctor(
  machine: Machine,
  args: readonly string[],
  options: MachineOptions = {},
): Promise<Diagnosis> {
  const { code, stdout, stderr } = await machine.runUnder(options, 'doctor', '--json', ...args);
  expect(stderr).toBe('');
  const checks = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as JsonEvent);
  for (const check of checks) {
    expect(check).toMatchObject({ event: 'check', name: expect.any(String), detail: expect.any(String) });
    if (!check.ok) expect(check.fix, `fix of ${check.name}`).toEqual(expect.any(String));
  }
  return {
    code,
    checks,
    check: (name) => checks.findLast((check) => check.name === name) as JsonEvent,
  };
}

const ALONE = ['--no-relay', '--bind', '127.0.0.1'];
const onlyProblem = ({ checks }: Diagnosis) => checks.filter(({ ok }) => !ok).map(({ name }) => name);

describe('tunnel doctor', () => {
  it('has a line for everything, in a fixed order, and makes no file', async () => {
    const diagnosis = await doctor(near, ALONE);
    expect([diagnosis.code, onlyProblem(diagnosis)]).toEqual([0, []]);
    expect(diagnosis.checks.map(({ name }) => name)).toEqual(LOCAL);
    for (const name of ['dns', 'relay', 'udp-out', 'nat', 'mdns'])
      expect(diagnosis.check(name).detail).toMatch(/^skipped: /);
    expect(existsSync(join(near.home, 'config'))).toBe(false);
    expect(existsSync(join(near.home, 'runtime'))).toBe(false);
  });

  it('says the same to people, with a word for each', async () => {
    const { code, stdout, stderr } = await near.run('doctor', ...ALONE, '--port', '1');
    const lines = stdout.trimEnd().split('\n');
    expect([code, stderr]).toEqual([0, '']);
    expect(lines[0]).toMatch(/^ok {7}node {13}\d+\.\d+/);
    expect(lines).toContainEqual(expect.stringMatching(/^skipped {2}relay {12}--no-relay$/));
    expect(lines.at(-1)).toBe(`${LOCAL.length} checks, no problem`);
  });

  it.runIf(UNIX)('78 for a key and a book that others can read, naming both', async () => {
    await near.nodeId();
    await near.run('peers', 'add', 'ada', Identity.generate().nodeId);
    const [key, book] = ['identities/default.key', 'peers.toml'].map((file) =>
      join(near.home, 'config', 'tunnel', file),
    ) as [string, string];
    chmodSync(book, 0o644);
    const one = await doctor(near, ALONE);
    expect([one.code, onlyProblem(one)]).toEqual([78, ['peers-book']]);
    expect(one.check('peers-book')).toMatchObject({ fix: `run: chmod 600 '${book}'` });
    chmodSync(key, 0o640);
    const two = await doctor(near, ALONE);
    expect([two.code, onlyProblem(two)]).toEqual([78, ['keys', 'peers-book']]);
    expect(two.check('keys')).toMatchObject({
      detail: expect.stringContaining('mode 0640'),
      fix: `run: chmod 600 '${key}'`,
    });
    chmodSync(key, 0o600);
    chmodSync(book, 0o600);
    expect((await doctor(near, ALONE)).check('keys').detail).toContain('default (');
  });

  it('73 for a port that is taken, and what it is not used for stays as it is', async () => {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const diagnosis = await doctor(near, [...ALONE, '--port', String(port), '--port', `${port}/udp`]);
    expect([diagnosis.code, onlyProblem(diagnosis)]).toEqual([73, ['port']]);
    expect(diagnosis.checks.filter(({ name }) => name === 'port').map(({ ok }) => ok)).toEqual([false, true]);
    server.close();
  });

  it.runIf(UNIX).each([1000, 256])('71 where only %i files may be open', async (openFiles) => {
    const diagnosis = await doctor(near, ALONE, { openFiles });
    expect([diagnosis.code, onlyProblem(diagnosis)[0]]).toEqual([71, 'open-files']);
    expect(diagnosis.check('open-files')).toMatchObject({
      detail: expect.stringContaining(`${openFiles} at most`),
      fix: expect.stringContaining('ulimit -n'),
    });
  });

  it.each([
    [['--port', 'http'], "'http'"],
    [['--relay', 'relay'], "'relay'"],
    [['--timeout', 'soon'], "'soon'"],
    [['--bind', 'here'], "'here'"],
  ])('64 for %j', async (args, token) => {
    const { code, stdout, stderr } = await near.run('doctor', ...args);
    expect([code, stdout, stderr.trim().split('\n').length]).toEqual([64, '', 1]);
    expect(stderr).toContain(token);
  });

  it('tells of running processes, of one that hangs, and of what a killed one left', async () => {
    const { process: expose } = await near.expose('8080');
    const running = await doctor(near, ALONE);
    expect([running.code, running.check('processes').detail]).toEqual([0, `${expose.pid} expose (default)`]);
    expect(running.check('identity-lock').detail).toContain(`in use by the process ${expose.pid}`);
    expose.kill('SIGSTOP');
    const hung = await doctor(near, ALONE);
    expect([hung.code, onlyProblem(hung)]).toEqual([71, ['processes']]);
    expect(hung.check('processes').fix).toContain(`kill ${expose.pid}`);
    expose.kill('SIGKILL');
    await expose.exited;
    const left = await doctor(near, ALONE);
    expect(left.code).toBe(0);
    expect(left.check('identity-lock').detail).toContain('died');
    expect(left.check('runtime').detail).toContain(`stale sockets of ${expose.pid}`);
    expect(readdirSync(join(near.home, 'runtime', 'tunnel'))).toContain(`${expose.pid}.sock`);
  });
});

describe('tunnel doctor and relays', () => {
  const alone = ['--bind', '127.0.0.1', '--no-lan'];

  it('69 at once for one that refuses, after the time for one that says nothing', async () => {
    const sockets: Socket[] = [];
    const silent = createServer((socket) => sockets.push(socket)).listen(0, '127.0.0.1');
    await once(silent, 'listening');
    const url = `http://127.0.0.1:${(silent.address() as AddressInfo).port}`;
    const nothing = await doctor(near, [...alone, '--relay', url]);
    expect([nothing.code, onlyProblem(nothing)]).toEqual([69, ['relay']]);
    expect(nothing.check('relay').detail).toContain('no answer within 5 s');
    for (const socket of sockets) socket.destroy();
    silent.close();
    await once(silent, 'close');
    const refused = await doctor(near, [...alone, '--relay', url]);
    expect([refused.code, refused.check('relay').detail]).toEqual([
      69,
      expect.stringContaining('ECONNREFUSED'),
    ]);
  });

  it('knows one that is there, takes its clock, and says when it does not let this identity in', async () => {
    const nodeId = await near.nodeId();
    const relay = far.startAs(
      'relay',
      '--listen',
      '127.0.0.1:0',
      '--allow',
      Identity.generate().nodeId,
      '--json',
    );
    const open = far.startAs('relay', '--listen', '127.0.0.1:0', '--allow', nodeId, '--json');
    const [closedUrl, openUrl] = [(await relay.event('ready')).url, (await open.event('ready')).url] as [
      string,
      string,
    ];
    const good = await doctor(near, [...alone, '--relay', openUrl]);
    expect([good.code, onlyProblem(good)]).toEqual([0, []]);
    expect(good.check('relay').detail).toMatch(/round trip \d/);
    expect(good.check('clock').detail).toContain('agrees with http://127.0.0.1');
    const bad = await doctor(near, [...alone, '--relay', closedUrl]);
    expect([bad.code, onlyProblem(bad)]).toEqual([69, ['relay']]);
    expect(bad.check('relay').fix).toContain(`--allow ${nodeId}`);
  });
});

describe('tunnel doctor --peer', () => {
  it('goes through every layer', async () => {
    const { ticket } = await far.expose('8080');
    const diagnosis = await doctor(near, [...ALONE, '--peer', ticket]);
    expect([diagnosis.code, onlyProblem(diagnosis)]).toEqual([0, []]);
    expect(diagnosis.checks.slice(LOCAL.length).map(({ name }) => name)).toEqual(
      CHECK_NAMES.filter((name) => name.startsWith('peer-')),
    );
    expect(diagnosis.check('peer-udp').detail).toMatch(/^127\.0\.0\.1:\d+ answers$/);
    expect(diagnosis.check('peer-services').detail).toBe('8080');
    expect(diagnosis.check('peer-path').detail).toMatch(/^direct, iroh-direct, 127\.0\.0\.1:/);
    expect(JSON.stringify(diagnosis.checks)).not.toContain(/token=([^&]+)/.exec(ticket)?.[1]);
  });

  /** The last line, and that it is the only problem. */
  async function stops(peer: string, ...flags: string[]): Promise<{ code: number | null; last: JsonEvent }> {
    const diagnosis = await doctor(near, [...ALONE, '--peer', peer, '--timeout', '3s', ...flags]);
    const last = diagnosis.checks.at(-1) as JsonEvent;
    expect(onlyProblem(diagnosis)).toEqual([last.name]);
    return { code: diagnosis.code, last };
  }

  it('64 for what is no peer', async () => {
    expect(await stops('nobody-of-that-name')).toMatchObject({ code: 64, last: { name: 'peer-id' } });
  });

  it('69 where nothing says where it is', async () => {
    const { code, last } = await stops(Identity.generate().nodeId);
    expect([code, last.name]).toEqual([69, 'peer-addresses']);
  });

  it('69 where its program has ended', async () => {
    const { process: expose, ticket } = await far.expose('8080');
    expose.kill('SIGKILL');
    await expose.exited;
    const { code, last } = await stops(ticket);
    expect([code, last.name, last.detail]).toEqual([
      69,
      'peer-udp',
      expect.stringContaining('nobody listens'),
    ]);
  });

  it('69 where another node has its address', async () => {
    const { ticket, nodeId } = await far.expose('8080');
    const { code, last } = await stops(ticket.replace(nodeId, Identity.generate().nodeId));
    expect([code, last.name, last.fix]).toEqual([
      69,
      'peer-connection',
      expect.stringContaining('another key'),
    ]);
  });

  it('77 where it denies, with the line that would let this side in', async () => {
    const { ticket } = await far.expose('8080');
    const nodeId = await near.nodeId();
    const { code, last } = await stops(ticket.replace(/token=[^&]*/, `token=${'A'.repeat(22)}`));
    expect([code, last.name, last.fix]).toEqual([
      77,
      'peer-admission',
      expect.stringContaining(`tunnel peers allow ${nodeId}`),
    ]);
  });

  it('69 where somebody is asked and does not decide', async () => {
    const { ticket } = await far.expose('8080', '--ask');
    const { code, last } = await stops(ticket.replace(/&token=[^&]*/, ''));
    expect([code, last.name, last.detail]).toEqual([
      69,
      'peer-admission',
      expect.stringContaining('not decided'),
    ]);
  });

  it('76 where it speaks another version', async () => {
    const identity = Identity.generate();
    const future = await bindIroh({ identity, bind: ['127.0.0.1:0'], relay: 'none', addressLookup: false });
    const serving = (async () => {
      for await (const session of future.incoming) {
        for await (const stream of session.incomingBidirectionalStreams) {
          const hello = {
            major: 2,
            minor: 3,
            instanceId: 'cd'.repeat(16),
            identity: identity.nodeId,
            supported: [],
            required: [],
          };
          stream.write(null, encodeFrame(0, FrameType.HELLO, encodeHello(hello)));
        }
      }
    })();
    const ticket = formatTicket({ nodeId: identity.nodeId, ...future.addresses(), token: undefined });
    const { code, last } = await stops(ticket);
    expect([code, last.name, last.detail]).toEqual([
      76,
      'peer-admission',
      expect.stringContaining('tunnel/2.3'),
    ]);
    await future.close();
    await serving;
  });

  it('says why where only a relay leads to it', async () => {
    const relay = far.startAs('relay', '--listen', '127.0.0.1:0', '--json');
    const { url } = (await relay.event('ready')) as unknown as { url: string };
    // The two have no address family in common.
    const expose = far.startAs('expose', '9', '--bind', '127.0.0.1', '--relay', url, '--json');
    const ticket = (await expose.event('ready')).ticket as string;
    const diagnosis = await doctor(near, ['--bind', '::1', '--relay', url, '--peer', ticket]);
    expect([diagnosis.code, onlyProblem(diagnosis)]).toEqual([69, ['peer-path']]);
    expect(diagnosis.check('peer-path').detail).toMatch(/^through a relay, iroh-relay, http:/);
    expect(diagnosis.check('peer-udp').ok).toBe(true);
  });
});

describe.skipIf(namespacesMissing)('tunnel doctor without internet', () => {
  let network: Network;

  beforeAll(async () => {
    network = await Network.create();
    // The kernel tells of a carrier some time after it is there, and without one there is no address to see.
    const isUp = async () =>
      (await network.near.run('ip', ['-br', 'link', 'show', 'net0'])).includes('LOWER_UP');
    expect(await eventually(isUp, 10_000)).toBe(true);
  });

  afterAll(() => network.dispose());

  it('finds no fault with public relays that cannot be reached, and does not wait for them', async () => {
    const machine = new Machine({ namespace: network.near.namespace });
    const diagnosis = await doctor(machine, []);
    expect([diagnosis.code, onlyProblem(diagnosis)]).toEqual([0, []]);
    expect(diagnosis.check('ipv4').detail).toBe(network.near.address);
    expect(diagnosis.check('relay').detail).toMatch(/^skipped: no public relay/);
    expect(diagnosis.check('mdns').detail).toContain('multicast works');
    await machine.dispose();
  });

  it('finds a peer of the same network by its node ID alone', async () => {
    const [there, here] = [0, 1].map(
      () => new Machine({ namespace: network.near.namespace, bind: 'any' }),
    ) as [Machine, Machine];
    const { nodeId } = await there.expose('8080', '--announce', 'workshop');
    const self = await here.nodeId();
    await there.run('peers', 'allow', self, '--all', '--name', 'eve');
    const diagnosis = await doctor(here, ['--no-relay', '--peer', nodeId]);
    expect([diagnosis.code, onlyProblem(diagnosis)]).toEqual([0, []]);
    expect(diagnosis.check('mdns').detail).toContain('1 other node seen, 1 under a name');
    expect(diagnosis.check('peer-addresses').detail).toContain('seen on the local network');
    await here.dispose();
    await there.dispose();
  });

  it('69 where a firewall drops what the peer is sent', async () => {
    const [there, here] = [network.far, network.near].map(
      ({ namespace }) => new Machine({ namespace, bind: 'any' }),
    ) as [Machine, Machine];
    const { ticket } = await there.expose('8080');
    await network.cut();
    const diagnosis = await doctor(here, ['--no-relay', '--peer', ticket, '--timeout', '3s']);
    expect([diagnosis.code, onlyProblem(diagnosis)]).toEqual([69, ['peer-udp']]);
    expect(diagnosis.check('peer-udp')).toMatchObject({
      detail: expect.stringContaining('no answer'),
      fix: expect.stringContaining('firewall'),
    });
    await network.mend();
    await here.dispose();
    await there.dispose();
  });
});
