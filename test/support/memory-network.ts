/** A whole exposing side reached over sessions in memory, which a test can cut, and a client of it. */

import { type MemoryPair, memorySessionPair } from '../../src/session/engines/memory.js';
import { dialHandshake, type PeerSession } from '../../src/session/handshake.js';
import { Identity } from '../../src/session/identity.js';
import type { NodeId } from '../../src/session/node-id.js';
import { AsyncQueue } from '../../src/session/queue.js';
import type { Endpoint, Session } from '../../src/session/session.js';
import type { Way } from '../../src/session/way.js';
import type { TunnelEvent } from '../../src/tunnel/events.js';
import { Expose, type ExposeOptions } from '../../src/tunnel/expose.js';
import type { RightsSource } from '../../src/tunnel/policy.js';
import type { Protocol, Service } from '../../src/tunnel/spec.js';
import { tokenSource } from './token-source.js';

export interface MemoryNetworkOptions extends Pick<ExposeOptions, 'resumeTimeoutMs' | 'limits' | 'rates'> {
  /** Besides those of the network's own token. */
  readonly rights?: readonly RightsSource[];
  readonly identity?: Identity;
  /** UDP services, by name. */
  readonly udp?: Readonly<Record<string, number>>;
  readonly ask?: boolean;
}

export class MemoryNetwork {
  readonly identity: Identity;
  readonly client = Identity.generate();
  readonly events: TunnelEvent[] = [];
  readonly expose: Expose;
  readonly token = 'a-token-of-the-network';
  readonly #incoming = new AsyncQueue<Session>();
  readonly #pairs = new Set<MemoryPair>();
  /** Dials fail while it is down. */
  up = true;

  constructor(ports: Readonly<Record<string, number>>, options: MemoryNetworkOptions = {}) {
    this.identity = options.identity ?? Identity.generate();
    const incoming = this.#incoming;
    const endpoint: Endpoint = {
      nodeId: this.identity.nodeId,
      incoming,
      connect: () => Promise.reject(new Error('only listens')),
      addresses: () => ({ direct: [], relays: [] }),
      boundAddresses: () => [],
      networkChange: async () => undefined,
      close: async () => incoming.end(),
    };
    const { udp, ...rest } = options;
    this.expose = new Expose({
      ...rest,
      endpoints: [endpoint],
      identity: this.identity,
      services: [...services('tcp', ports), ...services('udp', udp ?? {})],
      report: (event) => this.events.push(event),
      rights: [tokenSource(this.token), ...(options.rights ?? [])],
      ask: options.ask ?? false,
    });
  }

  /** A bare session to the exposing side, from a fresh endpoint key. */
  session(): Session {
    if (!this.up) throw new Error('the network is down');
    const pair = memorySessionPair({ ids: [Identity.generate().nodeId, this.identity.nodeId] });
    this.#pairs.add(pair);
    void pair.dialler.closed.then(() => this.#pairs.delete(pair));
    this.#incoming.push(pair.acceptor);
    return pair.dialler;
  }

  get way(): Way {
    return { name: 'iroh', delayMs: 0, connect: async () => this.session() };
  }

  /** An admitted session of `identity`. */
  dial(identity: Identity = this.client, token: string = this.token): Promise<PeerSession> {
    return dialHandshake(this.session(), { identity, tokens: [token] });
  }

  /** As `dial`, of one who claims an identity that is not its own. */
  impostor(claimed: NodeId, token: string): Promise<PeerSession> {
    const own = Identity.generate();
    const identity = { nodeId: claimed, sign: (message: Uint8Array) => own.sign(message) } as Identity;
    return dialHandshake(this.session(), { identity, tokens: [token] });
  }

  /** Breaks every session without a word. */
  cut(): void {
    for (const pair of this.#pairs) pair.cut();
  }

  async close(): Promise<void> {
    await this.expose.close(0);
    this.cut();
  }
}

function services(protocol: Protocol, ports: Readonly<Record<string, number>>): readonly Service[] {
  return Object.entries(ports).map(([name, port]) => ({
    name,
    target: { kind: 'socket', protocol, host: '127.0.0.1', port },
  }));
}
