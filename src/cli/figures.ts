/** Numbers on the command line. */
import { TunnelError } from '../error.js';

/** A whole number, 1 or more. Throws USAGE, naming the flag. */
export function parseCount(text: string, flag: string): number {
  const count = /^\d{1,9}$/.test(text.trim()) ? Number(text) : 0;
  if (count >= 1) return count;
  throw new TunnelError('USAGE', `'${text}' is no number for ${flag}`, { hint: `example: ${flag} 10` });
}

const UNITS: Readonly<Record<string, number>> = { '': 1, k: 1e3, m: 1e6, g: 1e9 };

/** Bits per second: `500k`, `10M`, `1G`, or a bare number. At most `most`. Throws USAGE, naming the flag. */
export function parseBitRate(text: string, flag: string, most: number): number {
  const match = /^(\d+(?:\.\d+)?)([kmg]?)(?:bit\/s|bps)?$/i.exec(text.trim());
  const rate = match ? Math.round(Number(match[1]) * (UNITS[(match[2] ?? '').toLowerCase()] as number)) : 0;
  if (rate >= 1 && rate <= most) return rate;
  throw new TunnelError('USAGE', `'${text}' is no rate for ${flag}`, {
    hint: `examples, in bits a second: ${flag} 500k, ${flag} 10M; at most ${most / 1e6}M`,
  });
}
