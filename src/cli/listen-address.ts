/** Addresses to listen on, as given by flags, and those under which others reach them. */
import { isIP } from 'node:net';
import { TunnelError } from '../error.js';
import { reachableAddresses } from '../session/interfaces.js';

export interface ListenAddress {
  readonly host: string;
  /** 0 for any free one. */
  readonly port: number;
}

/** Throws USAGE for what is no `ip:port`. */
export function parseListenAddress(text: string, flag: string): ListenAddress {
  const match = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2] ?? '';
  if (!match || isIP(host) === 0 || Number(match[3]) > 65535) {
    throw new TunnelError('USAGE', `'${text}' is no address to listen on`, {
      hint: `example: ${flag} 0.0.0.0:4433`,
    });
  }
  return { host, port: Number(match[3]) };
}

/** An unspecified address stands for those of the machine's interfaces; loopback only where there is nothing else. */
export function reachableHosts(host: string): readonly string[] {
  if (host !== '0.0.0.0' && host !== '::') return [host];
  const usable = reachableAddresses().filter(({ family }) => host === '::' || family === 'IPv4');
  return usable.length > 0 ? usable.map(({ address }) => address) : ['127.0.0.1'];
}
