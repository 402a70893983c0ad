/** Big transfers over a path that keeps failing: every byte once, in order. */
import type { ChildProcess } from 'node:child_process';
import { afterEach, expect, it } from 'vitest';
import { describeFaults, lasting, say } from '../support/describe-faults.js';
import type { Network } from '../support/netns.js';
import type { Party } from '../support/party.js';
import { Schedule } from '../support/random.js';
import { Rig, type RigOptions } from '../support/rig.js';
import { throughRelay } from '../support/spawn-relay.js';

const MIB = 1024 * 1024;
const SEED = Number(process.env.FAULT_SEED ?? Math.floor(Math.random() * 2 ** 31));

let rig: Rig | undefined;

afterEach(async () => {
  await rig?.dispose();
  rig = undefined;
});

/** A tunnel with one connection through it. */
async function begin(options: RigOptions = {}): Promise<{ network: Network; near: Party; far: Party }> {
  rig = await Rig.start(options);
  return { network: rig.network, ...(await rig.connected()) };
}

function expectSame(receiver: Party, sender: Party, bytes: number): void {
  expect(receiver.wrongAt, 'first wrong byte').toBeUndefined();
  expect(receiver.received).toBe(bytes);
  expect(receiver.receivedSha256).toBe(sender.sentSha256);
}

describeFaults('transfers', () => {
  it('1 GiB with cuts of 50 to 500 ms at random has the same SHA-256', async () => {
    const { network, near, far } = await begin();
    near.finish();
    void far.send(1024 * MIB).then(() => far.finish());
    const schedule = new Schedule(SEED);
    let cuts = 0;
    const done = near.whenSeen(580_000);
    const startedAt = performance.now();
    while (near.seen === 'open' && performance.now() - startedAt < 570_000) {
      await Promise.race([done, lasting(schedule.between(50, 500))]);
      await network.cut();
      await lasting(schedule.between(50, 500));
      await network.mend();
      cuts += 1;
    }
    expect(await done).toBe('end');
    say(`  1 GiB with ${cuts} cuts in ${seconds(startedAt)} s, seed ${SEED}`);
    expectSame(near, far, 1024 * MIB);
  }, 620_000);

  it('256 MiB each way at once with cuts of 1 to 9 s has the same SHA-256 each way', async () => {
    const { network, near, far } = await begin();
    const sizes = 256 * MIB;
    // Slow enough that the cuts fall into it.
    const pace = { bytesPerSecond: 12 * MIB };
    void near.send(sizes, pace).then(() => near.finish());
    void far.send(sizes, pace).then(() => far.finish());
    const schedule = new Schedule(SEED + 1);
    const done = Promise.all([near.whenSeen(290_000), far.whenSeen(290_000)]);
    done.catch(() => undefined);
    for (let cuts = 0; cuts < 6 && near.seen === 'open'; cuts += 1) {
      const goal = Math.min(sizes, near.received + 8 * MIB);
      await near.whenReceived(goal, 60_000);
      await network.cut();
      await lasting(schedule.between(1_000, 9_000));
      await network.mend();
    }
    expect(await done).toEqual(['end', 'end']);
    expectSame(near, far, sizes);
    expectSame(far, near, sizes);
  }, 320_000);

  it('a forward whose address changes 3 times goes on', async () => {
    const { network, near, far } = await begin();
    near.finish();
    void far.send(256 * MIB, { bytesPerSecond: 16 * MIB }).then(() => far.finish());
    for (let changes = 0; changes < 3; changes += 1) {
      await near.whenReceived(near.received + 16 * MIB, 60_000);
      await network.near.changeAddress();
      const at = near.received;
      const changedAt = performance.now();
      // More than can have been under way.
      await near.whenReceived(at + 8 * MIB, 60_000);
      say(`  on the new address ${seconds(changedAt)} s later`);
    }
    expect(await near.whenSeen(120_000)).toBe('end');
    expectSame(near, far, 256 * MIB);
  }, 300_000);

  it('an expose whose address changes is found again, or what it carried is reset', async () => {
    const { network, near, far } = await begin();
    near.finish();
    void far.send(64 * MIB, { bytesPerSecond: 8 * MIB }).then(() => far.finish());
    await near.whenReceived(8 * MIB, 60_000);
    await network.far.changeAddress();
    const seen = await near.whenSeen(120_000);
    say(`  the service's address changed: ${seen}, ${near.received} bytes`);
    if (seen === 'end') expectSame(near, far, 64 * MIB);
    expect(near.wrongAt).toBeUndefined();
  }, 180_000);

  it('128 MiB arrive through 10 % loss', async () => {
    const { network, near, far } = await begin();
    near.finish();
    await network.lose(10);
    void far.send(128 * MIB).then(() => far.finish());
    const startedAt = performance.now();
    expect(await near.whenSeen(280_000)).toBe('end');
    say(`  128 MiB through 10 % loss in ${seconds(startedAt)} s`);
    expectSame(near, far, 128 * MIB);
  }, 300_000);

  it('a NAT that forgets the forward 5 times in mid-transfer stops nothing', async () => {
    let nat: ChildProcess | undefined;
    const ticket = async (printed: string, network: Network) => {
      const led = await throughRelay(printed, network, { bytesPerSecond: 40_000_000, delayMs: 5 });
      nat = led.child;
      return led.ticket;
    };
    const { near, far } = await begin({ ticket });
    const pace = { bytesPerSecond: 8 * MIB };
    void near.send(96 * MIB, pace).then(() => near.finish());
    void far.send(96 * MIB, pace).then(() => far.finish());
    for (let changes = 0; changes < 5; changes += 1) {
      await near.whenReceived(near.received + 8 * MIB, 60_000);
      nat?.kill('SIGUSR2');
      const at = near.received;
      const changedAt = performance.now();
      // More than can have been under way.
      await near.whenReceived(at + 4 * MIB, 60_000);
      say(`  through the new mapping ${seconds(changedAt)} s later`);
    }
    expect(await near.whenSeen(120_000)).toBe('end');
    expect(await far.whenSeen(120_000)).toBe('end');
    expectSame(near, far, 96 * MIB);
    expectSame(far, near, 96 * MIB);
  }, 300_000);

  it('a slow line (2 MB/s, 80 ms round trip) with cuts carries both ways', async () => {
    let relay: ChildProcess | undefined;
    const ticket = async (printed: string, network: Network) => {
      const led = await throughRelay(printed, network, { bytesPerSecond: 2_000_000, delayMs: 40 });
      relay = led.child;
      return led.ticket;
    };
    const { near, far } = await begin({ ticket });
    void near.send(24 * MIB).then(() => near.finish());
    void far.send(24 * MIB).then(() => far.finish());
    for (const cutMs of [1_000, 7_000, 12_000]) {
      await near.whenReceived(near.received + 2 * MIB, 60_000);
      // Stopped, it carries nothing; its socket's buffer is small beside what is dropped.
      relay?.kill('SIGSTOP');
      await lasting(cutMs);
      relay?.kill('SIGCONT');
    }
    expect(await near.whenSeen(120_000)).toBe('end');
    expect(await far.whenSeen(120_000)).toBe('end');
    expectSame(near, far, 24 * MIB);
    expectSame(far, near, 24 * MIB);
  }, 240_000);
});

function seconds(since: number): string {
  return ((performance.now() - since) / 1000).toFixed(1);
}
