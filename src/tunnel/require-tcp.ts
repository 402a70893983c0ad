import { TunnelError } from '../error.js';
import type { Protocol } from './spec.js';

/** Throws USAGE: the grammar knows UDP, this version does not carry it. */
export function requireTcp(
  services: readonly { readonly name: string; readonly protocol: Protocol }[],
): void {
  const udp = services.find(({ protocol }) => protocol === 'udp');
  if (!udp) return;
  throw new TunnelError('USAGE', `'${udp.name}' is a UDP service, and this version carries TCP only`, {
    hint: `leave it out, or offer it over TCP: tcp:${udp.name}`,
  });
}
