/** Signals: the first SIGINT or SIGTERM asks for an orderly end, the second for one at once. */
import { EXIT_OK, EXIT_SIGINT } from './exit-codes.js';

/** How long channels may go on after the first signal. */
export const DRAIN_MS = 10_000;

export interface Shutdown {
  /** Resolves with the exit code at the first signal. */
  readonly requested: Promise<number>;
  /** Fires at the second. */
  readonly atOnce: AbortSignal;
  dispose(): void;
}

export function listenForShutdown(): Shutdown {
  const atOnce = new AbortController();
  let seen = false;
  let resolve!: (code: number) => void;
  const requested = new Promise<number>((r) => {
    resolve = r;
  });
  const handle = (code: number) => {
    if (seen) atOnce.abort();
    seen = true;
    resolve(code);
  };
  const onInt = () => handle(EXIT_SIGINT);
  const onTerm = () => handle(EXIT_OK);
  process.on('SIGINT', onInt);
  process.on('SIGTERM', onTerm);
  return {
    requested,
    atOnce: atOnce.signal,
    dispose() {
      process.off('SIGINT', onInt);
      process.off('SIGTERM', onTerm);
    },
  };
}
