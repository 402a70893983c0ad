/** Signals: the first SIGINT or SIGTERM asks for an orderly end, the second for one at once. */
import { EXIT_OK, EXIT_SIGINT } from './exit-codes.js';

/** How long channels may go on after the first signal. */
export const DRAIN_MS = 10_000;

export interface Shutdown {
  /** Resolves with the exit code at the first signal. */
  readonly requested: Promise<number>;
  /** That exit code; undefined until then. */
  readonly code: number | undefined;
  /** Fires with it. */
  readonly signal: AbortSignal;
  /** Fires at the second. */
  readonly atOnce: AbortSignal;
  dispose(): void;
}

export function listenForShutdown(): Shutdown {
  const first = new AbortController();
  const atOnce = new AbortController();
  let asked: number | undefined;
  let resolve!: (code: number) => void;
  const requested = new Promise<number>((r) => {
    resolve = r;
  });
  const handle = (code: number) => {
    if (asked !== undefined) {
      atOnce.abort();
      return;
    }
    asked = code;
    resolve(code);
    first.abort();
  };
  const onInt = () => handle(EXIT_SIGINT);
  const onTerm = () => handle(EXIT_OK);
  process.on('SIGINT', onInt);
  process.on('SIGTERM', onTerm);
  return {
    requested,
    get code() {
      return asked;
    },
    signal: first.signal,
    atOnce: atOnce.signal,
    dispose() {
      process.off('SIGINT', onInt);
      process.off('SIGTERM', onTerm);
    },
  };
}
