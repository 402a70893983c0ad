/** A series of round trips, and what is said of it. */

export interface RoundTripFigures {
  /** Milliseconds. */
  readonly min: number;
  readonly p50: number;
  readonly max: number;
}

/** Undefined for none at all. */
export function roundTripFigures(rttsMs: readonly number[]): RoundTripFigures | undefined {
  if (rttsMs.length === 0) return undefined;
  const sorted = rttsMs.toSorted((a, b) => a - b);
  const at = (index: number) => sorted[index] as number;
  return {
    min: at(0),
    // The lower of the two in the middle: one that was measured.
    p50: at((sorted.length - 1) >> 1),
    max: at(sorted.length - 1),
  };
}

/** Microseconds are noise above a millisecond and news below. */
export function roundRtt(rttMs: number): number {
  return Math.round(rttMs * 1000) / 1000;
}
