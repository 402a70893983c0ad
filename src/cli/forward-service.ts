/** A running forward with all that it holds: its ways to the peer, and the memory of where that is. */
import { isDeepStrictEqual } from 'node:util';

import type { TunnelError } from '../error.js';
import type { Identity } from '../session/identity.js';
import type { Ticket } from '../session/ticket.js';
import type { Forward, ForwardOptions, Listening, ListenOptions, Relistened } from '../tunnel/forward.js';
import type { PeersFile } from '../tunnel/peers-file.js';
import { parseRateRules, type RateRule, Rates } from '../tunnel/rates.js';
import { type ForwardSpec, parseForwardSpecs } from '../tunnel/spec.js';
import type { StatusSource } from '../tunnel/status.js';
import { parseDuration } from './duration.js';
import type { DialFlags } from './network-flags.js';
import type { Observation } from './observe.js';
import { type AddressMemory, rememberAddresses } from './remember-addresses.js';
import type { Ways } from './ways.js';

export const UDP_IDLE = '2m';

/** What a forward is told to do: by the flags of `tunnel forward`, or by a file. */
export interface ForwardPlan {
  readonly network: DialFlags;
  readonly peer: Ticket;
  readonly specs: readonly ForwardSpec[];
  readonly resumeTimeoutMs: number;
  /** Undefined for never. */
  readonly reconnectTimeoutMs: number | undefined;
  readonly udpIdleMs: number;
  readonly rates: readonly RateRule[];
}

export interface ForwardFlags extends DialFlags {
  readonly 'resume-timeout': string;
  readonly 'reconnect-timeout'?: string | undefined;
  readonly 'udp-idle': string;
  readonly 'limit-rate': readonly string[];
}

/** Throws USAGE. */
export function forwardPlan(peer: Ticket, specTexts: readonly string[], flags: ForwardFlags): ForwardPlan {
  const specs = parseForwardSpecs(specTexts);
  const giveUp = flags['reconnect-timeout'];
  return {
    network: flags,
    peer,
    specs,
    rates: parseRateRules(flags['limit-rate'], { services: specs.map(({ service }) => service) }),
    resumeTimeoutMs: parseDuration(flags['resume-timeout'], '--resume-timeout'),
    reconnectTimeoutMs: giveUp === undefined ? undefined : parseDuration(giveUp, '--reconnect-timeout'),
    udpIdleMs: parseDuration(flags['udp-idle'], '--udp-idle', 1),
  };
}

/** Whether they differ in nothing but where they listen and how much may pass. Where the peer was last is no difference. */
export function isSameLink(one: ForwardPlan, other: ForwardPlan): boolean {
  return isDeepStrictEqual(linkOf(one), linkOf(other));
}

function linkOf({ peer, specs: _specs, rates: _rates, ...settings }: ForwardPlan): object {
  const { nodeId, token, webtransport = [] } = peer;
  return { ...settings, nodeId, token, webtransport };
}

export interface ForwardContext {
  readonly identity: Identity;
  readonly observation: Observation;
  /** The peers book's, where it is kept where the peer was reached. */
  readonly peersFile: PeersFile;
  /** Of a forward among others: see `ForwardOptions`. */
  readonly among?: Pick<ForwardOptions, 'retryDeniedMs' | 'after' | 'shared'>;
}

interface Parts {
  /** Of new connections. */
  readonly limits: { rates: Rates; rules: readonly RateRule[] };
  readonly forward: Forward;
  readonly ways: Ways;
  readonly memory: AddressMemory;
}

export class ForwardService {
  readonly #parts: Parts;
  readonly source: StatusSource;
  /** Resolves when it has ended by itself, with the error that ended it; or after `close`. */
  readonly ended: Promise<TunnelError | undefined>;
  #closing: Promise<void> | undefined;

  private constructor(parts: Parts) {
    this.#parts = parts;
    this.source = parts.forward.source;
    this.ended = parts.forward.ended;
  }

  /** Throws what binding throws, and USAGE where nothing leads to the peer; nothing is left open then. */
  static async start(
    plan: ForwardPlan,
    { identity, observation, peersFile, among }: ForwardContext,
  ): Promise<ForwardService> {
    const { peer } = plan;
    const { openWays } = await import('./ways.js');
    const ways = await openWays(identity, peer, plan.network);
    const memory = rememberAddresses(peersFile, peer.nodeId, ways.addresses, observation.report);
    try {
      const { Forward } = await import('../tunnel/forward.js');
      const limits = { rates: new Rates(plan.rates), rules: plan.rates };
      const forward = await Forward.start({
        identity,
        peer: peer.nodeId,
        ways: ways.ways,
        addresses: ways.addresses,
        token: peer.token,
        specs: plan.specs,
        resumeTimeoutMs: plan.resumeTimeoutMs,
        rates: { lanes: (id, service) => limits.rates.lanes(id, service) },
        reconnectTimeoutMs: plan.reconnectTimeoutMs,
        facts: ways.facts,
        onNetworkChange: ways.networkChange,
        udpIdleMs: plan.udpIdleMs,
        report: memory.report,
        onSilent: observation.onSilent,
        methods: observation.methods(peer.nodeId),
        ...among,
      });
      return new ForwardService({ forward, ways, memory, limits });
    } catch (error) {
      await memory.close();
      await ways.close();
      throw error;
    }
  }

  get listening(): readonly Listening[] {
    return this.#parts.forward.listening;
  }

  /**
   * Goes by another plan from now on, for which `isSameLink` holds: it may listen elsewhere, and have other
   * limits. As `listen` of `Forward`. A peer that denied is asked again at once.
   */
  follow(plan: Pick<ForwardPlan, 'specs' | 'rates'>, options: ListenOptions): Promise<Relistened> {
    const { forward, limits } = this.#parts;
    if (!isDeepStrictEqual(limits.rules, plan.rates)) {
      limits.rates = new Rates(plan.rates);
      limits.rules = plan.rates;
    }
    forward.hasten();
    return forward.listen(plan.specs, options);
  }

  /** Takes no new connections, waits up to `drainMs` for the open ones, then resets what is left. Idempotent. */
  close(drainMs: number, signal?: AbortSignal): Promise<void> {
    this.#closing ??= this.#close(drainMs, signal);
    return this.#closing;
  }

  async #close(drainMs: number, signal?: AbortSignal): Promise<void> {
    const { forward, ways, memory } = this.#parts;
    await forward.close(drainMs, signal);
    await memory.close();
    await ways.close(signal);
  }
}
