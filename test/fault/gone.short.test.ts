/** A forward that dies and does not come back. */
import { fileURLToPath } from 'node:url';
import { afterEach, expect, it } from 'vitest';
import { describeFaults, say } from '../support/describe-faults.js';
import { Network } from '../support/netns.js';
import { Rig } from '../support/rig.js';
import { used } from './peer.js';

const ASK = fileURLToPath(new URL('../support/ask-after-burst.js', import.meta.url));
const MIB = 1024 * 1024;
/** 4.5 s of silence, and 4.4 s of asking its machine. */
const GONE_MS = 15_000;

let rig: Rig | undefined;

afterEach(async () => {
  await rig?.dispose();
  rig = undefined;
});

describeFaults('a peer that is gone', () => {
  it('is told from a cut network also when its machine has answered as often as it does in a while', async () => {
    const network = await Network.create();
    try {
      const args = [ASK, network.far.address, '45555', String(GONE_MS)];
      expect(await network.near.run(process.execPath, args)).toBe('true');
    } finally {
      await network.dispose();
    }
  });
});

describeFaults('a forward that is killed', () => {
  it("leaves no connection of the service behind: they are reset once its machine says that it's gone", async () => {
    rig = await Rig.start();
    const idle = await used(rig);
    const download = await used(rig);
    void download.far.send(512 * MIB, { bytesPerSecond: 16 * MIB });
    await download.near.whenReceived(4 * MIB, 30_000);
    const killedAt = performance.now();
    rig.forward.kill('SIGKILL');
    for (const { far } of [idle, download]) {
      expect(await far.whenSeen(killedAt + GONE_MS - performance.now())).toBe('reset');
      expect(far.wrongAt).toBeUndefined();
    }
    say(`  the service's side reset ${Math.round(performance.now() - killedAt)} ms after the kill`);
    await rig.expose.event('session', { state: 'closed' });
    const closes = rig.expose.events.filter(({ event }) => event === 'channel.close');
    expect(closes.map(({ reason }) => reason)).toEqual(['peer-gone', 'peer-gone']);
  }, 90_000);
});
