/** A forward that dies and does not come back. */
import { afterEach, expect, it } from 'vitest';
import { describeFaults, say } from '../support/describe-faults.js';
import { Rig } from '../support/rig.js';
import { used } from './peer.js';

const MIB = 1024 * 1024;
/** 4.5 s of silence and 3 s of asking its machine, on a machine that may be busy; without asking it is 15 minutes. */
const GONE_MS = 40_000;

let rig: Rig;

afterEach(() => rig.dispose());

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
