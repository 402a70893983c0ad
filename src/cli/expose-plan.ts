/** What an expose is told to do: by the flags of `tunnel expose`, or by a file. */
import { TunnelError } from '../error.js';
import type { NodeId } from '../session/node-id.js';
import { parseRateRules, type RateRule } from '../tunnel/rates.js';
import { parseTargets, type Service } from '../tunnel/spec.js';
import { checkAnnouncedName } from './announce.js';
import { parseDuration } from './duration.js';
import { type TicketFlags, type TicketTerms, ticketTerms } from './expose-tickets.js';
import { lanOff, type NetworkFlags } from './network-flags.js';

export const ASK_TIMEOUT = '5m';

export interface ExposePlan {
  readonly network: NetworkFlags;
  readonly services: readonly Service[];
  /** Peers that may reach every service. */
  readonly allow: readonly NodeId[];
  /** Peers that may measure the speed to here; everyone who is let in. */
  readonly allowSpeed: 'all' | readonly NodeId[];
  readonly public: boolean;
  readonly ask: boolean;
  readonly approvalTimeoutMs: number;
  /** The name that everybody on the local network sees. */
  readonly announced: string | undefined;
  /** Of its own ticket; undefined where it makes none. */
  readonly terms: TicketTerms | undefined;
  /** Where it also listens for WebTransport, `ip:port`. */
  readonly webtransport: string | undefined;
  readonly resumeTimeoutMs: number;
  readonly rates: readonly RateRule[];
}

export interface ExposeFlags extends NetworkFlags, TicketFlags {
  readonly allow?: readonly string[] | undefined;
  readonly public: boolean;
  readonly ask: boolean;
  readonly 'allow-speed'?: readonly string[] | undefined;
  readonly 'ask-timeout': string;
  readonly announce?: string | undefined;
  readonly webtransport?: string | undefined;
  readonly 'resume-timeout': string;
  readonly 'limit-rate': readonly string[];
}

/** `nodeIdOf` finds a peer, and throws what says why there is none. Throws USAGE, and what that throws. */
export function exposePlan(
  targets: readonly string[],
  flags: ExposeFlags,
  nodeIdOf: (peer: string) => NodeId,
): ExposePlan {
  const services = parseTargets(targets);
  return {
    network: flags,
    services,
    allow: (flags.allow ?? []).map(nodeIdOf),
    allowSpeed: speedRight(flags['allow-speed'] ?? [], nodeIdOf),
    public: flags.public,
    ask: flags.ask,
    approvalTimeoutMs: parseDuration(flags['ask-timeout'], '--ask-timeout', 1),
    announced: announcement(flags.announce, flags),
    terms: ticketTerms(flags),
    webtransport: flags.webtransport,
    resumeTimeoutMs: parseDuration(flags['resume-timeout'], '--resume-timeout'),
    rates: parseRateRules(flags['limit-rate'], {
      services: services.map(({ name }) => name),
      peer: nodeIdOf,
    }),
  };
}

/** Throws what `nodeIdOf` throws for a peer that cannot be found. */
export function speedRight(
  peers: readonly string[],
  nodeIdOf: (peer: string) => NodeId,
): ExposePlan['allowSpeed'] {
  const named = peers.filter((peer) => peer !== 'all').map(nodeIdOf);
  return named.length < peers.length ? 'all' : named;
}

/** Throws USAGE for a name that cannot be shown, or where nobody would see it. */
export function announcement(
  name: string | undefined,
  network: Pick<NetworkFlags, 'lan' | 'bind'>,
): string | undefined {
  if (name === undefined) return undefined;
  checkAnnouncedName(name);
  const off = lanOff(network);
  if (off === undefined) return name;
  throw new TunnelError('USAGE', `nobody would see the name '${name}': ${off}`, {
    hint: 'leave out --announce, or the other flag',
  });
}
