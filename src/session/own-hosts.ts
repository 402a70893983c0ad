/** The addresses of this machine, so that a peer can tell whether it talks to the machine or to a NAT before it. */
import { networkInterfaces } from 'node:os';

const MAX_HOSTS = 64;

/** IP addresses, without ports. Empty where the system does not tell. */
export function ownHosts(): readonly string[] {
  try {
    const all = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
    return all.map(({ address }) => address).slice(0, MAX_HOSTS);
  } catch {
    // It needs a file descriptor.
    return [];
  }
}
