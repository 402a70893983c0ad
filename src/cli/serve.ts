/** Runs a service in the foreground until it ends or is told to, and answers the exit code. */
import type { TunnelError } from '../error.js';
import { collectSeldom } from './heap.js';
import { DRAIN_MS, type Shutdown } from './shutdown.js';

export interface ForegroundService {
  /** Resolves when the service ended by itself, with the error to end with. Missing where it never does. */
  readonly ended?: Promise<TunnelError | undefined>;
  close(drainMs: number, signal?: AbortSignal): Promise<void>;
}

/** Rethrows the error that ended the service. */
export async function serve(service: ForegroundService, shutdown: Shutdown): Promise<number> {
  collectSeldom();
  const code = await Promise.race([shutdown.requested, ...(service.ended ? [service.ended] : [])]);
  await service.close(typeof code === 'number' ? DRAIN_MS : 0, shutdown.atOnce);
  if (typeof code === 'number') return code;
  if (code) throw code;
  return 0;
}
