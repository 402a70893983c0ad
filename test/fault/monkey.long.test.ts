/** The monkey: MONKEY_SECONDS (60), MONKEY_SEED (a new one each time), MONKEY_CONNECTIONS (50). */
import { it } from 'vitest';
import { describeFaults } from '../support/describe-faults.js';
import { OVER_WEBTRANSPORT } from '../support/rig.js';
import { monkeyTest } from './monkey-test.js';

const seconds = Number(process.env.MONKEY_SECONDS ?? 60);
const seed = Number(process.env.MONKEY_SEED ?? Math.floor(Math.random() * 2 ** 31));
const connections = Number(process.env.MONKEY_CONNECTIONS ?? 50);

describeFaults('the monkey', () => {
  const options = { seed, seconds, connections };
  const limit = seconds * 1000 + 200_000;

  it('breaks no rule', () => monkeyTest(options), limit);

  it('breaks no rule over WebTransport', () => monkeyTest(options, OVER_WEBTRANSPORT), limit);
});
