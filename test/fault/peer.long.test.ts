/** Processes that stop, start in any order, and end while there is no path. */
import { afterEach, expect, it } from 'vitest';
import { describeFaults, lasting, say } from '../support/describe-faults.js';
import { Network } from '../support/netns.js';
import { OVER_WEBTRANSPORT, Rig } from '../support/rig.js';
import { sha256 } from '../support/sockets.js';
import { throughRelay } from '../support/spawn-relay.js';
import { Machine, type TunnelProcess } from '../support/tunnel-process.js';
import { exchange, expectNoFalseEnd, used, works } from './peer.js';

const MIB = 1024 * 1024;
const cleanups: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function start(...args: Parameters<typeof Rig.start>): Promise<Rig> {
  const rig = await Rig.start(...args);
  cleanups.push(() => rig.dispose());
  return rig;
}

describeFaults('a process that is stopped for 30 s', () => {
  it.each([
    ['the peer', (rig: Rig) => rig.expose],
    ['the forward itself', (rig: Rig) => rig.forward],
  ])(
    '%s: transfers resume or are reset, and none ends that was not ended',
    async (_who, which) => {
      const rig = await start();
      const idle = await used(rig);
      const download = await used(rig);
      const upload = await used(rig);
      void download.far.send(512 * MIB, { bytesPerSecond: 64 * MIB }).then(() => download.far.finish());
      void upload.near.send(512 * MIB, { bytesPerSecond: 64 * MIB }).then(() => upload.near.finish());
      await download.near.whenReceived(16 * MIB, 30_000);
      await upload.far.whenReceived(16 * MIB, 30_000);
      which(rig).kill('SIGSTOP');
      await lasting(30_000);
      which(rig).kill('SIGCONT');
      const outcomes = await Promise.all([download.near.whenSeen(120_000), upload.far.whenSeen(120_000)]);
      say(`  download ${outcomes[0]}, upload ${outcomes[1]}, idle ${idle.near.seen}`);
      for (const { near, far } of [idle, download, upload]) {
        expectNoFalseEnd(near, far);
        expectNoFalseEnd(far, near);
      }
      await works(rig);
    },
    240_000,
  );
});

describeFaults('a peer that is killed for 40 s', () => {
  it('holds what was opened meanwhile, resets what it carried, and serves again', async () => {
    const rig = await start();
    const old = await used(rig);
    const mark = rig.mark;
    await rig.killExpose();
    // Before that it would go to the one that is dead, which nobody can tell from one that read it.
    await rig.session('reconnecting', mark);
    const held = await rig.connect();
    void held.near.send(64 * 1024).then(() => held.near.finish());
    await lasting(40_000);
    expect(rig.forward.child.exitCode).toBeNull();
    await rig.restartExpose();
    expect(await old.near.whenSeen(20_000)).toBe('reset');
    const far = await rig.arrival(held, 20_000);
    void far.send(64 * 1024).then(() => far.finish());
    expect(await held.near.whenSeen(20_000)).toBe('end');
    expect(await far.whenSeen(20_000)).toBe('end');
    expectNoFalseEnd(held.near, far);
    expectNoFalseEnd(far, held.near);
    await works(rig);
  }, 120_000);
});

describeFaults('a peer that is started again on another port', () => {
  it('is found where the ticket knows the port', async () => {
    const port = 45_454;
    const rig = await start({
      ticket: async (ticket, { far }) => `${ticket}&addr=${far.address}:${port}`,
    });
    const old = await used(rig);
    const download = await used(rig);
    void download.far.send(512 * MIB, { bytesPerSecond: 16 * MIB });
    await download.near.whenReceived(4 * MIB, 30_000);
    await rig.killExpose();
    const held = await rig.connect();
    await rig.restartExpose('--bind', `0.0.0.0:${port}`);
    const restartedAt = performance.now();
    for (const { near } of [old, download]) {
      expect(await near.whenSeen(20_000)).toBe('reset');
      expect(near.wrongAt).toBeUndefined();
    }
    await works(rig);
    say(`  works on the other port ${Math.round(performance.now() - restartedAt)} ms after its start`);
    // It went to the one that was dead, or was held: reset, or served.
    const far = await Promise.race([held.far, held.near.whenSeen(20_000)]);
    if (typeof far === 'string') expect(far).toBe('reset');
    else await exchange(held.near, far);
  }, 120_000);
});

describeFaults('a forward that is killed behind a NAT', () => {
  it('leaves the connections of the service waiting for --resume-timeout, and then they are reset', async () => {
    const rig = await start({
      exposeFlags: ['--resume-timeout', '10s'],
      ticket: async (printed, network) =>
        (await throughRelay(printed, network, { bytesPerSecond: 40_000_000, delayMs: 5 })).ticket,
    });
    const { far } = await used(rig);
    const killedAt = performance.now();
    rig.forward.kill('SIGKILL');
    expect(await far.whenSeen(30_000)).toBe('reset');
    const took = performance.now() - killedAt;
    say(`  reset ${Math.round(took)} ms after the kill`);
    // Silence of 4.5 s, and 10 s of waiting: nobody said that it was gone.
    expect(took).toBeGreaterThan(10_000);
    const close = await rig.expose.event('channel.close');
    expect(close.reason).toBe('resume-expired');
    await rig.expose.event('session', { state: 'closed' });
  }, 90_000);
});

describeFaults('a NAT that refuses for 12 s', () => {
  it('is not taken for a peer that has ended: what was open goes on afterwards', async () => {
    const rig = await start({
      ticket: async (printed, network) =>
        (await throughRelay(printed, network, { bytesPerSecond: 40_000_000, delayMs: 5 })).ticket,
    });
    const { near, far } = await used(rig);
    const mark = rig.mark;
    const refuse = ['INPUT', '-p', 'udp', '-j', 'REJECT', '--reject-with', 'icmp-port-unreachable'];
    await rig.network.router.run('iptables', ['-w', '-I', ...refuse]);
    // Longer than it takes to find a process gone.
    await lasting(12_000);
    await rig.network.router.run('iptables', ['-w', '-D', ...refuse]);
    await rig.session('connected', mark);
    await exchange(near, far);
    expect([near.seen, far.seen]).toEqual(['open', 'open']);
  }, 90_000);
});

describeFaults('both sides started without any network', () => {
  it.each([
    ['the forward first', true],
    ['the expose first', false],
  ])(
    '%s: they wait, and connect when the network comes',
    async (_order, forwardFirst) => {
      const network = await Network.create();
      cleanups.push(() => network.dispose());
      const options = { bind: 'any', eventTimeoutMs: 60_000 };
      const far = new Machine({ ...options, namespace: network.far.namespace });
      const near = new Machine({ ...options, namespace: network.near.namespace });
      cleanups.push(
        () => far.dispose(),
        () => near.dispose(),
      );
      const listener = await network.far.listen((socket) => socket.pipe(socket));
      // Once with a network, for a ticket that says where the peer will be.
      const first = await far.expose(`svc=${listener.port}`);
      first.process.kill('SIGTERM');
      expect(await first.process.exited).toBe(0);
      await network.near.leaveNetwork();
      await network.far.leaveNetwork();
      const startForward = async (): Promise<TunnelProcess> => {
        const process = near.start('forward', first.ticket, '0:svc');
        await process.event('session', { state: 'reconnecting' });
        return process;
      };
      let forward: TunnelProcess;
      let expose: TunnelProcess;
      if (forwardFirst) {
        forward = await startForward();
        expose = (await far.expose(`svc=${listener.port}`)).process;
      } else {
        expose = (await far.expose(`svc=${listener.port}`)).process;
        forward = await startForward();
      }
      const held = await network.near.dial(await forward.listeningPort());
      const data = Buffer.from('held '.repeat(1000));
      held.end(data);
      await network.far.joinNetwork();
      await network.near.joinNetwork();
      const joinedAt = performance.now();
      await forward.event('session', { state: 'connected' });
      say(`  connected ${Math.round(performance.now() - joinedAt)} ms after the network came`);
      const got: Buffer[] = [];
      for await (const chunk of held) got.push(chunk as Buffer);
      expect(sha256(Buffer.concat(got))).toBe(sha256(data));
      expect([forward.child.exitCode, expose.child.exitCode]).toEqual([null, null]);
      await listener.close();
    },
    120_000,
  );
});

describeFaults('SIGINT during an outage', () => {
  it.each([
    ['forward', (rig: Rig) => rig.forward, {}],
    ['expose', (rig: Rig) => rig.expose, {}],
    ['forward over WebTransport', (rig: Rig) => rig.forward, OVER_WEBTRANSPORT],
    ['expose over WebTransport', (rig: Rig) => rig.expose, OVER_WEBTRANSPORT],
  ] as const)(
    '%s ends within its 10 s of grace, with 130, and resets what is left',
    async (_name, which, options) => {
      const rig = await start(options);
      const { near, far } = await used(rig);
      const mark = rig.mark;
      await rig.network.cut();
      await rig.session('reconnecting', mark);
      const askedAt = performance.now();
      which(rig).kill('SIGINT');
      expect(await which(rig).exited).toBe(130);
      const took = performance.now() - askedAt;
      say(`  ended after ${(took / 1000).toFixed(1)} s`);
      // There is nobody to say goodbye to. The rest is the end of a process on a busy machine.
      expect(took).toBeLessThan(11_000);
      const own = which(rig) === rig.forward ? near : far;
      expect(await own.whenSeen(5_000)).toBe('reset');
    },
    90_000,
  );
});
