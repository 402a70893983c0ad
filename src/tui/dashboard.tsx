/** The dashboard: a view of snapshots. It renders what it is given and says what was pressed. */
import { Box, render, useInput, useStdout } from 'ink';
import { type ReactElement, useEffect, useMemo, useRef, useState, useSyncExternalStore } from 'react';
import type { StatusActions, StatusFeed } from '../tunnel/status.js';
import { detailOf } from './detail.js';
import {
  detailPage,
  Footer,
  HELP_PAGE,
  Header,
  invitationPage,
  Page,
  type PageText,
  pageRows,
} from './frame.js';
import { type Effect, FIRST_SCREEN, type Key, press, type Screen, type Surroundings } from './keys.js';
import { heights } from './layout.js';
import { APPROVAL_ROWS, ApprovalsPane, ChannelsPane, EventsPane, PeersPane, TunnelsPane } from './panes.js';
import { type View, viewOf } from './view.js';

export interface DashboardProps {
  readonly feed: StatusFeed;
  readonly actions: StatusActions;
  /** Without it nothing is coloured; bold and inverse stay. */
  readonly color: boolean;
  /** What to run on the other machine; of an expose, which shows it until somebody has come. */
  readonly invitation?: (() => readonly string[] | undefined) | undefined;
  /** Ending the view ends the tunnel under it. */
  readonly endsTunnel: boolean;
  /** `interrupt` is Ctrl-C. */
  readonly onQuit: (how: 'quit' | 'interrupt') => void;
}

export function Dashboard(props: DashboardProps): ReactElement {
  const { feed, color } = props;
  const invitation = props.invitation?.();
  const { columns, rows } = useSize();
  const live = useSyncExternalStore(
    (listener) => feed.subscribe(listener),
    () => feed.current(),
  );
  const [screen, setScreen] = useState(FIRST_SCREEN);
  const held = useRef(live);
  if (!screen.paused) held.current = live;
  const snapshots = held.current;
  const { sort, reverse, filter, limit } = screen;
  useEffect(() => feed.ask({ sort, reverse, filter, limit }), [feed, sort, reverse, filter, limit]);
  const view = useMemo(
    () => viewOf(snapshots, { sort, reverse, filter }),
    [snapshots, sort, reverse, filter],
  );
  const alone = useRef(true);
  if (view.peers.length > 0) alone.current = false;
  const inviting = alone.current && invitation !== undefined && screen.mode === 'panes';
  const body = rows - 2 - (view.approvals.length > 0 ? APPROVAL_ROWS : 0);
  const sizes = heights({
    rows: body,
    focus: screen.pane,
    counts: {
      tunnels: view.tunnels.length,
      peers: view.peers.length,
      channels: view.channels.length,
      events: view.events.length,
    },
  });
  const rowsOver = pageRows(body);
  const over = pageOver(screen, { view, width: columns, invitation });
  useKeys(props, {
    screen,
    setScreen,
    around: (at) => {
      const page = at === screen ? over : pageOver(at, { view, width: columns, invitation });
      return {
        view,
        page: Math.max(1, sizes[at.pane] - 1),
        endsTunnel: props.endsTunnel,
        hasInvitation: invitation !== undefined,
        over: page && { lines: page.lines.length, rows: rowsOver },
      };
    },
  });
  const common = { view, screen, width: columns, color };
  return (
    <Box flexDirection="column" width={columns} height={rows}>
      <Header {...common} endsTunnel={props.endsTunnel} />
      <ApprovalsPane {...common} />
      {over ? (
        <Page page={over} scroll={screen.scroll} height={body} width={columns} color={color} />
      ) : (
        <Panes {...common} sizes={sizes} invitation={inviting ? invitation : undefined} />
      )}
      <Footer
        {...common}
        hasInvitation={invitation !== undefined}
        scrolls={over !== undefined && over.lines.length > rowsOver}
      />
    </Box>
  );
}

interface Surface {
  readonly view: View;
  readonly width: number;
  readonly invitation: readonly string[] | undefined;
}

/** What lies over the panes, if anything does. */
function pageOver(screen: Screen, { view, width, invitation }: Surface): PageText | undefined {
  switch (screen.mode) {
    case 'help':
      return HELP_PAGE;
    case 'invitation':
      return invitation && invitationPage(invitation, width);
    case 'detail':
      return detailPage(detailOf(screen, view, width - 2));
    default:
      return undefined;
  }
}

interface PanesProps {
  readonly view: View;
  readonly screen: Screen;
  readonly width: number;
  readonly color: boolean;
  readonly sizes: ReturnType<typeof heights>;
  /** Until somebody has come: the empty tables have no better use for their place. */
  readonly invitation: readonly string[] | undefined;
}

function Panes({ sizes, invitation, ...common }: PanesProps): ReactElement {
  const { width, color } = common;
  return (
    <>
      <TunnelsPane {...common} height={sizes.tunnels} />
      {invitation ? (
        <Page
          page={invitationPage(invitation, width)}
          scroll={0}
          more="t shows all of it"
          height={sizes.channels + sizes.peers + 2}
          width={width}
          color={color}
        />
      ) : (
        <>
          <PeersPane {...common} height={sizes.peers} />
          <ChannelsPane {...common} height={sizes.channels} />
        </>
      )}
      <EventsPane {...common} height={sizes.events} />
    </>
  );
}

interface KeyState {
  readonly screen: Screen;
  setScreen(screen: Screen): void;
  /** What a key meets on this screen. */
  around(screen: Screen): Surroundings;
}

function useKeys(props: DashboardProps, state: KeyState): void {
  // Several keys may come before React has rendered the first of them.
  const newest = useRef(state);
  newest.current = state;
  const show = (screen: Screen) => {
    newest.current = { ...newest.current, screen };
    state.setScreen(screen);
  };
  const say = (notice: string) => show({ ...newest.current.screen, notice });
  useInput((input, inkKey) => {
    const key = keyOf(input, inkKey);
    // What was typed fast, or pasted, comes as one text.
    const keys = key.input.length > 1 ? [...key.input].map((letter) => ({ input: letter })) : [key];
    for (const one of keys) {
      const { screen, around } = newest.current;
      const { screen: next, effect } = press(screen, one, around(screen));
      show(next);
      if (effect) void carryOut(effect, props, say);
    }
  });
}

async function carryOut(
  effect: Effect,
  { actions, onQuit }: DashboardProps,
  say: (notice: string) => void,
): Promise<void> {
  try {
    switch (effect.do) {
      case 'quit':
      case 'interrupt':
        onQuit(effect.do);
        break;
      case 'reset':
        say(
          (await actions.resetChannel(effect.pid, effect.id))
            ? `channel ${effect.id} was reset`
            : `channel ${effect.id} had ended by itself`,
        );
        break;
      case 'decide': {
        const { pid, id, who, allowed, always } = effect;
        const done = await actions.decide(pid, { id, allowed, always });
        const how = `${allowed ? 'allowed' : 'denied'} ${who}${always ? ', from now on' : ', this once'}`;
        say(done ? how : `${who} does not wait any more`);
      }
    }
  } catch (error) {
    say(error instanceof Error ? error.message : String(error));
  }
}

type InkKey = Parameters<Parameters<typeof useInput>[0]>[1];

function keyOf(input: string, key: InkKey): Key {
  const named =
    key.upArrow ||
    key.downArrow ||
    key.leftArrow ||
    key.rightArrow ||
    key.return ||
    key.escape ||
    key.tab ||
    key.backspace ||
    key.delete;
  return {
    input: named || key.pageUp || key.pageDown || key.home || key.end ? '' : input,
    up: key.upArrow,
    down: key.downArrow,
    left: key.leftArrow,
    right: key.rightArrow,
    pageUp: key.pageUp,
    pageDown: key.pageDown,
    home: key.home,
    end: key.end,
    enter: key.return,
    escape: key.escape,
    tab: key.tab,
    shift: key.shift,
    ctrl: key.ctrl,
    // Terminals send DEL for the backspace key.
    backspace: key.backspace || key.delete,
  };
}

function useSize(): { readonly columns: number; readonly rows: number } {
  const { stdout } = useStdout();
  const [size, setSize] = useState(sizeOf(stdout));
  useEffect(() => {
    const changed = () => setSize(sizeOf(stdout));
    stdout.on('resize', changed);
    return () => {
      stdout.off('resize', changed);
    };
  }, [stdout]);
  return size;
}

function sizeOf({ columns, rows }: NodeJS.WriteStream): { readonly columns: number; readonly rows: number } {
  return { columns: columns || 80, rows: rows || 24 };
}

export interface Mounted {
  unmount(): void;
}

/** Shows it on `stdout`, which is given each frame whole, as text with a row a line. */
export function mount(
  props: DashboardProps,
  stdin: NodeJS.ReadStream,
  stdout: NodeJS.WriteStream,
  onCrash: (error: unknown) => void,
): Mounted {
  const instance = render(<Dashboard {...props} />, {
    stdin,
    stdout,
    // Ink's name for handing over whole frames, unthrottled: what is painted of them is the caller's.
    debug: true,
    // And its name for rows that follow each other as they are, without a grid of cells: of 12,000 cells
    // nearly all of a frame's time went into making them and reading them out again.
    isScreenReaderEnabled: true,
    exitOnCtrlC: false,
    patchConsole: false,
  });
  // It rejects when a component throws; otherwise it resolves with `unmount`.
  instance.waitUntilExit().catch(onCrash);
  return { unmount: () => instance.unmount() };
}
