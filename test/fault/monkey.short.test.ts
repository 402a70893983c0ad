/** The monkey for a few seconds, always with the same seed. */
import { it } from 'vitest';
import { describeFaults } from '../support/describe-faults.js';
import { monkeyTest } from './monkey-test.js';

describeFaults('the monkey, briefly', () => {
  it('breaks no rule', () => monkeyTest({ seed: 5, seconds: 10, connections: 50, longest: 5 }), 150_000);
});
