/** Waiting has an end, and then it is a reset, on both sides, whichever side's patience is the shorter. */
import { afterEach, expect, it } from 'vitest';
import { channelsClosed } from '../support/channel-counts.js';
import { describeFaults, lasting } from '../support/describe-faults.js';
import { Rig, type RigOptions } from '../support/rig.js';
import { used, works } from './peer.js';

const MIB = 1024 * 1024;

let rig: Rig;

afterEach(() => rig.dispose());

async function start(options: RigOptions): Promise<Rig> {
  rig = await Rig.start(options);
  return rig;
}

describeFaults('--resume-timeout 5s', () => {
  it.each([
    ['of the forward', { forwardFlags: ['--resume-timeout', '5s'] }],
    ['of the expose', { exposeFlags: ['--resume-timeout', '5s'] }],
    ['of both', { forwardFlags: ['--resume-timeout', '5s'], exposeFlags: ['--resume-timeout', '5s'] }],
  ])(
    '%s: an outage of 25 s resets what it carried, in mid-transfer too, and nothing looks complete',
    async (_whose, options) => {
      await start(options);
      const idle = await used(rig);
      const download = await used(rig);
      void download.far.send(512 * MIB, { bytesPerSecond: 32 * MIB }).then(() => download.far.finish());
      await download.near.whenReceived(8 * MIB, 30_000);
      await rig.network.cut();
      await lasting(25_000);
      await rig.network.mend();
      for (const party of [idle.near, idle.far, download.near, download.far]) {
        expect(await party.whenSeen(30_000), `${party}`).toBe('reset');
        expect(party.wrongAt).toBeUndefined();
      }
      await works(rig);
      await channelsClosed([rig.forward, rig.expose]);
      for (const process of [rig.forward, rig.expose]) {
        const closes = process.events.filter(({ event }) => event === 'channel.close');
        // And the one that showed that it works.
        expect(closes.map(({ reason }) => reason).sort()).toEqual([
          'eos',
          'resume-expired',
          'resume-expired',
        ]);
      }
    },
    150_000,
  );
});

describeFaults('--reconnect-timeout 10s', () => {
  it('ends the forward with 69 when there was no session for so long, and resets what waited', async () => {
    await start({ forwardFlags: ['--reconnect-timeout', '10s'] });
    const { near } = await used(rig);
    await rig.network.cut();
    const held = await rig.connect();
    expect(await rig.forward.exited).toBe(69);
    expect(rig.forward.stderr + rig.forward.stdout).toContain('UNREACHABLE');
    expect(await near.whenSeen(5_000)).toBe('reset');
    expect(await held.near.whenSeen(5_000)).toBe('reset');
  }, 90_000);
});
