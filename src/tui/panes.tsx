/** The panes: tables of what the snapshots have, in as many rows as they are given. */
import type { ReactElement } from 'react';
import { type Column, cells, place } from './columns.js';
import { duration, shortId } from './format.js';
import { asksFor, type Pane, type Screen, selectedIndex } from './keys.js';
import { firstRow } from './layout.js';
import { Line, Title } from './line.js';
import { channelColumns, downColumns, eventColumns, peerColumns, tunnelColumns } from './tables.js';
import type { View } from './view.js';

export interface PaneProps {
  readonly view: View;
  readonly screen: Screen;
  readonly height: number;
  readonly width: number;
  readonly color: boolean;
}

export function TunnelsPane(props: PaneProps): ReactElement {
  const { view } = props;
  return (
    <TablePane
      {...props}
      pane="tunnels"
      rows={view.tunnels}
      columns={() => tunnelColumns(options(view))}
      empty="nothing is forwarded or exposed"
      title={`TUNNELS ${view.tunnels.length}`}
    />
  );
}

export function PeersPane(props: PaneProps): ReactElement {
  const { view } = props;
  return (
    <TablePane
      {...props}
      pane="peers"
      rows={view.peers}
      columns={({ state }) =>
        state === 'connected' ? peerColumns(options(view)) : downColumns(options(view))
      }
      empty="nobody is connected"
      title={`PEERS ${view.peers.length}`}
    />
  );
}

export function ChannelsPane(props: PaneProps): ReactElement {
  const { view, screen } = props;
  const filtered = screen.filter === '' ? '' : ` of ${view.open} matching "${screen.filter}"`;
  return (
    <TablePane
      {...props}
      pane="channels"
      rows={view.channels}
      columns={() => channelColumns(options(view))}
      empty={view.open > 0 ? 'no channel matches the filter; esc clears it' : 'no open channels'}
      title={`CHANNELS ${view.matching}${filtered}`}
      right={`sort: ${screen.sort}${screen.reverse ? ', reversed' : ''}`}
    />
  );
}

export function EventsPane(props: PaneProps): ReactElement {
  const { view, screen } = props;
  const following = screen.selected.events === undefined;
  return (
    <TablePane
      {...props}
      pane="events"
      rows={view.events}
      columns={() => eventColumns(options(view))}
      empty="nothing has happened yet"
      title="EVENTS"
      right={following ? '' : 'scrolled back; G follows'}
    />
  );
}

export const APPROVAL_ROWS = 3;

/** Who waits to be let in. Nothing at all when nobody does; the loudest thing on the screen otherwise. */
export function ApprovalsPane({
  view,
  width,
  color,
}: Omit<PaneProps, 'height' | 'screen'>): ReactElement | null {
  const [first, ...others] = view.approvals;
  if (!first) return null;
  const { who, peer, from, until } = first;
  const name = who === shortId(peer) ? who : `${who} (${shortId(peer)})`;
  const left = duration(Date.parse(until) - view.now);
  const more = others.length === 0 ? '' : `, ${others.length} more behind it`;
  const keys = ['who', 'what', 'id'];
  const rows = [
    `‼ ${name} WAITS TO BE LET IN:  a allow  d deny   ${left} left${more}`,
    `  asks for ${asksFor(first)}, from ${from}`,
    `  ${peer}`,
  ];
  return (
    <>
      {rows.map((text, row) => (
        <Line
          key={keys[row]}
          selected
          width={width}
          color={color}
          segments={[{ text, bold: true, color: 'magenta' }]}
        />
      ))}
    </>
  );
}

interface TableProps<Row> extends PaneProps {
  readonly pane: Pane;
  readonly title: string;
  readonly right?: string;
  readonly rows: readonly Row[];
  /** The columns for a row of this kind. */
  columns(row: Row): readonly Column<Row>[];
  readonly empty: string;
}

function TablePane<Row extends { readonly rowKey: string }>(props: TableProps<Row>): ReactElement {
  const { view, screen, height, width, color, pane, rows, empty } = props;
  const focused = screen.pane === pane;
  const selected = selectedIndex(screen, view, pane);
  const first = firstRow(rows.length, height, selected);
  const shown = rows.slice(first, first + height);
  const blank = Array.from({ length: Math.max(0, height - Math.max(1, shown.length)) }, (_, row) => row);
  const placed = place(shown[0] ? props.columns(shown[0]) : [], shown, width - 2);
  return (
    <>
      <Title text={props.title} right={props.right ?? ''} width={width} color={color} focused={focused} />
      {shown.map((row, index) => (
        <Line
          // biome-ignore lint/suspicious/noArrayIndexKey: a line is its place on the screen, whatever row it shows
          key={index}
          width={width}
          color={color}
          selected={focused && first + index === selected}
          segments={cells(index === 0 ? placed : placeAgain(props, placed, shown, row, width), row)}
        />
      ))}
      {shown.length === 0 && <Line width={width} color={color} segments={[{ text: empty, dim: true }]} />}
      {blank.map((row) => (
        <Line key={`blank ${row}`} width={width} color={color} segments={[]} />
      ))}
    </>
  );
}

type Placed<Row> = ReturnType<typeof place<Row>>;

/** Peers without a session have columns of their own; all other rows share the first one's. */
function placeAgain<Row>(
  { pane, columns }: TableProps<Row>,
  placed: Placed<Row>,
  shown: readonly Row[],
  row: Row,
  width: number,
): Placed<Row> {
  return pane === 'peers' ? place(columns(row), shown, width - 2) : placed;
}

function options({ now, processes }: View) {
  return { now, several: processes.length > 1 };
}
