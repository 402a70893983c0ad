/** Durations on the command line. */
import { TunnelError } from '../error.js';

const MAX_SECONDS = 24 * 60 * 60;

/** `120`, `0.5`. Answers milliseconds. Throws USAGE naming the flag. */
export function parseSeconds(flag: string, text: string): number {
  const seconds = /^\d{1,6}(\.\d{1,3})?$/.test(text) ? Number(text) : Number.NaN;
  if (!(seconds > 0 && seconds <= MAX_SECONDS)) {
    throw new TunnelError('USAGE', `${flag} takes seconds from 0.001 to ${MAX_SECONDS}, not '${text}'`, {
      hint: `example: ${flag} 120`,
    });
  }
  return seconds * 1000;
}
