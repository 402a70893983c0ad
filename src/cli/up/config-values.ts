/** Values that more than one table of a config file may have. */
import { isIP } from 'node:net';
import { isSocketAddress } from '../../session/ticket.js';
import { parseDuration } from '../duration.js';
import { CONGESTIONS, type DialFlags } from '../network-flags.js';
import type { Section } from './toml-section.js';

/** What a part may say for itself. */
export function ownNetwork(section: Section): Partial<Pick<DialFlags, 'bind' | 'congestion'>> {
  const [bind, congestion] = [bindOf(section), section.choice('congestion', CONGESTIONS)];
  return { ...(bind === undefined ? {} : { bind }), ...(congestion === undefined ? {} : { congestion }) };
}

export function required(section: Section, key: string): readonly string[] {
  const texts = section.texts(key);
  if (!texts) throw section.fail(key, 'is missing');
  if (texts.length === 0) throw section.fail(key, 'is empty');
  return texts;
}

export function bindOf(section: Section): string | undefined {
  const bind = section.text('bind');
  if (bind === undefined || isSocketAddress(bind) || isIP(bind.replace(/^\[(.*)\]$/, '$1')) !== 0)
    return bind;
  throw section.fail('bind', `: '${bind}' is no address to bind to`);
}

export function time(
  section: Section,
  key: string,
  fallback: string,
  least = 0,
): { readonly text: string; readonly ms: number } {
  const text = section.word(key) ?? fallback;
  return { text, ms: section.as(key, text, () => parseDuration(text, key, least)) };
}

/** As `read` of all of them; the one that is wrong by itself is named by its line. */
export function each<T>(
  section: Section,
  key: string,
  texts: readonly string[],
  read: (texts: readonly string[]) => T,
): T {
  for (const text of texts) section.as(key, text, () => read([text]));
  return section.as(key, undefined, () => read(texts));
}
