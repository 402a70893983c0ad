/** The addresses of this machine's interfaces, as the system lists them. */
import { type NetworkInterfaceInfo, networkInterfaces } from 'node:os';

const MAX_HOSTS = 64;

export type InterfaceAddress = NetworkInterfaceInfo & { readonly name: string };

/** Interfaces without a carrier are not in it. Undefined where the system does not tell. */
export function interfaceAddresses(): readonly InterfaceAddress[] | undefined {
  try {
    return Object.entries(networkInterfaces()).flatMap(([name, addresses]) =>
      (addresses ?? []).map((address) => ({ name, ...address })),
    );
  } catch {
    // It needs a file descriptor: that there is none left says nothing about the network.
    return undefined;
  }
}

/** IP addresses, without ports, so that a peer can tell whether it talks to the machine or to a NAT before it. */
export function ownHosts(): readonly string[] {
  return (interfaceAddresses() ?? []).map(({ address }) => address).slice(0, MAX_HOSTS);
}

/** Those by which other machines may reach this one. */
export function reachableAddresses(): readonly InterfaceAddress[] {
  return (interfaceAddresses() ?? []).filter(
    ({ internal, address }) => !internal && !address.startsWith('fe80:'),
  );
}
