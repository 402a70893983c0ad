/** What is around the panes: the header, the footer, and what lies over them. */
import type { ReactElement } from 'react';
import type { Segment } from './columns.js';
import { DETAIL_NAME_COLUMNS, type Detail } from './detail.js';
import { duration, rate, shortId } from './format.js';
import type { Screen } from './keys.js';
import { Line, Title } from './line.js';
import { toWidth, widthOf, wrap, wrapCommand } from './text.js';
import { sum, type View } from './view.js';

interface FrameProps {
  readonly view: View;
  readonly screen: Screen;
  readonly width: number;
  readonly color: boolean;
}

export function Header({ view, screen, width, color }: FrameProps): ReactElement {
  const { processes, now } = view;
  const [first] = processes;
  const peers = new Set(view.peers.filter(({ state }) => state === 'connected').map(({ peer }) => peer));
  const parts: (Segment & { readonly keep: number })[] = [
    ...urgentText(view, screen),
    { text: 'tunnel', bold: true, color: 'cyan', keep: 1 },
  ];
  if (processes.length === 1 && first) {
    parts.push({ text: first.command, keep: 4 });
    parts.push({ text: `${first.identity} ${shortId(first.nodeId)}`, keep: 5 });
    parts.push({ text: `up ${duration(now - Date.parse(first.startedAt))}`, keep: 2 });
  } else {
    parts.push({ text: `${processes.length} processes`, keep: 2 });
  }
  parts.push({ text: `${peers.size} ${peers.size === 1 ? 'peer' : 'peers'}`, keep: 2 });
  parts.push({ text: `▲ ${rate(sum(processes, ({ totals }) => totals.rateOut))}`, bold: true, keep: 1 });
  parts.push({ text: `▼ ${rate(sum(processes, ({ totals }) => totals.rateIn))}`, bold: true, keep: 1 });
  const segments = squeeze(parts, width - 2);
  return <Line width={width} color={color} segments={segments} />;
}

/** With two spaces between them; what matters least goes first when they do not fit. */
function squeeze(parts: readonly (Segment & { readonly keep: number })[], width: number): readonly Segment[] {
  let kept = parts;
  const total = () => sum(kept, ({ text }) => widthOf(text) + 2) - 2;
  while (kept.length > 1 && total() > width) {
    const least = kept.reduce((a, b) => (b.keep > a.keep ? b : a));
    kept = kept.filter((part) => part !== least);
  }
  return kept.map(({ keep: _, text, ...style }, index) => ({
    ...style,
    text: index === 0 ? text : `  ${text}`,
  }));
}

/** Before everything else, since the end of the line may be cut. */
function urgentText(
  { processes, now }: View,
  { paused }: Screen,
): readonly (Segment & { readonly keep: number })[] {
  const until = processes.find(({ stoppingUntil }) => stoppingUntil !== undefined)?.stoppingUntil;
  if (until !== undefined) {
    const left = duration(Date.parse(until) - now);
    return [{ text: `STOPPING, ${left} at most; q again ends now`, bold: true, color: 'yellow', keep: 0 }];
  }
  return paused ? [{ text: 'PAUSED', bold: true, color: 'yellow', keep: 0 }] : [];
}

const KEYS: readonly (readonly [key: string, does: string])[] = [
  ['q', 'quit'],
  ['?', 'help'],
  ['tab', 'pane'],
  ['↑↓', 'select'],
  ['enter', 'detail'],
  ['/', 'filter'],
  ['s', 'sort'],
  ['x', 'reset channel'],
  ['p', 'pause'],
];

export interface FooterProps extends FrameProps {
  readonly hasInvitation: boolean;
}

export function Footer({ view, screen, width, color, hasInvitation }: FooterProps): ReactElement {
  const say = (text: string) => (
    <Line
      width={width}
      color={color}
      segments={[{ text: toWidth(text, width - 1), bold: true, color: 'yellow' }]}
    />
  );
  switch (screen.mode) {
    case 'filter':
      return say(`/${screen.filter}▏ enter keeps, esc clears; type to filter channels`);
    case 'confirm-reset': {
      const id = view.channels.find(({ rowKey }) => rowKey === screen.selected.channels)?.id;
      return say(`reset channel ${id ?? '(gone)'}?  y yes  n no: both applications see a broken connection`);
    }
    case 'confirm-quit': {
      const open = view.open === 1 ? '1 open channel gets' : `${view.open} open channels get`;
      return say(`stop?  y yes  n no: ${open} 10 s to end`);
    }
    case 'decide': {
      const { who, services, allowed } = screen.deciding ?? { who: '', services: '', allowed: false };
      const what = allowed ? `let ${who} in to ${services}` : `deny ${who}`;
      return say(`1 this once  2 always  esc not now: ${what}?`);
    }
    case 'help':
    case 'invitation':
      return say('any key goes back');
  }
  if (screen.notice !== undefined) return say(screen.notice);
  const keys: (readonly [string, string])[] = [...KEYS];
  if (hasInvitation) keys.splice(2, 0, ['t', 'ticket']);
  if (view.approvals.length > 0) keys.unshift(['a', 'allow'], ['d', 'deny']);
  if (screen.mode === 'detail') keys.splice(2, 0, ['esc', 'back']);
  const segments: Segment[] = [];
  let used = 1;
  for (const [key, does] of keys) {
    const gap = segments.length === 0 ? '' : '  ';
    used += gap.length + widthOf(key) + 1 + does.length;
    if (used > width) break;
    segments.push({ text: `${gap}${key}`, bold: true }, { text: ` ${does}`, dim: true });
  }
  return <Line width={width} color={color} segments={segments} />;
}

export interface PageProps {
  readonly title: string;
  /** A name, if any, and what it is. */
  readonly lines: readonly { readonly name: string; readonly value: string }[];
  readonly nameColumns: number;
  readonly height: number;
  readonly width: number;
  readonly color: boolean;
}

/** Takes the place of the panes. */
export function Page({ title, lines, nameColumns, height, width, color }: PageProps): ReactElement {
  const rows = Array.from({ length: height - 1 }, (_, row) => row);
  return (
    <>
      <Title text={title} width={width} color={color} focused />
      {rows.map((row) => {
        const line = lines[row];
        const segments: Segment[] =
          line === undefined
            ? []
            : [
                { text: nameColumns === 0 ? '' : `${toWidth(line.name, nameColumns)}  `, dim: true },
                { text: line.value },
              ];
        return <Line key={row} width={width} color={color} segments={segments} />;
      })}
    </>
  );
}

export function DetailPage({
  detail,
  ...props
}: Pick<PageProps, 'height' | 'width' | 'color'> & { readonly detail: Detail }): ReactElement {
  return <Page {...props} title={detail.title} lines={detail.lines} nameColumns={DETAIL_NAME_COLUMNS} />;
}

/** Short enough for 40 columns and 15 rows. */
const HELP: readonly { readonly name: string; readonly value: string }[] = [
  { name: 'tab', value: 'next pane; shift-tab back' },
  { name: '↑ ↓ j k', value: 'select; PgUp PgDn; g G ends' },
  { name: 'enter', value: 'all about the row; esc back' },
  { name: '/', value: 'only channels with a text' },
  { name: 's  S', value: 'sort by next field; reverse' },
  { name: 'p  space', value: 'hold the screen still' },
  { name: 'x', value: 'reset channel; asks first' },
  { name: 'a  d', value: 'let in or deny who waits' },
  { name: 't', value: 'expose: show the ticket' },
  { name: 'q  Ctrl-C', value: 'quit; open channels: 10 s' },
  { name: '▲ ▼', value: 'to the peer, from the peer' },
  { name: '● ◌', value: 'connected, not connected' },
];

export function HelpPage(props: Pick<PageProps, 'height' | 'width' | 'color'>): ReactElement {
  return <Page {...props} title="HELP" lines={HELP} nameColumns={10} />;
}

/** The lines of `expose`, broken where they must be: pasted back, the breaks do no harm. */
export function InvitationPage({
  invitation,
  ...props
}: Pick<PageProps, 'height' | 'width' | 'color'> & { readonly invitation: readonly string[] }): ReactElement {
  const lines = invitation.flatMap((line) =>
    // What is set in is a command.
    /^ {2}\S/.test(line) ? wrapCommand(line, props.width - 1) : wrap(line, props.width - 2),
  );
  return (
    <Page {...props} title="TICKET" nameColumns={0} lines={lines.map((value) => ({ name: '', value }))} />
  );
}
