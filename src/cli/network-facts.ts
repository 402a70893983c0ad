/** What an endpoint knows of its network, as far as it explains which paths there are. */
import type { IrohEndpoint } from '../session/engines/iroh-network.js';
import type { FactsSource } from '../tunnel/relayed.js';

/** Of no use to anybody on another network. */
const LINK_LOCAL = /^(?:169\.254\.|\[fe[89ab])/;

export function factsOf(endpoint: IrohEndpoint): FactsSource {
  return async (signal) => {
    const { direct } = endpoint.addresses();
    const families = direct
      .filter((address) => !LINK_LOCAL.test(address))
      .map((address) => address[0] === '[');
    const own = { addresses: direct.length, ipv4: families.includes(false), ipv6: families.includes(true) };
    // Without a relay that answers there is no report.
    const report = await endpoint.networkReport({ signal }).catch(() => undefined);
    if (!report) return own;
    const { udpV4, udpV6, relays, variesByDestinationV4: v4, variesByDestinationV6: v6 } = report;
    // A relay without TLS has nothing to send UDP to: that none came back says nothing then.
    const isAsked = relays.some(({ url }) => url.startsWith('https:'));
    return {
      ...own,
      ...(udpV4 || udpV6 ? { udp: true } : isAsked ? { udp: false } : {}),
      ...(v4 === undefined && v6 === undefined ? {} : { symmetricNat: v4 === true || v6 === true }),
    };
  };
}
