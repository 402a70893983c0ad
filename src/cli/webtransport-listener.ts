/** The WebTransport listener of `expose`, and the addresses under which a ticket names it. */
import type { Identity } from '../session/identity.js';
import type { Endpoint } from '../session/session.js';
import type { WebTransportHint } from '../session/ticket.js';
import { formatHostPort } from '../tunnel/spec.js';
import { parseListenAddress, reachableHosts } from './listen-address.js';

export interface WebTransportListening {
  readonly endpoint: Endpoint;
  readonly hints: readonly WebTransportHint[];
}

/** Throws USAGE for what is no `ip:port`, PORT_IN_USE or CANNOT_BIND. */
export async function listenWebTransportOn(
  identity: Identity,
  listen: string,
): Promise<WebTransportListening> {
  const { host } = parseListenAddress(listen, '--webtransport');
  const { listenWebTransport } = await import('../session/engines/webtransport.js');
  const endpoint = await listenWebTransport({ identity, listen });
  const port = Number(endpoint.address.replace(/^.*:/, ''));
  const hints = reachableHosts(host).map((reachable) => ({
    address: formatHostPort(reachable, port),
    certificateHash: endpoint.certificateHash,
  }));
  return { endpoint, hints };
}
