/** A peer that dies and is started again, and an end that is asked for while the path is gone. */
import { afterEach, expect, it } from 'vitest';
import { AT_ONCE_MS } from '../support/at-once.js';
import { describeFaults, say } from '../support/describe-faults.js';
import { Rig } from '../support/rig.js';
import { used, works } from './peer.js';

const MIB = 1024 * 1024;
/** From the kill to the last reset. */
const DETECTED_MS = 10_000;

let rig: Rig;

afterEach(() => rig.dispose());

describeFaults('a peer that is killed', () => {
  it('and started again: its connections are reset within 10 s, new ones work without any command', async () => {
    rig = await Rig.start();
    const idle = await used(rig);
    const download = await used(rig);
    // Slow enough to be under way for as long as it takes.
    void download.far.send(512 * MIB, { bytesPerSecond: 16 * MIB });
    const upload = await used(rig);
    void upload.near.send(512 * MIB, { bytesPerSecond: 16 * MIB });
    await download.near.whenReceived(4 * MIB, 30_000);
    await upload.far.whenReceived(4 * MIB, 30_000);
    const mark = rig.mark;
    const killedAt = performance.now();
    await rig.killExpose();
    await rig.restartExpose();
    for (const { near } of [idle, download, upload]) {
      expect(await near.whenSeen(killedAt + DETECTED_MS - performance.now())).toBe('reset');
      expect(near.wrongAt).toBeUndefined();
    }
    say(`  reset ${Math.round(performance.now() - killedAt)} ms after the kill`);
    await works(rig);
    const reasons = rig.forward.events
      .slice(mark)
      .filter(({ event, reason }) => event === 'channel.close' && reason !== 'eos')
      .map(({ reason }) => reason);
    expect(reasons).toEqual(['peer-restarted', 'peer-restarted', 'peer-restarted']);
    expect(await rig.forward.event('resume', {}, mark)).toMatchObject({ resumed: 0, lost: 3 });
  }, 90_000);
});

describeFaults('two signals during an outage', () => {
  it('end the forward at once, with 130, and reset what it carried', async () => {
    rig = await Rig.start();
    const { near, far } = await used(rig);
    await rig.network.cut();
    rig.forward.kill('SIGINT');
    await works130(rig);
    expect(await near.whenSeen(2_000)).toBe('reset');
    expect(far.seen).toBe('open');
  }, 60_000);
});

/** The second signal, once the first one has closed the listener. */
async function works130(one: Rig): Promise<void> {
  await expect
    .poll(() =>
      one.network.near.dial(one.port).then(
        (socket) => socket.destroy(),
        (error) => error.code,
      ),
    )
    .toBe('ECONNREFUSED');
  const askedAt = performance.now();
  one.forward.kill('SIGINT');
  expect(await one.forward.exited).toBe(130);
  expect(performance.now() - askedAt).toBeLessThan(AT_ONCE_MS);
}
