/** The list of services as it travels in the answer of `services.list`. */
import { TunnelError } from '../error.js';
import type { PeerSession } from '../session/handshake.js';
import { decodeServices, type ServiceInfo } from '../session/hello.js';
import { formatService } from './spec.js';

const LIST_DEADLINE_MS = 10_000;

export function encodeServices(services: readonly ServiceInfo[]): Buffer {
  return Buffer.from(JSON.stringify(services), 'utf8');
}

/** What the peer lets this side reach, now. Throws what a call throws, or PROTOCOL. */
export async function listServices(peer: PeerSession): Promise<readonly ServiceInfo[]> {
  const answer = await peer.rpc.call('services.list', new Uint8Array(), { deadlineMs: LIST_DEADLINE_MS });
  try {
    return decodeServices(JSON.parse(Buffer.from(answer).toString('utf8')));
  } catch (error) {
    throw new TunnelError('PROTOCOL', 'the peer sent a malformed list of services', { cause: error });
  }
}

export function formatServices(services: readonly ServiceInfo[]): string {
  if (services.length === 0) return 'nothing';
  return services.map(({ name, protocol }) => formatService(name, protocol)).join(', ');
}
