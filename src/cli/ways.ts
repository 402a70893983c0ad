/** How a command reaches a peer: the ways its flags and the peer's ticket allow. */
import { Identity } from '../session/identity.js';
import type { Ticket } from '../session/ticket.js';
import type { Way } from '../session/way.js';
import { bindEndpoint, type NetworkFlags } from './network-flags.js';

export interface Ways {
  readonly ways: readonly Way[];
  close(): Promise<void>;
}

/** Binds what the ways need. Throws what binding throws. */
export async function openWays(ticket: Ticket, flags: NetworkFlags): Promise<Ways> {
  // A key of its own for the endpoint: several forwards and an expose of one identity run side by side.
  const endpoint = await bindEndpoint(Identity.generate(), flags);
  const iroh: Way = {
    name: 'iroh',
    delayMs: 0,
    connect: (signal) => endpoint.connect(ticket.nodeId, ticket, { signal }),
  };
  return { ways: [iroh], close: () => endpoint.close() };
}
