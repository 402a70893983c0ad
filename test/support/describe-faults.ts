/** What the fault suite's tests share: they run where namespaces can be made, and say why where not. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe } from 'vitest';
import { namespacesMissing } from './netns.js';

if (namespacesMissing !== undefined) say(`fault tests are skipped: ${namespacesMissing}`);

/** `describe`, skipped where namespaces cannot be made. */
export const describeFaults = describe.skipIf(namespacesMissing !== undefined);

/** A figure or a note for whoever runs the suite. */
export function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** How long a fault lasts. It is the fault itself: nothing else in these tests waits for a time to pass. */
export function lasting(ms: number): Promise<void> {
  return sleep(ms);
}

export function percentile(values: readonly number[], percent: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil((percent / 100) * sorted.length) - 1)] ?? Number.NaN;
}
