/** Services as they are written where a right is given or taken. */
import { TunnelError } from '../error.js';
import { EVERY_SERVICE } from '../tunnel/peers-book.js';
import { isServiceRight } from '../tunnel/spec.js';

/** Throws USAGE, naming the one that makes no sense. */
export function parseServiceRights(texts: readonly string[]): readonly string[] {
  for (const text of texts) {
    if (text === EVERY_SERVICE || isServiceRight(text)) continue;
    throw new TunnelError('USAGE', `'${text.slice(0, 80)}' is no service`, {
      hint: "examples: db, dns/udp, dns/tcp; '*' is every service",
    });
  }
  return [...new Set(texts)];
}
