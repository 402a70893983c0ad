/** An entry of the peers book, as events and as lines. Never its token. */
import { EVERY_SERVICE, type PeerEntry } from '../tunnel/peers-book.js';

/** The fields of a `peer` event. */
export function peerJson(name: string, entry: PeerEntry): Record<string, unknown> {
  const { nodeId, addresses, relays, webtransport, token, allow, deny } = entry;
  return {
    name,
    nodeId,
    addresses,
    relays,
    webtransport: webtransport.map(({ address }) => address),
    hasToken: token !== undefined,
    allow: [...allow].map(([service, until]) => ({
      service,
      ...(until === undefined ? {} : { until: new Date(until).toISOString() }),
    })),
    deny: [...deny],
  };
}

export function peerLines(name: string, entry: PeerEntry): readonly string[] {
  const { nodeId, addresses, relays, webtransport, token } = entry;
  const known = [...addresses, ...relays, ...webtransport.map(({ address }) => `${address} (WebTransport)`)];
  return [
    `name      ${name}`,
    `node      ${nodeId}`,
    ...known.map((address, index) => `${index === 0 ? 'reached   ' : '          '}${address}`),
    ...(token === undefined ? [] : ['token     kept, from its ticket']),
    `may reach ${rightsText(entry)}`,
  ];
}

export function rightsText({ allow, deny }: PeerEntry, now = Date.now()): string {
  if (deny.has(EVERY_SERVICE)) return 'nothing: it is denied';
  const allowed = [...allow].map(([service, until]) => {
    const name = service === EVERY_SERVICE ? 'everything' : service;
    if (until === undefined) return name;
    return until > now ? `${name} until ${new Date(until).toISOString()}` : `${name} (expired)`;
  });
  const denied = deny.size > 0 ? `, and is denied ${[...deny].join(', ')}` : '';
  return (allowed.length === 0 ? 'nothing by the book' : allowed.join(', ')) + denied;
}
