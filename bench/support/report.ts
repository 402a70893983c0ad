/** Medians, the table and the goals. */

/** Every round's value of one metric, by contender. */
export type Rounds = Map<string, number[]>;

export interface Metric {
  readonly key: string;
  readonly title: string;
  readonly digits: number;
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length === 0) return Number.NaN;
  if (sorted.length % 2 === 1) return sorted[middle] as number;
  return ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}

/** The median of the rounds' own ratios: a neighbour who slows a round slows both sides of it. */
export function ratio(rounds: Rounds, name: string, base: string): number {
  const others = rounds.get(base) ?? [];
  return median((rounds.get(name) ?? []).map((value, round) => value / (others[round] ?? Number.NaN)));
}

export function table(
  metrics: readonly Metric[],
  measured: ReadonlyMap<string, Rounds>,
  names: readonly string[],
  base: string | undefined,
): string {
  const rows = [['', ...names]];
  for (const { key, title, digits } of metrics) {
    const rounds = measured.get(key);
    if (!rounds) continue;
    rows.push([
      title,
      ...names.map((name) => {
        const value = median(rounds.get(name) ?? []);
        if (Number.isNaN(value)) return '';
        const text = value.toFixed(digits);
        return base === undefined || name === base
          ? text
          : `${text} (${ratio(rounds, name, base).toFixed(2)})`;
      }),
    ]);
  }
  return align(rows);
}

function align(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows
    .map((row) =>
      row
        .map((cell, column) =>
          column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0),
        )
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

export interface Goal {
  readonly what: string;
  readonly bound: '≥' | '≤';
  readonly wanted: number;
  readonly unit: string;
  readonly value: number;
  readonly digits: number;
}

export function isMet({ bound, wanted, value }: Goal): boolean {
  return bound === '≥' ? value >= wanted : value <= wanted;
}

export function goalLine(goal: Goal): string {
  const { what, bound, wanted, unit, value, digits } = goal;
  return `goal ${what} ${bound} ${wanted} ${unit}: ${value.toFixed(digits)} ${isMet(goal) ? 'ok' : 'short'}`;
}
