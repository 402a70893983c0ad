/** Limits of bytes a second: how they are written, and whom they are for. */
import { TunnelError } from '../error.js';
import type { Lanes } from './pace.js';
import { Lane, Shaper, type ShaperClock } from './shaper.js';

/** Bytes a second of all traffic, of one service, or of one peer; each direction has as much of its own. */
export interface RateRule {
  readonly scope: 'all' | 'service' | 'peer';
  /** The service's name, or the peer's node ID. */
  readonly name: string;
  readonly bytesPerSecond: number;
}

const FACTORS: Readonly<Record<string, number>> = {
  '': 1,
  k: 1e3,
  m: 1e6,
  g: 1e9,
  ki: 1024,
  mi: 1024 ** 2,
  gi: 1024 ** 3,
};
const MIN_BYTES_PER_SECOND = 1000;
const MAX_BYTES_PER_SECOND = 1e12;
const HINT = 'examples: --limit-rate 10MB/s, --limit-rate 2Mbit, --limit-rate db=500kB/s';

/** `10MB/s`, `2Mbit`, `500KiB/s`: bytes a second. Throws USAGE. */
export function parseRate(text: string): number {
  const match = /^(\d+(?:\.\d+)?) ?([kmg]i?)?(bytes?|bits?|bps|b)(\/s)?$/i.exec(text.trim());
  const [, number, factor = '', unit = ''] = match ?? [];
  // `Mb` is read as one or as the other by different people.
  if (!match || unit === 'b') throw badRate(text);
  const isBits = /^bit/i.test(unit) || unit === 'bps';
  const bytes = (Number(number) * (FACTORS[factor.toLowerCase()] as number)) / (isBits ? 8 : 1);
  if (!(bytes >= MIN_BYTES_PER_SECOND && bytes <= MAX_BYTES_PER_SECOND)) throw badRate(text);
  return bytes;
}

export interface RateNames {
  /** Services a rule may name. */
  readonly services: readonly string[];
  /** The node ID of a peer a rule names. Throws what says why there is none. Absent: rules are for no peer. */
  readonly peer?: (name: string) => string;
}

/** `<rate>`, `<service>=<rate>`, `peer:<name or node ID>=<rate>`. Throws USAGE. */
export function parseRateRules(texts: readonly string[], names: RateNames): readonly RateRule[] {
  const rules = texts.map((text) => parseRule(text, names));
  for (const [index, { scope, name }] of rules.entries()) {
    const twice = rules.findIndex((other) => other.scope === scope && other.name === name) !== index;
    if (twice) {
      throw new TunnelError('USAGE', `--limit-rate says two rates for the same: '${texts[index]}'`, {
        hint: 'give one rate for all, one for each service, one for each peer',
      });
    }
  }
  return rules;
}

function parseRule(text: string, { services, peer }: RateNames): RateRule {
  const at = text.lastIndexOf('=');
  if (at < 0) return { scope: 'all', name: '', bytesPerSecond: parseRate(text) };
  const [subject, bytesPerSecond] = [text.slice(0, at), parseRate(text.slice(at + 1))];
  if (services.includes(subject)) return { scope: 'service', name: subject, bytesPerSecond };
  if (peer && subject.startsWith('peer:')) {
    return { scope: 'peer', name: peer(subject.slice('peer:'.length)), bytesPerSecond };
  }
  throw new TunnelError('USAGE', `--limit-rate '${text}' names no service of this command`, {
    hint: `its services: ${services.join(', ')}`,
  });
}

function badRate(text: string): TunnelError {
  return new TunnelError('USAGE', `'${text}' is no rate for --limit-rate (1 kB/s to 1 TB/s)`, { hint: HINT });
}

/** The limits of one process. */
export class Rates {
  readonly #all: Pair | undefined;
  readonly #services = new Map<string, Pair>();
  readonly #peers = new Map<string, Pair>();

  constructor(rules: readonly RateRule[], clock?: ShaperClock) {
    for (const { scope, name, bytesPerSecond } of rules) {
      const pair = { in: new Shaper(bytesPerSecond, clock), out: new Shaper(bytesPerSecond, clock) };
      if (scope === 'all') this.#all = pair;
      else if (scope === 'service') this.#services.set(name, pair);
      else this.#peers.set(name, pair);
    }
  }

  /** For one channel or flow. Undefined where nothing limits it. */
  lanes(peer: string, service: string): Lanes | undefined {
    const pairs = [this.#all, this.#services.get(service), this.#peers.get(peer)].filter(
      (pair) => pair !== undefined,
    );
    if (pairs.length === 0) return undefined;
    return { in: new Lane(pairs.map((pair) => pair.in)), out: new Lane(pairs.map(({ out }) => out)) };
  }
}

interface Pair {
  readonly in: Shaper;
  readonly out: Shaper;
}
