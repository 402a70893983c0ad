/** The selected row in full, as lines of a name and a value. */
import type { ChannelStatus, SessionStatus, StatusEvent } from '../tunnel/status.js';
import { bytes, duration, loss, rate, roundTrip, shortId, sparkline } from './format.js';
import type { Screen } from './keys.js';
import { wrap } from './text.js';
import type { Of, TunnelRow, View } from './view.js';

export interface DetailLine {
  readonly name: string;
  readonly value: string;
}

export interface Detail {
  readonly title: string;
  readonly lines: readonly DetailLine[];
}

const NAME_COLUMNS = 16;

/** `width` is what the lines may take. */
export function detailOf(screen: Screen, view: View, width: number): Detail {
  const key = screen.selected[screen.pane];
  const find = <T extends { readonly rowKey: string }>(rows: readonly T[]) =>
    rows.find(({ rowKey }) => rowKey === key);
  const { title, lines } = select(screen, view, find, width);
  return { title, lines: lines.flatMap((line) => wrapped(line, width - NAME_COLUMNS - 2)) };
}

function select(
  screen: Screen,
  view: View,
  find: <T extends { readonly rowKey: string }>(rows: readonly T[]) => T | undefined,
  width: number,
): Detail {
  switch (screen.pane) {
    case 'channels': {
      const channel = find(view.channels) ?? find(view.closed);
      if (channel) return channelDetail(channel);
      break;
    }
    case 'peers': {
      const peer = find(view.peers);
      if (peer) return peerDetail(peer, view.now, width);
      break;
    }
    case 'tunnels': {
      const tunnel = find(view.tunnels);
      if (tunnel) return tunnelDetail(tunnel, width);
      break;
    }
    case 'events': {
      const event = find(view.events);
      if (event) return eventDetail(event);
    }
  }
  return { title: 'GONE', lines: [{ name: '', value: 'it is not there any more; esc goes back' }] };
}

function channelDetail(channel: Of<ChannelStatus>): Detail {
  const { id, service, protocol, client, local, target, peer, path, state, reason } = channel;
  return {
    title: `CHANNEL ${id}`,
    lines: [
      { name: 'state', value: reason === undefined ? state : `${state}: ${reason}` },
      { name: 'service', value: `${service} (${protocol})` },
      ...(client === undefined ? [] : [{ name: 'from', value: client }]),
      ...(local === undefined ? [] : [{ name: 'came in at', value: local }]),
      ...(target === undefined ? [] : [{ name: 'target', value: target }]),
      { name: 'peer', value: peer },
      { name: 'path', value: path },
      { name: 'epoch', value: `${channel.epoch ?? 0}, resumed ${channel.resumes ?? 0} times` },
      { name: '▲ to the peer', value: `${exact(channel.bytesOut)}, ${rate(channel.rateOut)}` },
      { name: '▼ from the peer', value: `${exact(channel.bytesIn)}, ${rate(channel.rateIn)}` },
      { name: 'unacked', value: `${exact(channel.unackedBytes)} sent and not yet taken there` },
      { name: 'window', value: `${exact(channel.window)} may be under way to here` },
      ...(channel.drops === undefined ? [] : [{ name: 'dropped', value: `${channel.drops} datagrams` }]),
      { name: 'age', value: duration(channel.durationMs) },
      { name: 'process', value: String(channel.pid) },
    ],
  };
}

/** Whether the peers book has a name for it. */
function named({ who, peer }: { readonly who: string; readonly peer: string }): boolean {
  return who !== shortId(peer);
}

const HERE_COLUMNS = 26;

function peerDetail(peer: Of<SessionStatus>, now: number, width: number): Detail {
  const { theirs } = peer;
  const sideBySide = width - NAME_COLUMNS - 2 >= 2 * HERE_COLUMNS - 6;
  const both = (name: string, here: string, there: string | undefined) => {
    if (!theirs) return { name, value: here };
    return {
      name,
      value: sideBySide ? here.padEnd(HERE_COLUMNS) + (there ?? '') : `${here}; theirs ${there}`,
    };
  };
  const state = `${peer.state} for ${duration(now - Date.parse(peer.since))}`;
  const lines: DetailLine[] = [
    ...(named(peer) ? [{ name: 'name', value: peer.who }] : []),
    { name: 'node ID', value: peer.peer },
    { name: 'state', value: peer.error ? `${state}: ${peer.error.code} ${peer.error.message}` : state },
  ];
  if (peer.state === 'connected') {
    lines.push(
      {
        name: 'address',
        value: peer.family === undefined ? (peer.remote ?? '') : `${peer.remote} (${peer.family})`,
      },
      ...(peer.relayed
        ? [{ name: 'why a relay', value: `${peer.relayed.message} (${peer.relayed.hint})` }]
        : []),
      ...(theirs && sideBySide ? [both('', 'measured here', 'as the peer sees it')] : []),
      both('path', peer.path ?? '', theirs?.path),
      both('round trip', roundTrip(peer.rttMs ?? 0), theirs && roundTrip(theirs.rttMs)),
      both(
        'loss, sending',
        loss(peer.lossRatio) || 'not known',
        theirs && (loss(theirs.lossRatio) || 'not known'),
      ),
      // The same bytes side by side: what was sent here, and what of it came in there.
      both(
        '▲ to the peer',
        `${bytes(peer.bytesOut)}, ${rate(peer.rateOut)}`,
        theirs && `${bytes(theirs.bytesIn)}, ${rate(theirs.rateIn)}`,
      ),
      both(
        '▼ from the peer',
        `${bytes(peer.bytesIn)}, ${rate(peer.rateIn)}`,
        theirs && `${bytes(theirs.bytesOut)}, ${rate(theirs.rateOut)}`,
      ),
      ...(peer.congestionWindow === undefined
        ? []
        : [{ name: 'may be under way', value: `${bytes(peer.congestionWindow)} by the congestion window` }]),
      ...(peer.mtu === undefined ? [] : [{ name: 'packets', value: `up to ${peer.mtu} B` }]),
      both('channels', String(peer.channels), theirs && String(theirs.channels)),
    );
    if (!theirs) lines.push({ name: '', value: 'the peer does not tell its own figures' });
  }
  lines.push({ name: 'process', value: String(peer.pid) });
  return { title: 'PEER', lines };
}

function tunnelDetail(tunnel: TunnelRow, width: number): Detail {
  const columns = Math.max(10, Math.min(60, width - NAME_COLUMNS - 4));
  return {
    title: `TUNNEL ${tunnel.service}`,
    lines: [
      { name: 'protocol', value: tunnel.protocol },
      ...(tunnel.local === undefined ? [] : [{ name: 'listens on', value: tunnel.local }]),
      ...(tunnel.target === undefined ? [] : [{ name: 'target', value: tunnel.target }]),
      { name: 'service', value: tunnel.service },
      ...(tunnel.peer === undefined ? [] : [{ name: 'peer', value: tunnel.peer }]),
      { name: 'channels', value: `${tunnel.open} open, ${tunnel.total} since the start` },
      { name: '▲ to the peer', value: `${exact(tunnel.bytesOut)}, ${rate(tunnel.rateOut)}` },
      { name: '', value: sparkline(tunnel.history.out, columns) },
      { name: '▼ from the peer', value: `${exact(tunnel.bytesIn)}, ${rate(tunnel.rateIn)}` },
      { name: '', value: sparkline(tunnel.history.in, columns) },
      { name: 'process', value: String(tunnel.pid) },
    ],
  };
}

function eventDetail(event: Of<StatusEvent>): Detail {
  return {
    title: 'EVENT',
    lines: [
      { name: 'time', value: event.at },
      { name: 'level', value: event.level },
      ...(event.peer === undefined ? [] : [{ name: 'peer', value: event.peer }]),
      ...(event.count > 1 ? [{ name: 'happened', value: `${event.count} times in a row` }] : []),
      { name: 'process', value: String(event.pid) },
      { name: '', value: event.text },
    ],
  };
}

function exact(count: number): string {
  return count < 1000 ? `${count} B` : `${bytes(count)} (${count.toLocaleString('en-US')} B)`;
}

function wrapped({ name, value }: DetailLine, columns: number): readonly DetailLine[] {
  return wrap(value, Math.max(8, columns)).map((line, index) => ({
    name: index === 0 ? name : '',
    value: line,
  }));
}

export { NAME_COLUMNS as DETAIL_NAME_COLUMNS };
