/** What is around the panes: the header, the footer, and what lies over them. */
import type { ReactElement } from 'react';
import type { Segment, Style } from './columns.js';
import { DETAIL_NAME_COLUMNS, type Detail } from './detail.js';
import { duration, rate, shortId } from './format.js';
import type { Screen } from './keys.js';
import { firstLine } from './layout.js';
import { Line, Title } from './line.js';
import { toWidth, widthOf, wrap, wrapCommand } from './text.js';
import { sum, type View } from './view.js';

interface FrameProps {
  readonly view: View;
  readonly screen: Screen;
  readonly width: number;
  readonly color: boolean;
}

export interface HeaderProps extends FrameProps {
  /** Ending the view ends the tunnel under it. */
  readonly endsTunnel: boolean;
}

export function Header({ view, screen, width, color, endsTunnel }: HeaderProps): ReactElement {
  const { processes, now } = view;
  const [first] = processes;
  const peers = new Set(view.peers.filter(({ state }) => state === 'connected').map(({ peer }) => peer));
  const urgent: Style = { bold: true, color: 'yellow' };
  const parts: (Segment & { readonly keep: number })[] = [
    ...urgentTexts(view, screen, endsTunnel).map((text) => ({ text, keep: 0, ...urgent })),
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
function urgentTexts({ processes, now }: View, { paused }: Screen, endsTunnel: boolean): readonly string[] {
  const texts = paused ? ['PAUSED'] : [];
  for (const { pid, stoppingUntil, silentMs } of processes) {
    const which = processes.length > 1 ? ` ${pid}` : '';
    if (silentMs !== undefined) {
      texts.push(`NO NEWS${which} for ${duration(silentMs)}`);
    } else if (stoppingUntil !== undefined) {
      const left = duration(Date.parse(stoppingUntil) - now);
      texts.push(`STOPPING${which}, ${left} at most${endsTunnel ? '; q again ends now' : ''}`);
    }
  }
  return texts;
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

const DETAIL_KEYS: typeof KEYS = [
  ['q', 'quit'],
  ['?', 'help'],
  ['esc', 'back'],
  ['↑↓', 'scroll'],
  ['←→', 'other rows'],
  ['p', 'pause'],
];

export interface FooterProps extends FrameProps {
  readonly hasInvitation: boolean;
  /** The page over the panes is longer than its place. */
  readonly scrolls: boolean;
}

export function Footer({ view, screen, width, color, hasInvitation, scrolls }: FooterProps): ReactElement {
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
      return say(scrolls ? '↑↓ scroll; any other key goes back' : 'any key goes back');
  }
  if (screen.notice !== undefined) return say(screen.notice);
  const keys = screen.mode === 'detail' ? [...DETAIL_KEYS] : [...KEYS];
  if (hasInvitation && screen.mode !== 'detail') keys.splice(2, 0, ['t', 'ticket']);
  if (view.approvals.length > 0) keys.unshift(['a', 'allow'], ['d', 'deny']);
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

/** Takes the place of the panes. */
export interface PageText {
  readonly title: string;
  /** A name, if any, and what it is. */
  readonly lines: readonly { readonly name: string; readonly value: string }[];
  readonly nameColumns: number;
}

export interface PageProps {
  readonly page: PageText;
  readonly scroll: number;
  /** What the title says when not all of it fits; where it is without that. */
  readonly more?: string;
  readonly height: number;
  readonly width: number;
  readonly color: boolean;
}

/** The title is not among them. */
export function pageRows(height: number): number {
  return Math.max(1, height - 1);
}

export function Page({ page, scroll, more, height, width, color }: PageProps): ReactElement {
  const { title, lines, nameColumns } = page;
  const count = pageRows(height);
  const first = firstLine(lines.length, count, scroll);
  const place = more ?? `${first + 1}-${first + count} of ${lines.length}`;
  const rows = Array.from({ length: count }, (_, row) => row);
  return (
    <>
      <Title text={title} right={lines.length > count ? place : ''} width={width} color={color} focused />
      {rows.map((row) => {
        const line = lines[first + row];
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

export function detailPage({ title, lines }: Detail): PageText {
  return { title, lines, nameColumns: DETAIL_NAME_COLUMNS };
}

/** Short enough for 40 columns and 15 rows. */
export const HELP_PAGE: PageText = {
  title: 'HELP',
  nameColumns: 10,
  lines: [
    { name: 'tab', value: 'next pane; shift-tab back' },
    { name: '↑ ↓ j k', value: 'select; PgUp PgDn; g G ends' },
    { name: 'enter', value: 'all about it; ← → next; esc' },
    { name: '/', value: 'only channels with a text' },
    { name: 's  S', value: 'sort by next field; reverse' },
    { name: 'p  space', value: 'hold the screen still' },
    { name: 'x', value: 'reset channel; asks first' },
    { name: 'a  d', value: 'let in or deny who waits' },
    { name: 't', value: 'expose: show the ticket' },
    { name: 'q  Ctrl-C', value: 'quit; open channels: 10 s' },
    { name: '▲ ▼', value: 'to the peer, from the peer' },
    { name: '● ◌', value: 'connected, not connected' },
  ],
};

/** The lines of `expose`, broken where they must be: pasted back, the breaks do no harm. */
export function invitationPage(invitation: readonly string[], width: number): PageText {
  const lines = invitation.flatMap((line) =>
    // What is set in is a command.
    /^ {2}\S/.test(line) ? wrapCommand(line, width - 1) : wrap(line, width - 2),
  );
  return { title: 'TICKET', nameColumns: 0, lines: lines.map((value) => ({ name: '', value })) };
}
