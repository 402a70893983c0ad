/** Runs the monkey and says how to do it again. */
import { expect } from 'vitest';
import { channelsClosed } from '../support/channel-counts.js';
import { say } from '../support/describe-faults.js';
import { Rig, type RigOptions } from '../support/rig.js';
import { type MonkeyOptions, runMonkey } from './monkey.js';

export async function monkeyTest(options: MonkeyOptions, on: RigOptions = {}): Promise<void> {
  const { seed, seconds, connections } = options;
  const again = `MONKEY_SEED=${seed} MONKEY_SECONDS=${seconds} npm run test:faults -- monkey.long`;
  say(`  monkey: seed ${seed}, ${seconds} s, ${connections} connections; again: ${again}`);
  const rig = await Rig.start({ ...on, seed: `monkey ${seed}` });
  try {
    const report = await runMonkey(rig, options);
    const mebibytes = Math.round(report.bytes / 1024 / 1024);
    say(
      `  ${report.connections} connections, ${mebibytes} MiB, ${report.resets} reset on purpose, ${report.faults.length} faults`,
    );
    if (report.violations.length > 0) {
      say(report.faults.map((fault) => `  ${fault}`).join('\n'));
      const telling = rig.forward.events.filter(({ event }) =>
        ['session', 'resume', 'error', 'path'].includes(event),
      );
      say(telling.map((event) => `  forward ${JSON.stringify(event)}`).join('\n'));
    }
    expect(report.violations, again).toEqual([]);
    await channelsClosed([rig.forward, rig.expose]);
    expect([rig.forward.child.exitCode, rig.expose.child.exitCode]).toEqual([null, null]);
  } finally {
    await rig.dispose();
  }
}
