/** One session on the accepting side: what its peer may call, and where its datagrams go. */
import type { PeerSession } from '../session/handshake.js';
import type { NodeId } from '../session/node-id.js';
import type { Dispatcher } from '../session/rpc-session.js';
import { DatagramSender } from './datagram-sender.js';
import { EarlyDatagrams } from './early-datagrams.js';
import { FLOW_CLOSE, FLOW_OPEN } from './flow-messages.js';
import type { Service } from './spec.js';

/** Whose flows they are. The identity is proven; the instance is what the peer's process calls itself. */
export interface FlowOwner {
  readonly peer: NodeId;
  readonly instanceId: string;
}

/**
 * The service, if the peer may reach it now. `asked`: the peer wants it, so that a denial is news; otherwise
 * whether what it has may go on.
 */
export type Authorise = (service: string, asked: boolean) => Service | undefined;

/** What keeps the flows of all sessions. */
export interface FlowRegistry {
  open(connection: UdpConnection, payload: Uint8Array): Promise<Uint8Array>;
  close(connection: UdpConnection, payload: Uint8Array): Uint8Array;
  begin(connection: UdpConnection): void;
  end(connection: UdpConnection): void;
  datagram(connection: UdpConnection, datagram: Buffer, now: number): void;
}

/** One session of a peer that may open flows. */
export class UdpConnection {
  /** What the peer may call. */
  readonly dispatcher: Dispatcher;
  /** Whose flows they are. */
  readonly owner: FlowOwner;
  readonly authorise: Authorise;
  readonly early = new EarlyDatagrams();
  readonly #registry: FlowRegistry;
  peer: PeerSession | undefined;
  sender: DatagramSender | undefined;
  /** Takes datagrams that belong to no flow, and answers whether it did. */
  other: ((datagram: Buffer, now: number) => boolean) | undefined;
  announced = false;

  constructor(owner: FlowOwner, authorise: Authorise, registry: FlowRegistry) {
    this.owner = owner;
    this.authorise = authorise;
    this.#registry = registry;
    this.dispatcher = {
      [FLOW_OPEN]: (payload) => registry.open(this, payload),
      [FLOW_CLOSE]: (payload) => registry.close(this, payload),
    };
  }

  /** Takes the session's datagrams from now on. Ends by itself with the session. */
  attach(peer: PeerSession): void {
    this.peer = peer;
    this.sender = new DatagramSender(peer.session);
    this.#registry.begin(this);
    void this.#receive(peer);
  }

  async #receive({ session }: PeerSession): Promise<void> {
    for await (const batch of session.datagrams.incoming) {
      const now = performance.now();
      for (const datagram of batch) {
        if (!this.other?.(datagram, now)) this.#registry.datagram(this, datagram, now);
      }
    }
    await session.closed;
    this.#registry.end(this);
  }
}
