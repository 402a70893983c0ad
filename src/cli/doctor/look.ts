/** Asks the network all at once, and waits for it no longer than it is told. */
import type { HomeRelay, IrohEndpoint, NetworkReport } from '../../session/engines/iroh-network.js';
import { reachableAddresses } from '../../session/interfaces.js';
import type { Relays } from '../proxy.js';
import type { Address, Findings } from './network.js';
import { probeRelay } from './network-probes.js';

/** The machine's own that others could use. */
export function ownAddresses(): readonly Address[] {
  return reachableAddresses().map(({ address, family }) => ({ address, family: family === 'IPv6' ? 6 : 4 }));
}

export interface LookOptions {
  readonly relays: Relays;
  readonly proxied: boolean;
  /** In all. */
  readonly timeoutMs: number;
}

/** Never rejects. */
export async function lookAround(endpoint: IrohEndpoint, options: LookOptions): Promise<Findings> {
  const { relays, proxied, timeoutMs } = options;
  const nothing = { waitedMs: timeoutMs, relays, report: undefined, homeRelays: [], probes: [], proxied };
  if (relays === 'none') return nothing;
  const startedAt = performance.now();
  const left = () => Math.max(0, timeoutMs - (performance.now() - startedAt));
  const ending = new AbortController();
  const timer = setTimeout(() => ending.abort(), timeoutMs);
  const named = relays === 'default' ? [] : relays;
  const probing = Promise.all(named.map((url) => probeRelay(url, timeoutMs)));
  // Where every relay has refused there will be no report to wait for.
  void probing.then((probes) => {
    if (!proxied && probes.length > 0 && probes.every(({ error }) => error !== undefined)) ending.abort();
  });
  try {
    const report: NetworkReport | undefined = await endpoint
      .networkReport({ signal: ending.signal })
      .catch(() => undefined);
    const found = relays === 'default' ? report?.preferredRelay : undefined;
    const [probes, nearest] = await Promise.all([
      probing,
      found === undefined ? undefined : probeRelay(found, left()),
      homeDecided(endpoint, ending.signal),
    ]);
    return {
      ...nothing,
      report,
      homeRelays: endpoint.homeRelays,
      probes: nearest ? [...probes, nearest] : probes,
    };
  } finally {
    clearTimeout(timer);
    ending.abort();
  }
}

/** Until the nearest relay has let this endpoint in, or has not; or until the signal. */
async function homeDecided(endpoint: IrohEndpoint, signal: AbortSignal): Promise<void> {
  const isDecided = ({ connected, denied }: HomeRelay) => connected || denied !== undefined;
  let end: (() => void) | undefined;
  await new Promise<void>((resolve) => {
    const look = () => {
      if (signal.aborted || endpoint.homeRelays.some(isDecided)) resolve();
    };
    end = endpoint.onHomeRelays(look);
    signal.addEventListener('abort', () => resolve(), { once: true });
    look();
  });
  end?.();
}
