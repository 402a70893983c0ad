/** What an `iroh` endpoint knows of its network beside its sessions. */
import { TunnelError } from '../../error.js';
import { isNodeId, type NodeId } from '../node-id.js';
import type { AddressHints, Endpoint } from '../session.js';
import type { Native } from './iroh-library.js';

/** A node of the local network that answers to its ID, and to a name where it has chosen one. */
export interface NearbyNode {
  readonly nodeId: NodeId;
  /** What the node calls itself: anything at all, so not to be trusted and not to be printed as it is. */
  readonly name: string | undefined;
  readonly hints: AddressHints;
}

/** The relay through which others reach this node. */
export interface HomeRelay {
  readonly url: string;
  readonly connected: boolean;
  /** What the last try to connect came to, for people. */
  readonly error?: string;
  /** Why the relay does not let this node in, in the relay's words. */
  readonly denied?: string;
}

/** What relays helped to find out. Undefined is unknown: no relay answered, or one where it takes two. */
export interface NetworkReport {
  /** Whether a UDP packet came back, by IPv4 and by IPv6. */
  readonly udpV4: boolean;
  readonly udpV6: boolean;
  /** `ip:port` as others see this endpoint. */
  readonly publicV4?: string;
  readonly publicV6?: string;
  /** True behind a symmetric NAT: every destination sees another port, so no hole can be punched by it. */
  readonly variesByDestinationV4?: boolean;
  readonly variesByDestinationV6?: boolean;
  readonly captivePortal?: boolean;
  /** The nearest relay. */
  readonly preferredRelay?: string;
  readonly relays: readonly {
    readonly url: string;
    readonly probe: 'https' | 'udp4' | 'udp6';
    readonly latencyMs: number;
  }[];
}

/** An endpoint of this engine: everything that it can say of the network it is in. */
export interface IrohEndpoint extends Endpoint {
  /** Why look-ups that were asked for could not be started; the endpoint works without. */
  readonly lookupErrors: { readonly lan?: string; readonly dht?: string };
  /** The nodes seen on the local network up to now, without this one. */
  readonly nearby: readonly NearbyNode[];
  /** Calls back whenever `nearby` changes. Answers a function that ends it. */
  onNearby(listener: () => void): () => void;
  /** Empty without relays, and until the nearest is found. */
  readonly homeRelays: readonly HomeRelay[];
  /** Calls back whenever `homeRelays` changes. Answers a function that ends it. */
  onHomeRelays(listener: () => void): () => void;
  /**
   * The last report on the network, or the first as soon as there is one: that takes some seconds, and
   * for ever without relays. Throws ABORTED when the signal fires or the endpoint closes before.
   */
  networkReport(options?: { readonly signal?: AbortSignal }): Promise<NetworkReport>;
  /** Tells what is known of a node, for dials from now on. It adds to what was told before. */
  addAddresses(nodeId: NodeId, hints: AddressHints): void;
}

/** Keeps what the addon's events say. */
export class NetworkState {
  readonly #nearby = new Map<NodeId, NearbyNode>();
  readonly #nearbyListeners = new Set<() => void>();
  readonly #relayListeners = new Set<() => void>();
  #homeRelays: readonly HomeRelay[] = [];

  get nearby(): readonly NearbyNode[] {
    return [...this.#nearby.values()];
  }

  get homeRelays(): readonly HomeRelay[] {
    return this.#homeRelays;
  }

  onNearby(listener: () => void): () => void {
    this.#nearbyListeners.add(listener);
    return () => this.#nearbyListeners.delete(listener);
  }

  onHomeRelays(listener: () => void): () => void {
    this.#relayListeners.add(listener);
    return () => this.#relayListeners.delete(listener);
  }

  // ---- from the addon

  onNode({ nodeId, here, name, direct, relays }: Native.Nearby): void {
    if (!isNodeId(nodeId)) throw new TunnelError('INTERNAL', 'the engine named no node ID');
    if (here) this.#nearby.set(nodeId, { nodeId, name, hints: { direct, relays } });
    else this.#nearby.delete(nodeId);
    for (const listener of this.#nearbyListeners) listener();
  }

  onRelays(relays: readonly Native.HomeRelay[]): void {
    this.#homeRelays = relays;
    for (const listener of this.#relayListeners) listener();
  }
}
