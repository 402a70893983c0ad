/**
 * Names looked up as iroh does it, by the file of hosts and the name servers. The system's own look-up cannot
 * be given up: a process waits for it at its end, which takes ten seconds and more where no server answers.
 */
import { Resolver } from 'node:dns/promises';
import { readFile } from 'node:fs/promises';
import { isIP, type LookupFunction } from 'node:net';
import { systemCode } from '../../error.js';
import type { DnsFindings } from './network.js';

const HOSTS = process.platform === 'win32' ? 'C:\\Windows\\System32\\drivers\\etc\\hosts' : '/etc/hosts';

export interface ResolveOptions {
  /** In all. */
  readonly timeoutMs: number;
  /** `ip:port` of name servers; the system's when left out. */
  readonly servers?: readonly string[];
}

/** Rejects with the system's error, `ETIMEOUT` when the time is over. */
async function resolveName(host: string, { timeoutMs, servers }: ResolveOptions): Promise<readonly string[]> {
  if (isIP(host) !== 0) return [host];
  const written = addressesIn(await readFile(HOSTS, 'utf8').catch(() => ''), host);
  if (written.length > 0) return written;
  const resolver = new Resolver({ timeout: timeoutMs, tries: 1 });
  if (servers) resolver.setServers(servers);
  // Several servers have that time each.
  const timer = setTimeout(() => resolver.cancel(), timeoutMs);
  try {
    return await Promise.any([resolver.resolve4(host), resolver.resolve6(host)]);
  } catch (error) {
    const [first] = (error as AggregateError).errors as [unknown];
    throw systemCode(first) === 'ECANCELLED'
      ? Object.assign(new Error('no answer'), { code: 'ETIMEOUT' })
      : first;
  } finally {
    clearTimeout(timer);
    resolver.cancel();
  }
}

export function addressesIn(hosts: string, host: string): readonly string[] {
  return hosts.split('\n').flatMap((line) => {
    const [address = '', ...names] = line.replace(/#.*/, '').trim().split(/\s+/);
    return names.some((name) => name.toLowerCase() === host.toLowerCase()) ? [address] : [];
  });
}

/** Never rejects. */
export async function lookUp(host: string | undefined, options: ResolveOptions): Promise<DnsFindings> {
  if (host === undefined) return { host, addresses: [], error: undefined };
  try {
    return { host, addresses: await resolveName(host, options), error: undefined };
  } catch (error) {
    const code = systemCode(error) ?? (error as Error).message;
    const isLate = code === 'ETIMEOUT';
    return { host, addresses: [], error: isLate ? `no answer within ${options.timeoutMs / 1000} s` : code };
  }
}

/** For connections: what they would look up themselves could not be given up. */
export function boundedLookup(timeoutMs: number): LookupFunction {
  return (host, { all }, callback) => {
    resolveName(host, { timeoutMs }).then(
      (found) => {
        const addresses = found.map((address) => ({ address, family: isIP(address) }));
        if (all) callback(null, addresses);
        else callback(null, addresses[0]?.address ?? '', addresses[0]?.family);
      },
      (error: NodeJS.ErrnoException) => callback(error, ''),
    );
  };
}
