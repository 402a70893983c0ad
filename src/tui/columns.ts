/** Tables that fit their width: columns are dropped by priority, and one of them takes what is left. */
import { clean, toWidth, widthOf } from './text.js';

export interface Style {
  readonly color?: 'green' | 'yellow' | 'red' | 'cyan' | 'magenta';
  readonly bold?: boolean;
  readonly dim?: boolean;
}

export interface Column<Row> {
  readonly name: string;
  readonly cell: (row: Row, columns: number) => string;
  /** Fixed, or as wide as its widest cell between two bounds, or whatever is left from `least` on. */
  readonly width: number | { readonly most: number } | { readonly least: number };
  /** 1 is dropped last. */
  readonly priority: number;
  readonly align?: 'left' | 'right';
  readonly style?: (row: Row) => Style;
}

export interface Segment extends Style {
  readonly text: string;
}

const GAP = 2;

interface Placed<Row> {
  readonly column: Column<Row>;
  readonly width: number;
}

/** Which columns are shown, and how wide. `rows` are those on screen. */
export function place<Row>(
  columns: readonly Column<Row>[],
  rows: readonly Row[],
  width: number,
): readonly Placed<Row>[] {
  let placed = columns
    .map((column) => ({ column, width: needed(column, rows) }))
    .filter((one) => one.width > 0);
  const total = () => placed.reduce((sum, one) => sum + one.width + GAP, -GAP);
  while (placed.length > 1 && total() > width) {
    const lowest = placed.reduce((a, b) => (b.column.priority >= a.column.priority ? b : a));
    placed = placed.filter((one) => one !== lowest);
  }
  const left = width - total();
  return placed.map((one) =>
    isFlexible(one.column) || left < 0 ? { ...one, width: Math.max(0, one.width + left) } : one,
  );
}

export function cells<Row>(placed: readonly Placed<Row>[], row: Row): readonly Segment[] {
  return placed.map(({ column, width }, index) => ({
    text: (index === 0 ? '' : ' '.repeat(GAP)) + toWidth(column.cell(row, width), width, column.align),
    ...column.style?.(row),
  }));
}

function isFlexible<Row>({ width }: Column<Row>): boolean {
  return typeof width === 'object' && 'least' in width;
}

function needed<Row>({ width, cell }: Column<Row>, rows: readonly Row[]): number {
  if (typeof width === 'number') return width;
  if ('least' in width) return width.least;
  let widest = 0;
  for (const row of rows) widest = Math.max(widest, widthOf(clean(cell(row, width.most))));
  return Math.min(widest, width.most);
}
