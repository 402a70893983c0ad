/** Where a peer can be reached, as far as this side knows: from the ticket, from sessions that worked, from the peer itself. */
import { TunnelError } from '../error.js';
import type { AddressHints } from './session.js';
import { isSocketAddress } from './ticket.js';

const MAX_ADDRESSES = 32;

/** Grows as a link learns; what was learnt last comes first. */
export class KnownAddresses implements AddressHints {
  #direct: readonly string[];
  #relays: readonly string[];

  constructor(hints: AddressHints) {
    this.#direct = [...hints.direct];
    this.#relays = [...hints.relays];
  }

  get direct(): readonly string[] {
    return this.#direct;
  }

  get relays(): readonly string[] {
    return this.#relays;
  }

  learn(hints: AddressHints): void {
    this.#direct = newestFirst(hints.direct, this.#direct);
    this.#relays = newestFirst(hints.relays, this.#relays);
  }
}

function newestFirst(news: readonly string[], known: readonly string[]): readonly string[] {
  return [...new Set([...news, ...known])].slice(0, MAX_ADDRESSES);
}

export function encodeAddresses({ direct, relays }: AddressHints): Buffer {
  const hints = { direct: direct.slice(0, MAX_ADDRESSES), relays: relays.slice(0, MAX_ADDRESSES) };
  return Buffer.from(JSON.stringify(hints), 'utf8');
}

/** Throws PROTOCOL for what is no JSON; single addresses that make no sense are left out. */
export function decodeAddresses(payload: Buffer): AddressHints {
  let value: unknown;
  try {
    value = JSON.parse(payload.toString('utf8'));
  } catch (error) {
    throw new TunnelError('PROTOCOL', 'the peer sent malformed addresses', { cause: error });
  }
  const { direct, relays } = (value ?? {}) as Record<string, unknown>;
  return {
    direct: texts(direct).filter(isSocketAddress),
    relays: texts(relays).filter((url) => /^https?:\/\/[^/]/.test(url) && URL.canParse(url)),
  };
}

function texts(value: unknown): readonly string[] {
  if (!Array.isArray(value)) return [];
  return value.filter((item): item is string => typeof item === 'string').slice(0, MAX_ADDRESSES);
}
