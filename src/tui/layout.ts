/** How the rows of the screen are shared out, and which rows of a long table are seen. */
import { PANES, type Pane } from './keys.js';

/** Rows of each pane, without its title. */
export type Heights = Readonly<Record<Pane, number>>;

export interface Sizes {
  /** For all panes with their titles. */
  readonly rows: number;
  readonly counts: Readonly<Record<Pane, number>>;
  /** Gets up to half when it needs it. */
  readonly focus: Pane;
}

const SHARE: Readonly<Record<Pane, number>> = { tunnels: 0.25, peers: 0.2, channels: 0, events: 0.2 };

/** Channels take what is left. */
export function heights({ rows, counts, focus }: Sizes): Heights {
  const free = Math.max(PANES.length, rows - PANES.length);
  const share = (pane: Pane) => {
    const most = Math.max(1, Math.floor(free * (pane === focus ? 0.5 : SHARE[pane])));
    return Math.min(Math.max(1, counts[pane]), most);
  };
  // The log has its place from the start, so that the first events do not push everything about.
  const least = Math.min(3, Math.max(1, Math.floor(free * SHARE.events)));
  const shared = {
    tunnels: share('tunnels'),
    peers: share('peers'),
    events: Math.max(least, share('events')),
  };
  const channels = () => free - shared.tunnels - shared.peers - shared.events;
  while (channels() < 1) {
    const others = ['tunnels', 'peers', 'events'] as const;
    const largest = others.reduce((a, b) => (shared[b] > shared[a] ? b : a));
    shared[largest] -= 1;
  }
  return { ...shared, channels: channels() };
}

/** The first row shown, so that `selected` is in sight. */
export function firstRow(count: number, height: number, selected: number): number {
  const middle = selected - Math.floor(height / 2);
  return Math.max(0, Math.min(middle, count - height));
}

/** The first line shown of a page that is scrolled: never beyond its last screenful. */
export function firstLine(lines: number, rows: number, scroll: number): number {
  return Math.max(0, Math.min(scroll, lines - rows));
}
