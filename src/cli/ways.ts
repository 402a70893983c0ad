/** How a command reaches a peer: the ways its flags and the peer's ticket allow. */
import { TunnelError } from '../error.js';
import { KnownAddresses } from '../session/addresses.js';
import { Identity } from '../session/identity.js';
import type { Ticket, WebTransportHint } from '../session/ticket.js';
import type { Way } from '../session/way.js';
import type { FactsSource } from '../tunnel/relayed.js';
import { DialEndpoint } from './dial-endpoint.js';
import { bindEndpoint, type DialFlags } from './network-flags.js';

/** How long iroh has before WebTransport is tried beside it: enough for any network that lets UDP through. */
const IROH_HEAD_START_MS = 3_000;

export interface Ways {
  readonly ways: readonly Way[];
  /** What the ways go by; they follow what is learnt. */
  readonly addresses: KnownAddresses;
  /** What is known of the network here. */
  readonly facts?: FactsSource;
  /** Tells the endpoint that the machine's network changed. */
  networkChange(): Promise<void>;
  close(signal?: AbortSignal): Promise<void>;
}

/** Binds what the ways need. Throws what binding throws, and USAGE when the flags leave no way. */
export async function openWays(identity: Identity, ticket: Ticket, flags: DialFlags): Promise<Ways> {
  // The peer may have left the relay that its ticket names, and be at another one that was named here.
  const relays = [...new Set([...ticket.relays, ...(flags['no-relay'] ? [] : (flags.relay ?? []))])];
  const addresses = new KnownAddresses({ direct: ticket.direct, relays });
  const hints = flags.via === 'iroh' ? [] : (ticket.webtransport ?? []);
  if (flags.via === 'webtransport') {
    if (hints.length === 0) {
      throw new TunnelError(
        'USAGE',
        'the peer has no WebTransport address, so --via webtransport leads nowhere',
        {
          hint: 'on the other machine run: tunnel expose … --webtransport 0.0.0.0:4433, and use the ticket it prints',
        },
      );
    }
    return {
      ways: webTransportWays(identity, ticket, hints, 0),
      addresses,
      networkChange: async () => undefined,
      close: async () => undefined,
    };
  }
  // A key of its own for the endpoint: several forwards and an expose of one identity run side by side.
  const endpoint = await DialEndpoint.open(() =>
    bindEndpoint(Identity.generate(), flags, { vouchedBy: identity }),
  );
  const iroh: Way = {
    name: 'iroh',
    delayMs: 0,
    connect: (signal) => endpoint.connect(ticket.nodeId, addresses, signal),
  };
  return {
    ways: [iroh, ...webTransportWays(identity, ticket, hints, IROH_HEAD_START_MS)],
    addresses,
    facts: endpoint.facts,
    networkChange: () => endpoint.networkChange(),
    close: (signal) => endpoint.close(signal),
  };
}

function webTransportWays(
  identity: Identity,
  ticket: Ticket,
  hints: readonly WebTransportHint[],
  delayMs: number,
): readonly Way[] {
  return hints.map((hint) => ({
    name: 'webtransport',
    delayMs,
    connect: async (signal) => {
      // Loaded only where it is needed: most sessions never are.
      const { dialWebTransport } = await import('../session/engines/webtransport.js');
      return dialWebTransport({ identity, nodeId: ticket.nodeId, ...hint, signal });
    },
  }));
}
