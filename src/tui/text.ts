/** Text that fits: cut and padded to terminal columns, with nothing in it that a terminal would obey. */
import { columnsOf } from './width.js';

const PLAIN = /^[\x20-\x7e]*$/;
/** Controls, formats (bidirectional overrides, joiners), separators, and what has no agreed width. */
const UNSAFE = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu;
const VARIATION = /[\ufe00-\ufe0f]/g;
/** A letter with more marks than this is no letter. */
const MAX_GRAPHEME = 8;
const segments = new Intl.Segmenter(undefined, { granularity: 'grapheme' });

export function clean(text: string): string {
  return PLAIN.test(text) ? text : text.replace(VARIATION, '').replace(UNSAFE, '�');
}

/** In columns. */
export function widthOf(text: string): number {
  return columnsOf(text);
}

/** Exactly `columns` wide: padded, or cut with an ellipsis. */
export function toWidth(text: string, columns: number, align: 'left' | 'right' = 'left'): string {
  if (columns <= 0) return '';
  const safe = clean(text);
  const width = widthOf(safe);
  const shown = width <= columns ? safe : cut(safe, columns);
  const space = ' '.repeat(Math.max(0, columns - (width <= columns ? width : widthOf(shown))));
  return align === 'left' ? shown + space : space + shown;
}

function cut(text: string, columns: number): string {
  if (PLAIN.test(text)) return `${text.slice(0, columns - 1)}…`;
  let shown = '';
  let width = 0;
  for (const { segment } of segments.segment(text)) {
    const letter = segment.length > MAX_GRAPHEME ? '�' : segment;
    const next = columnsOf(letter);
    if (width + next > columns - 1) break;
    shown += letter;
    width += next;
  }
  return `${shown}…`;
}

/** Lines of at most `columns`, broken at spaces where there are any. */
export function wrap(text: string, columns: number): readonly string[] {
  const lines: string[] = [];
  let line = '';
  let width = 0;
  for (const { segment } of segments.segment(clean(text))) {
    const next = columnsOf(segment);
    if (width + next > columns) {
      const space = line.lastIndexOf(' ');
      const rest = space > columns / 2 && segment !== ' ' ? line.slice(space + 1) : '';
      lines.push((rest === '' ? line : line.slice(0, space)).trimEnd());
      line = rest;
      width = columnsOf(rest);
    }
    line += segment;
    width += next;
  }
  lines.push(line);
  return lines;
}

/**
 * A shell command on lines of at most `columns` that still is one command when it is pasted: broken
 * between words with a backslash. A longer word is broken anywhere; a ticket in quotes bears that.
 */
export function wrapCommand(command: string, columns: number): readonly string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of clean(command).trim().split(' ')) {
    const longer = line === '' ? word : `${line} ${word}`;
    if (longer.length <= columns - 2) {
      line = longer;
      continue;
    }
    if (line !== '') lines.push(`${line} \\`);
    line = word;
    while (line.length > columns - 2) {
      lines.push(line.slice(0, columns - 2));
      line = line.slice(columns - 2);
    }
  }
  lines.push(line);
  return lines;
}
