/** A bar in a line of text. */
const COLUMNS = 24;

/** `done` is from 0 to 1. */
export function progressBar(done: number, columns = COLUMNS): string {
  const full = Math.round(Math.min(1, Math.max(0, done)) * columns);
  return '█'.repeat(full) + '░'.repeat(columns - full);
}
