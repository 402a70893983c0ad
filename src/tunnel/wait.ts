export interface WaitOptions {
  readonly signal?: AbortSignal | undefined;
  /** Whether the process stays alive for it; it does unless said otherwise. */
  readonly keepAlive?: boolean;
}

/** Resolves after so many milliseconds, at once when the signal fires. */
export function wait(ms: number, { signal, keepAlive = true }: WaitOptions = {}): Promise<void> {
  if (signal?.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, Math.max(0, ms));
    if (!keepAlive) timer.unref();
    signal?.addEventListener('abort', done, { once: true });
  });
}
