/** What keys do: from one state of the screen to the next, and what the process is asked for. Pure. */
import type { Approval, ChannelSort } from '../tunnel/status.js';
import type { View } from './view.js';

export const PANES = ['tunnels', 'peers', 'channels', 'events'] as const;
export type Pane = (typeof PANES)[number];

const SORTS: readonly ChannelSort[] = ['rate', 'bytes', 'age', 'id', 'service', 'peer'];
/** Channels a view asks for at first, and more each time the selection comes near their end. */
export const FIRST_LIMIT = 500;

export type Mode =
  | 'panes'
  | 'detail'
  | 'filter'
  | 'help'
  | 'invitation'
  | 'confirm-reset'
  | 'confirm-quit'
  | 'decide';

export interface Screen {
  readonly mode: Mode;
  readonly pane: Pane;
  /** By pane: the key of the selected row; none follows the top, or the newest event. */
  readonly selected: Readonly<Partial<Record<Pane, string>>>;
  readonly filter: string;
  readonly sort: ChannelSort;
  readonly reverse: boolean;
  readonly limit: number;
  readonly paused: boolean;
  /** The first line shown of the page over the panes, as far as it has so many. */
  readonly scroll: number;
  /** What was answered last, until the next key. */
  readonly notice: string | undefined;
  /** The question that is being answered; others may come and go meanwhile. */
  readonly deciding?: Deciding | undefined;
}

export interface Deciding {
  readonly pid: number;
  readonly id: number;
  readonly who: string;
  readonly services: string;
  readonly allowed: boolean;
}

export const FIRST_SCREEN: Screen = {
  mode: 'panes',
  pane: 'channels',
  selected: {},
  filter: '',
  sort: 'rate',
  reverse: false,
  limit: FIRST_LIMIT,
  paused: false,
  scroll: 0,
  notice: undefined,
};

export interface Key {
  /** The characters typed, or empty for the keys below. */
  readonly input: string;
  readonly up?: boolean;
  readonly down?: boolean;
  readonly left?: boolean;
  readonly right?: boolean;
  readonly pageUp?: boolean;
  readonly pageDown?: boolean;
  readonly home?: boolean;
  readonly end?: boolean;
  readonly enter?: boolean;
  readonly escape?: boolean;
  readonly tab?: boolean;
  readonly shift?: boolean;
  readonly ctrl?: boolean;
  readonly backspace?: boolean;
}

export type Effect =
  | { readonly do: 'quit' }
  | { readonly do: 'interrupt' }
  | { readonly do: 'reset'; readonly pid: number; readonly id: number }
  | ({ readonly do: 'decide'; readonly always: boolean } & Deciding);

export interface Pressed {
  readonly screen: Screen;
  readonly effect?: Effect;
}

export interface Surroundings {
  readonly view: View;
  /** Rows that a page has. */
  readonly page: number;
  /** Ending the view ends the tunnel: ask before that. */
  readonly endsTunnel: boolean;
  readonly hasInvitation: boolean;
  /** The page over the panes, if there is one: its lines, and how many of them have room. */
  readonly over: { readonly lines: number; readonly rows: number } | undefined;
}

export function press(before: Screen, key: Key, around: Surroundings): Pressed {
  const screen = before.notice === undefined ? before : { ...before, notice: undefined };
  if (key.ctrl && key.input === 'c') return { screen, effect: { do: 'interrupt' } };
  switch (screen.mode) {
    case 'filter':
      return { screen: typeFilter(screen, key) };
    case 'confirm-reset':
      return confirmReset(screen, key, around.view);
    case 'confirm-quit':
      if (key.input === 'y' || key.input === 'q')
        return { screen: { ...screen, mode: 'panes' }, effect: { do: 'quit' } };
      return { screen: { ...screen, mode: 'panes' } };
    case 'decide':
      return decided(screen, key);
    case 'help':
    case 'invitation': {
      const { over } = around;
      const scrolled = over && over.lines > over.rows ? scroll(screen, key, over) : undefined;
      return { screen: scrolled ?? { ...screen, mode: 'panes' } };
    }
    default:
      return command(screen, key, around);
  }
}

function command(screen: Screen, key: Key, around: Surroundings): Pressed {
  const moved = screen.mode === 'detail' ? read(screen, key, around) : move(screen, key, around);
  if (moved) return { screen: moved };
  if (key.tab) {
    const next = PANES.indexOf(screen.pane) + (key.shift ? PANES.length - 1 : 1);
    return { screen: { ...screen, mode: 'panes', pane: PANES[next % PANES.length] as Pane } };
  }
  if (key.enter) return { screen: openDetail(screen, around.view) };
  if (key.escape) {
    if (screen.mode === 'detail') return { screen: { ...screen, mode: 'panes' } };
    return { screen: { ...screen, filter: '', selected: {} } };
  }
  const { view } = around;
  switch (key.input) {
    case 'q': {
      const stopping = view.processes.some(({ stoppingUntil }) => stoppingUntil !== undefined);
      if (around.endsTunnel && view.open > 0 && !stopping)
        return { screen: { ...screen, mode: 'confirm-quit' } };
      return { screen, effect: { do: 'quit' } };
    }
    case '/':
      return { screen: { ...screen, mode: 'filter', pane: 'channels' } };
    case 's': {
      const sort = SORTS[(SORTS.indexOf(screen.sort) + 1) % SORTS.length] as ChannelSort;
      return { screen: { ...screen, sort, reverse: false } };
    }
    case 'S':
      return { screen: { ...screen, reverse: !screen.reverse } };
    case 'p':
    case ' ':
      return { screen: { ...screen, paused: !screen.paused } };
    case 'x':
      return { screen: askReset(screen, view) };
    case 'a':
    case 'd':
      return { screen: askDecision(screen, view, key.input === 'a') };
    case 't':
      if (around.hasInvitation) return { screen: { ...screen, mode: 'invitation', scroll: 0 } };
      return { screen };
    case '?':
    case 'h':
      return { screen: { ...screen, mode: 'help', scroll: 0 } };
    default:
      return { screen };
  }
}

// ---- selection

export function rowKeys(view: View, pane: Pane): readonly string[] {
  return view[pane].map(({ rowKey }) => rowKey);
}

/** Where the selected row is; the first one, or the newest event, when there is none. */
export function selectedIndex(screen: Screen, view: View, pane: Pane): number {
  const rows = view[pane];
  const key = screen.selected[pane];
  const found = key === undefined ? -1 : rows.findIndex(({ rowKey }) => rowKey === key);
  if (found >= 0) return found;
  return pane === 'events' ? Math.max(0, rows.length - 1) : 0;
}

/** Where a key leads from `at`, between 0 and `last`; undefined for a key that leads nowhere. */
function target(
  key: Key,
  { at, page, last }: { readonly at: number; readonly page: number; readonly last: number },
): number | undefined {
  let to: number;
  if (key.up || key.input === 'k') to = at - 1;
  else if (key.down || key.input === 'j') to = at + 1;
  else if (key.pageUp) to = at - page;
  else if (key.pageDown) to = at + page;
  else if (key.home || key.input === 'g') to = 0;
  else if (key.end || key.input === 'G') to = last;
  else return undefined;
  return Math.max(0, Math.min(to, last));
}

function move(screen: Screen, key: Key, { view, page }: Surroundings): Screen | undefined {
  const { pane } = screen;
  const rows = rowKeys(view, pane);
  const index = target(key, { at: selectedIndex(screen, view, pane), page, last: rows.length - 1 });
  if (index === undefined) return undefined;
  if (rows.length === 0) return screen;
  // At the newest event the log follows again.
  const follow = pane === 'events' && index === rows.length - 1;
  const selected = { ...screen.selected };
  if (follow) delete selected.events;
  else selected[pane] = rows[index] as string;
  const near = pane === 'channels' && index > screen.limit - page * 2;
  return { ...screen, selected, limit: near ? screen.limit + FIRST_LIMIT : screen.limit };
}

function scroll(
  screen: Screen,
  key: Key,
  { lines, rows }: NonNullable<Surroundings['over']>,
): Screen | undefined {
  const last = Math.max(0, lines - rows);
  // After a resize it may be scrolled too far.
  const to = target(key, { at: Math.min(screen.scroll, last), page: rows, last });
  return to === undefined ? undefined : { ...screen, scroll: to };
}

/** In a detail, what moves the selection elsewhere scrolls; the rows beside it are to its left and right. */
function read(screen: Screen, key: Key, around: Surroundings): Screen | undefined {
  if (!key.left && !key.right) return around.over && scroll(screen, key, around.over);
  const step: Key = { input: '', up: key.left === true, down: key.right === true };
  const moved = move(screen, step, around);
  return moved && { ...pinned(moved, around.view), scroll: 0 };
}

/** Pins the selection: what is asked for must not change under it. */
function pinned(screen: Screen, view: View): Screen {
  const key = rowKeys(view, screen.pane)[selectedIndex(screen, view, screen.pane)];
  return key === undefined ? screen : { ...screen, selected: { ...screen.selected, [screen.pane]: key } };
}

function openDetail(screen: Screen, view: View): Screen {
  if (screen.mode === 'detail') return { ...screen, mode: 'panes' };
  if (view[screen.pane].length === 0) return { ...screen, notice: `there is nothing in ${screen.pane}` };
  return { ...pinned(screen, view), mode: 'detail', scroll: 0 };
}

// ---- what asks

function askReset(screen: Screen, view: View): Screen {
  if (screen.pane !== 'channels') return { ...screen, notice: 'select a channel to reset: tab to CHANNELS' };
  const next = pinned(screen, view);
  if (!view.channels.some(({ rowKey }) => rowKey === next.selected.channels)) {
    return { ...screen, notice: 'there is no channel to reset' };
  }
  return { ...next, mode: 'confirm-reset' };
}

function confirmReset(screen: Screen, key: Key, view: View): Pressed {
  const next: Screen = { ...screen, mode: 'panes' };
  if (key.input !== 'y') return { screen: { ...next, notice: 'not reset' } };
  const channel = view.channels.find(({ rowKey }) => rowKey === screen.selected.channels);
  if (!channel) return { screen: { ...next, notice: 'the channel has ended by itself' } };
  return { screen: next, effect: { do: 'reset', pid: channel.pid, id: channel.id } };
}

function askDecision(screen: Screen, view: View, allowed: boolean): Screen {
  const [first] = view.approvals;
  if (!first) return { ...screen, notice: 'nobody waits to be let in' };
  const { pid, id, who } = first;
  return { ...screen, mode: 'decide', deciding: { pid, id, who, services: asksFor(first), allowed } };
}

function decided({ deciding, ...screen }: Screen, key: Key): Pressed {
  const next: Screen = { ...screen, mode: 'panes' };
  if (!deciding || (key.input !== '1' && key.input !== '2')) {
    return { screen: { ...next, notice: 'not decided' } };
  }
  return { screen: next, effect: { do: 'decide', ...deciding, always: key.input === '2' } };
}

/** What a waiting peer wants. */
export function asksFor({ services, everything, more }: Approval): string {
  const names = services.join(', ') + (more > 0 ? ` and ${more} more` : '');
  return everything ? `everything: ${names}` : names;
}

// ---- the filter

function typeFilter(screen: Screen, key: Key): Screen {
  if (key.escape) return { ...screen, mode: 'panes', filter: '' };
  if (key.enter || key.tab) return { ...screen, mode: 'panes' };
  if (key.backspace) return { ...screen, filter: screen.filter.slice(0, -1) };
  if (key.ctrl && key.input === 'u') return { ...screen, filter: '' };
  if (key.ctrl || key.input === '') return screen;
  const selected = { ...screen.selected };
  delete selected.channels;
  return { ...screen, selected, filter: (screen.filter + key.input).slice(0, 100), limit: FIRST_LIMIT };
}
