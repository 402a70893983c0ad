/** The WebTransport listener of `expose`, and the addresses under which a ticket names it. */
import { isIP } from 'node:net';
import { networkInterfaces } from 'node:os';
import { TunnelError } from '../error.js';
import type { Identity } from '../session/identity.js';
import type { Endpoint } from '../session/session.js';
import type { WebTransportHint } from '../session/ticket.js';
import { formatHostPort } from '../tunnel/spec.js';

export interface WebTransportListening {
  readonly endpoint: Endpoint;
  readonly hints: readonly WebTransportHint[];
}

/** Throws USAGE for what is no `ip:port`, PORT_IN_USE or CANNOT_BIND. */
export async function listenWebTransportOn(
  identity: Identity,
  listen: string,
): Promise<WebTransportListening> {
  const match = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(listen);
  const host = match?.[1] ?? match?.[2] ?? '';
  if (!match || isIP(host) === 0 || Number(match[3]) > 65535) {
    throw new TunnelError('USAGE', `'${listen}' is no address to listen on`, {
      hint: 'example: --webtransport 0.0.0.0:4433',
    });
  }
  const { listenWebTransport } = await import('../session/engines/webtransport.js');
  const endpoint = await listenWebTransport({ identity, listen });
  const port = Number(endpoint.address.replace(/^.*:/, ''));
  const hints = reachableHosts(host).map((reachable) => ({
    address: formatHostPort(reachable, port),
    certificateHash: endpoint.certificateHash,
  }));
  return { endpoint, hints };
}

/** An unspecified address stands for those of the machine's interfaces; loopback only where there is nothing else. */
function reachableHosts(host: string): readonly string[] {
  if (host !== '0.0.0.0' && host !== '::') return [host];
  const all = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
  const usable = all.filter(
    ({ family, internal, address }) =>
      !internal && !address.startsWith('fe80:') && (host === '::' || family === 'IPv4'),
  );
  return usable.length > 0 ? usable.map(({ address }) => address) : ['127.0.0.1'];
}
