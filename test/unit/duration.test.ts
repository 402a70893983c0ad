import { describe, expect, it } from 'vitest';
import { parseDuration } from '../../src/cli/duration.js';
import { thrown } from '../support/errors.js';

describe('a time on the command line', () => {
  it.each([
    ['500ms', 500],
    ['30', 30_000],
    ['30s', 30_000],
    ['1.5m', 90_000],
    ['15m', 900_000],
    ['2h', 7_200_000],
    ['1d', 86_400_000],
    ['0', 0],
  ])('%s is %d ms', (text, ms) => {
    expect(parseDuration(text, '--udp-idle')).toBe(ms);
  });

  it.each(['', 'soon', '-1s', '10 minutes', '1e9s', '30d', '5w'])(
    '%j is refused, with an example',
    (text) => {
      const error = thrown(() => parseDuration(text, '--resume-timeout'));
      expect(error.code).toBe('USAGE');
      expect(error.message).toContain(`'${text}'`);
      expect(error.hint).toContain('--resume-timeout 15m');
    },
  );
});
