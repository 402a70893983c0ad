/**
 * The endpoint that a command dials from, made anew when it leads nowhere. The engine keeps to what it
 * has learnt of a peer for as long as an endpoint lives: one that had a session over a relay goes on
 * sending to that relay alone after it has died, whatever other addresses a dial names. Its key is a
 * throwaway one, so that another endpoint is as good.
 */
import { toTunnelError } from '../error.js';
import type { IrohEndpoint } from '../session/engines/iroh-network.js';
import type { NodeId } from '../session/node-id.js';
import type { AddressHints, Session } from '../session/session.js';
import type { FactsSource } from '../tunnel/relayed.js';
import { factsOf } from './network-facts.js';

/** Dials in a row that found nobody, before another endpoint tries. */
const FAILURES = 2;
/** One that was given up after this long, as a link does with its older ones, has found nobody either. */
const LONG_DIAL_MS = 2000;
/** Where nothing is reached for long, as without a network, a new endpoint is no cure. */
const RENEW_EVERY_MS = 15_000;

export class DialEndpoint {
  readonly #bind: () => Promise<IrohEndpoint>;
  #endpoint: IrohEndpoint;
  #failures = 0;
  #madeAt = performance.now();
  #renewing: Promise<void> | undefined;
  /** Sessions by the endpoint they are on; only with the last of them an old one is closed. */
  readonly #sessions = new Map<IrohEndpoint, number>();
  #closed = false;

  private constructor(endpoint: IrohEndpoint, bind: () => Promise<IrohEndpoint>) {
    this.#endpoint = endpoint;
    this.#bind = bind;
  }

  /** Throws what `bind` throws. */
  static async open(bind: () => Promise<IrohEndpoint>): Promise<DialEndpoint> {
    return new DialEndpoint(await bind(), bind);
  }

  readonly facts: FactsSource = (signal) => factsOf(this.#endpoint)(signal);

  async connect(nodeId: NodeId, hints: AddressHints, signal: AbortSignal): Promise<Session> {
    if (this.#failures >= FAILURES && performance.now() - this.#madeAt > RENEW_EVERY_MS) {
      this.#renewing ??= this.#renew();
      await this.#renewing;
    }
    const endpoint = this.#endpoint;
    this.#count(endpoint, 1);
    const startedAt = performance.now();
    try {
      const session = await endpoint.connect(nodeId, hints, { signal });
      this.#failures = 0;
      void session.closed.then(() => this.#count(endpoint, -1));
      return session;
    } catch (error) {
      const lasted = performance.now() - startedAt;
      const failed = toTunnelError(error).code === 'UNREACHABLE' || lasted > LONG_DIAL_MS;
      if (failed && endpoint === this.#endpoint) this.#failures += 1;
      this.#count(endpoint, -1);
      throw error;
    }
  }

  networkChange(): Promise<void> {
    return this.#endpoint.networkChange();
  }

  async close(signal?: AbortSignal): Promise<void> {
    this.#closed = true;
    await this.#renewing;
    const endpoints = new Set([this.#endpoint, ...this.#sessions.keys()]);
    await Promise.all([...endpoints].map((one) => one.close(signal ? { signal } : {})));
  }

  async #renew(): Promise<void> {
    const old = this.#endpoint;
    try {
      this.#endpoint = await this.#bind();
      if (!this.#sessions.has(old)) void old.close();
    } catch {
      // As with a port that was asked for and that the old one has: that one goes on.
    }
    this.#failures = 0;
    this.#madeAt = performance.now();
    this.#renewing = undefined;
  }

  #count(endpoint: IrohEndpoint, change: number): void {
    const left = (this.#sessions.get(endpoint) ?? 0) + change;
    if (left > 0) {
      this.#sessions.set(endpoint, left);
      return;
    }
    this.#sessions.delete(endpoint);
    if (endpoint !== this.#endpoint && !this.#closed) void endpoint.close();
  }
}
