/** Text, figures, columns and rows of the view: everything that has to fit. */
import fc from 'fast-check';
import stringWidth from 'string-width';
import { describe, expect, it } from 'vitest';
import { type Column, cells, place } from '../../src/tui/columns.js';
import {
  bytes,
  clockDuration,
  duration,
  loss,
  rateOrIdle,
  roundTrip,
  sparkline,
} from '../../src/tui/format.js';
import { firstRow, heights } from '../../src/tui/layout.js';
import { clean, toWidth, widthOf, wrap, wrapCommand } from '../../src/tui/text.js';

// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
const OBEYED = /[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/;
const anyText = fc.string({
  unit: fc.constantFrom(
    ...'ab ─',
    '\x1b',
    '[',
    '2',
    'J',
    '\n',
    '中',
    '👩‍👩‍👧',
    '\u202e',
    'é',
    '\u0301',
    '\u{10ffff}',
    '\ud800',
  ),
});

describe('text', () => {
  it('fits its columns exactly, and holds nothing that a terminal obeys', () => {
    fc.assert(
      fc.property(
        anyText,
        fc.integer({ min: 1, max: 40 }),
        fc.constantFrom('left', 'right'),
        (text, columns, align) => {
          const shown = toWidth(text, columns, align as 'left' | 'right');
          expect(stringWidth(shown)).toBe(columns);
          expect(shown).not.toMatch(OBEYED);
        },
      ),
    );
  });

  it('is cut with an ellipsis, wide characters whole', () => {
    expect(toWidth('abcdef', 4)).toBe('abc…');
    expect(toWidth('中文字', 4)).toBe('中… ');
    expect(toWidth('x', 3, 'right')).toBe('  x');
    expect(toWidth('x', 0)).toBe('');
  });

  it('that piles marks on a letter keeps one column', () => {
    expect(widthOf(toWidth(`a${'\u0301'.repeat(50)}bcdef`, 4))).toBe(4);
    expect(toWidth(`a${'\u0301'.repeat(50)}bcdef`, 4)).not.toContain('\u0301');
  });

  it('wraps at spaces, and anywhere when there are none', () => {
    expect(wrap('the quick brown fox', 10)).toEqual(['the quick', 'brown fox']);
    expect(wrap('abcdefghij', 4)).toEqual(['abcd', 'efgh', 'ij']);
    fc.assert(
      fc.property(anyText, fc.integer({ min: 2, max: 30 }), (text, columns) => {
        for (const line of wrap(text, columns)) expect(stringWidth(line)).toBeLessThanOrEqual(columns);
        expect(wrap(text, columns).join('').replaceAll(' ', '')).toBe(clean(text).replaceAll(' ', ''));
      }),
    );
  });

  it('of a command stays one command when it is pasted', () => {
    const command = "  tunnel forward 'tunnel://abcdefghijklmnopqrstuvwxyz' 5432";
    const lines = wrapCommand(command, 20);
    expect(
      lines
        .slice(0, -1)
        .every((line) => line.endsWith(' \\') || line.includes('tunnel://') || /^[a-z]+$/.test(line)),
    ).toBe(true);
    // What a shell makes of a backslash at the end of a line, and `forward` of a break inside a ticket.
    expect(lines.join('\n').replace(/\\\n/g, '').replace(/\n/g, '')).toBe(command.trim());
  });
});

describe('figures', () => {
  it.each([
    [0, '0 B'],
    [999, '999 B'],
    [1000, '1.0 kB'],
    [99_949, '99.9 kB'],
    [99_951, '100 kB'],
    [999_499, '999 kB'],
    [999_500, '1.0 MB'],
    [2_300_000_000, '2.3 GB'],
    [Number.MAX_SAFE_INTEGER, '9.0 PB'],
  ])('%d bytes are %s', (count, text) => {
    expect(bytes(count)).toBe(text);
  });

  it('of time, loss and rate are short', () => {
    expect([4000, 192_000, 11_520_000, 190_800_000].map(duration)).toEqual(['4s', '3m12s', '3h12m', '2d5h']);
    expect(clockDuration(191_000)).toBe('00:03:11');
    expect([0.34, 3.4, 212].map(roundTrip)).toEqual(['0.34 ms', '3.4 ms', '212 ms']);
    expect([undefined, 0, 0.0123].map(loss)).toEqual(['', '0.0% lost', '1.2% lost']);
    expect([0, 48_100_000].map(rateOrIdle)).toEqual(['idle', '48.1 MB/s']);
  });

  it('of a minute are bars, the newest on the right', () => {
    expect(sparkline([1, 2, 4, 8, 0], 7)).toBe('  ▁▂▄▇ ');
    expect(sparkline([], 3)).toBe('   ');
  });
});

describe('columns', () => {
  const columns: readonly Column<{ readonly name: string }>[] = [
    { name: 'a', width: 5, priority: 1, cell: () => 'aaaaa' },
    { name: 'b', width: { most: 8 }, priority: 3, cell: ({ name }) => name },
    { name: 'c', width: { least: 4 }, priority: 2, cell: () => 'c' },
  ];

  it('are dropped by priority, and a flexible one takes the rest', () => {
    const names = (width: number) =>
      place(columns, [{ name: 'bbb' }], width).map(({ column }) => column.name);
    expect(names(40)).toEqual(['a', 'b', 'c']);
    expect(names(16)).toEqual(['a', 'b', 'c']);
    expect(names(15)).toEqual(['a', 'c']);
    expect(names(10)).toEqual(['a']);
    expect(names(2)).toEqual(['a']);
  });

  it('make rows of exactly the width, whatever is in them', () => {
    fc.assert(
      fc.property(anyText, fc.integer({ min: 16, max: 60 }), (name, width) => {
        const row = cells(place(columns, [{ name }], width), { name });
        expect(widthOf(row.map(({ text }) => text).join(''))).toBe(width);
      }),
    );
  });
});

describe('rows', () => {
  it('are shared out without one too many, down to a tiny screen', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 8, max: 100 }),
        fc.tuple(fc.nat(50), fc.nat(50), fc.nat(10_000), fc.nat(500)),
        fc.constantFrom('tunnels', 'peers', 'channels', 'events'),
        (rows, [tunnels, peers, channels, events], focus) => {
          const counts = { tunnels, peers, channels, events };
          const shared = heights({ rows, counts, focus: focus as keyof typeof counts });
          const all = Object.values(shared);
          expect(all.every((height) => height >= 1)).toBe(true);
          expect(all.reduce((sum, height) => sum + height, 4)).toBe(rows);
        },
      ),
    );
  });

  it('show the selected one', () => {
    fc.assert(
      fc.property(fc.nat(200), fc.integer({ min: 1, max: 40 }), (selected, height) => {
        const first = firstRow(201, height, selected);
        expect(selected).toBeGreaterThanOrEqual(first);
        expect(selected).toBeLessThan(first + height);
      }),
    );
    expect(firstRow(3, 10, 2)).toBe(0);
  });
});
