/** One row of the terminal: a mark, styled texts, and never wider than it may be. */
import { styleText } from 'node:util';
import { Text, Transform } from 'ink';
import { memo, type ReactElement } from 'react';
import type { Segment, Style } from './columns.js';
import { clean, toWidth, widthOf } from './text.js';

export interface LineProps {
  readonly segments: readonly Segment[];
  readonly width: number;
  readonly color: boolean;
  readonly selected?: boolean;
}

/** Selection is shown by a mark as well as by inverse video; the row's own colours would make patches of it. */
export function Line({ segments, width, color, selected = false }: LineProps): ReactElement {
  const fitting = within(segments, width - 1);
  // What is blank at its end a terminal need not be told.
  if (!selected) return <Row text={` ${paint(fitting, color).trimEnd()}`} />;
  const text = fitting.map((segment) => segment.text).join('');
  return <Row text={styleText('inverse', `›${toWidth(text, width - 1)}`, ALWAYS)} />;
}

export interface TitleProps {
  readonly text: string;
  readonly right?: string;
  readonly width: number;
  readonly color: boolean;
  readonly focused: boolean;
}

/** ` PEERS 2 ───────────── sort: rate ─` */
export function Title({ text, right = '', width, color, focused }: TitleProps): ReactElement {
  const end = right === '' ? '' : ` ${clean(right)} ─`;
  const start = `${focused ? '▸' : ' '}${clean(text)} `;
  const room = width - widthOf(start) - widthOf(end);
  const style: Style = focused ? { bold: true, color: 'cyan' } : { bold: true };
  const rule = room >= 0 ? '─'.repeat(room) + end : '─'.repeat(Math.max(0, width - widthOf(start)));
  const segments = [
    { text: start, ...style },
    { text: rule, dim: true },
  ];
  return <Row text={paint(within(segments, width), color)} />;
}

/**
 * What Ink is given of a row. It measures the children of a text whenever they change, and keeps each
 * text that it ever measured: gigabytes a day of rows that change four times a second. What a transform
 * makes of constant children is neither measured again nor kept.
 */
const Row = memo(function Row({ text }: { readonly text: string }): ReactElement {
  return (
    <Text>
      <Transform transform={() => text}> </Transform>
    </Text>
  );
});

/** What does not fit is cut. */
function within(segments: readonly Segment[], width: number): readonly Segment[] {
  const fitting: Segment[] = [];
  let left = width;
  for (const segment of segments) {
    const text = clean(segment.text);
    const taken = widthOf(text);
    fitting.push({ ...segment, text: taken <= left ? text : toWidth(text, left) });
    left -= taken;
    if (left < 0) break;
  }
  return fitting;
}

/** Whether this terminal is to have colours has been decided; Node would ask its streams again. */
const ALWAYS = { validateStream: false };

function paint(segments: readonly Segment[], color: boolean): string {
  return segments
    .map(({ text, color: name, bold, dim }) => {
      const styles = [
        ...(name !== undefined && color ? [name] : []),
        ...(bold ? ['bold' as const] : []),
        ...(dim ? ['dim' as const] : []),
      ];
      return styles.length === 0 ? text : styleText(styles, text, ALWAYS);
    })
    .join('');
}
