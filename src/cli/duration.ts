/** Times on the command line: `500ms`, `30s`, `15m`, `2h`, `1d`; a bare number is seconds. */
import { TunnelError } from '../error.js';

const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };
/** Longer timers do not exist in Node. */
const MAX_MS = 2 ** 31 - 1;

/** Milliseconds, from `least` to `most`. Throws USAGE, naming the flag. */
export function parseDuration(text: string, flag: string, least = 0, most = MAX_MS): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)?$/.exec(text.trim());
  const ms = match ? Number(match[1]) * (UNITS[match[2] ?? 's'] as number) : Number.NaN;
  if (!(ms >= least && ms <= most)) {
    throw new TunnelError('USAGE', `'${text}' is no time for ${flag}`, {
      hint: `examples: ${flag} 30s, ${flag} 15m, ${flag} 2h`,
    });
  }
  return Math.round(ms);
}
