/** What flags say of tickets: how long one is good, and what it opens. */
import { TunnelError } from '../error.js';
import { isServiceRight } from '../tunnel/spec.js';
import { parseDuration } from './duration.js';

const MAX_TTL_MS = 10 * 365 * 86_400_000;

/** Milliseconds, or undefined for ever. Throws USAGE. */
export function parseTtl(text: string | undefined, flag: string): number | undefined {
  return text === undefined ? undefined : parseDuration(text, flag, 1, MAX_TTL_MS);
}

/** Without duplicates. Throws USAGE. */
export function parseServices(texts: readonly string[]): readonly string[] {
  const wrong = texts.find((text) => !isServiceRight(text));
  if (wrong === undefined) return [...new Set(texts)];
  throw new TunnelError('USAGE', `'${wrong.slice(0, 80)}' is no name of a service`, {
    hint: 'examples: --service db, --service dns/udp',
  });
}
