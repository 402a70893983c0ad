/** One row of the terminal, exactly as wide as it. */
import { Text } from 'ink';
import type { ReactElement } from 'react';
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
  const used = segments.reduce((sum, { text }) => sum + widthOf(text), 1);
  return (
    <Text wrap="truncate" inverse={selected}>
      {selected ? '›' : ' '}
      {segments.map((segment, index) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: a segment is its place in the row
        <Text key={index} {...(selected ? {} : props(segment, color))}>
          {clean(segment.text)}
        </Text>
      ))}
      {/* Only there are they seen. */}
      {selected ? ' '.repeat(Math.max(0, width - used)) : ''}
    </Text>
  );
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
  return (
    <Text wrap="truncate">
      <Text {...props(style, color)}>{toWidth(start, Math.min(width, widthOf(start)))}</Text>
      <Text dimColor>
        {'─'.repeat(Math.max(0, room))}
        {room >= 0 ? end : ''}
      </Text>
    </Text>
  );
}

export function props({ color: name, bold, dim }: Style, color: boolean): object {
  return {
    ...(name !== undefined && color ? { color: name } : {}),
    ...(bold ? { bold } : {}),
    ...(dim ? { dimColor: dim } : {}),
  };
}
