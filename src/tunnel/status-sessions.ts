/** The peers of a status model: live sessions with their paths, and links that have none and why. */
import type { PeerSession } from '../session/handshake.js';
import type { TunnelEvent } from './events.js';
import type { PeerFigures, SessionStatus } from './status.js';
import type { ChannelRecord } from './status-channels.js';
import { Meter } from './status-rates.js';

/** The engine is asked this often at most: each answer is a call into it. */
const STATS_MS = 900;
/** Time constant of the loss shown, in samples. */
const LOSS_WEIGHT = 0.1;

type NoticeEvent = Extract<TunnelEvent, { event: 'notice' }>;
type SessionEvent = Extract<TunnelEvent, { event: 'session' }>;

interface Live {
  readonly since: string;
  readonly meter: Meter;
  bytesIn: number;
  bytesOut: number;
  packetsSent: number;
  packetsLost: number;
  /** Packets a sample, decaying; the loss is their ratio. */
  recentSent: number;
  recentLost: number;
  mtu: number;
  congestionWindow: number;
  rttMs: number;
  askedAt: number;
  channels: number;
  theirs: PeerFigures | undefined;
  /** Milliseconds since 1970; set while the peer does not answer. */
  silentSince: number | undefined;
}

interface Down {
  readonly since: string;
  readonly event: SessionEvent;
  readonly at: number;
}

export class SessionRecords {
  readonly #now: () => number;
  readonly #live = new Map<PeerSession, Live>();
  /** Links without a session, by peer and by link. */
  readonly #down = new Map<string, Down>();
  /** Why a peer's sessions stay on a relay, as last told. */
  readonly #relayed = new Map<string, NonNullable<SessionStatus['relayed']>>();

  constructor(now: () => number) {
    this.#now = now;
  }

  /** Some peer is not there, and how long that is changes by the second. */
  get waiting(): boolean {
    return (
      this.#down.size > 0 || [...this.#live.values()].some(({ silentSince }) => silentSince !== undefined)
    );
  }

  /** `link` tells links with one peer apart, as of one that is dialled and that dials in. */
  observe(event: SessionEvent, link: string): void {
    const key = `${event.peer} ${link}`;
    if (event.state === 'connecting' || event.state === 'reconnecting') {
      const since = this.#down.get(key)?.since ?? new Date(this.#downSince(event)).toISOString();
      this.#down.set(key, { since, event, at: Date.now() });
    } else {
      this.#down.delete(key);
    }
  }

  notice({ code, peer, reason, message, hint }: NoticeEvent): void {
    if (code !== 'relayed' || peer === undefined) return;
    this.#relayed.set(peer, { reason: reason ?? 'unknown', message, hint: hint ?? '' });
  }

  peerSays(session: PeerSession, figures: PeerFigures | undefined): void {
    const live = this.#live.get(session);
    if (live) live.theirs = figures;
  }

  peerSilent(session: PeerSession, silentMs: number | undefined): void {
    const live = this.#live.get(session);
    if (live) live.silentSince = silentMs === undefined ? undefined : Date.now() - silentMs;
  }

  sample(
    sessions: Iterable<PeerSession>,
    channels: Iterable<ChannelRecord>,
    elapsedMs: number,
    weight: number,
  ): void {
    const gone = new Set(this.#live.keys());
    for (const session of sessions) {
      gone.delete(session);
      const live = this.#live.get(session) ?? this.#add(session);
      if (this.#now() - live.askedAt >= STATS_MS) this.#ask(session, live);
      live.meter.sample(elapsedMs, weight);
      live.channels = 0;
    }
    for (const session of gone) this.#live.delete(session);
    const relayed = [...this.#live.keys()].filter(({ session }) => session.path.kind === 'iroh-relay');
    const peers = new Set<string>(relayed.map(({ peer }) => peer));
    for (const peer of this.#relayed.keys()) if (!peers.has(peer)) this.#relayed.delete(peer);
    this.#countChannels(channels);
  }

  snapshot(): readonly SessionStatus[] {
    const rows: SessionStatus[] = [];
    // By peer and not by session: who looks at a peer goes on looking at it when its session is another one.
    const counts = new Map<string, number>();
    const keyOf = (peer: string) => {
      const count = (counts.get(peer) ?? 0) + 1;
      counts.set(peer, count);
      return count === 1 ? peer : `${peer}#${count}`;
    };
    for (const [{ peer, session }, live] of this.#live) {
      const { kind, remote } = session.path;
      rows.push({
        key: keyOf(peer),
        peer,
        ...stateOf(live),
        path: kind,
        remote,
        rttMs: live.rttMs,
        ...lossOf(live),
        ...pathFacts(remote, live),
        ...(kind === 'iroh-relay' ? this.#relayedOf(peer) : {}),
        channels: live.channels,
        ...live.meter.traffic(),
        ...(live.theirs === undefined ? {} : { theirs: live.theirs }),
      });
    }
    for (const { since, event, at } of this.#down.values()) {
      const { peer } = event;
      rows.push({
        key: keyOf(peer),
        peer,
        state: event.state,
        since,
        channels: 0,
        ...NO_TRAFFIC,
        ...(event.error === undefined ? {} : { error: event.error }),
        ...(event.approval === undefined ? {} : { approval: event.approval }),
        ...(event.nextTryMs === undefined ? {} : { nextTryAt: new Date(at + event.nextTryMs).toISOString() }),
      });
    }
    return rows;
  }

  ofPeer(peer: string): PeerFigures | undefined {
    const [session, live] = [...this.#live].findLast(([one]) => one.peer === peer) ?? [];
    if (!session || !live) return undefined;
    return {
      ...live.meter.traffic(),
      channels: live.channels,
      path: session.session.path.kind,
      rttMs: live.rttMs,
      ...lossOf(live),
    };
  }

  /** Milliseconds since 1970; of a peer that was shown as silent, since it was. */
  #downSince({ peer, downMs = 0 }: SessionEvent): number {
    const [, live] = [...this.#live].find(([one, { silentSince }]) => one.peer === peer && silentSince) ?? [];
    return live?.silentSince ?? Date.now() - downMs;
  }

  #relayedOf(peer: string): Pick<SessionStatus, 'relayed'> {
    const relayed = this.#relayed.get(peer);
    return relayed ? { relayed } : {};
  }

  #add(session: PeerSession): Live {
    const live: Live = {
      since: new Date().toISOString(),
      meter: new Meter(),
      bytesIn: 0,
      bytesOut: 0,
      packetsSent: 0,
      packetsLost: 0,
      recentSent: 0,
      recentLost: 0,
      mtu: 0,
      congestionWindow: 0,
      rttMs: 0,
      askedAt: Number.NEGATIVE_INFINITY,
      channels: 0,
      theirs: undefined,
      silentSince: undefined,
    };
    this.#live.set(session, live);
    return live;
  }

  #ask({ session }: PeerSession, live: Live): void {
    live.askedAt = this.#now();
    const stats = session.stats();
    live.meter.add(stats.bytesReceived - live.bytesIn, stats.bytesSent - live.bytesOut);
    live.recentSent += (stats.packetsSent - live.packetsSent - live.recentSent) * LOSS_WEIGHT;
    live.recentLost += (stats.packetsLost - live.packetsLost - live.recentLost) * LOSS_WEIGHT;
    live.bytesIn = stats.bytesReceived;
    live.bytesOut = stats.bytesSent;
    live.packetsSent = stats.packetsSent;
    live.packetsLost = stats.packetsLost;
    live.rttMs = Math.round(stats.rttMs * 1000) / 1000;
    live.mtu = stats.mtu;
    live.congestionWindow = stats.congestionWindow;
  }

  #countChannels(channels: Iterable<ChannelRecord>): void {
    const counts = new Map<string, number>();
    for (const { figures } of channels) counts.set(figures.peer, (counts.get(figures.peer) ?? 0) + 1);
    for (const [{ peer }, live] of this.#live) live.channels = counts.get(peer) ?? 0;
  }
}

const NO_TRAFFIC = { bytesIn: 0, bytesOut: 0, rateIn: 0, rateOut: 0 };

/** A peer that does not answer is dialled again already, while its session is not given up yet. */
function stateOf({ since, silentSince }: Live): Pick<SessionStatus, 'state' | 'since' | 'error'> {
  if (silentSince === undefined) return { state: 'connected', since };
  const message = `no answer for ${Math.round((Date.now() - silentSince) / 1000)} s`;
  return {
    state: 'reconnecting',
    since: new Date(silentSince).toISOString(),
    error: { code: 'SESSION_LOST', message },
  };
}

function lossOf({ recentSent, recentLost, packetsSent }: Live): { readonly lossRatio?: number } {
  if (packetsSent === 0 || recentSent <= 0) return {};
  return { lossRatio: Math.min(1, Math.max(0, Math.round((recentLost / recentSent) * 10_000) / 10_000)) };
}

function pathFacts(
  remote: string,
  { mtu, congestionWindow }: Live,
): Pick<SessionStatus, 'family' | 'mtu' | 'congestionWindow'> {
  const family = familyOf(remote);
  return {
    ...(family === undefined ? {} : { family }),
    ...(mtu > 0 ? { mtu } : {}),
    ...(congestionWindow > 0 ? { congestionWindow } : {}),
  };
}

/** Of `ip:port`, or of a URL whose host is an address. */
function familyOf(remote: string): 'IPv4' | 'IPv6' | undefined {
  const host = remote.replace(/^[a-z]+:\/\//, '');
  if (host.startsWith('[')) return 'IPv6';
  return /^\d+\.\d+\.\d+\.\d+(?=[:/]|$)/.test(host) ? 'IPv4' : undefined;
}
