/** Listens for one peer's services: one link, one entry per spec. */
import { TunnelError } from '../error.js';
import { peerIsGone, whereToAsk } from '../session/gone-peer.js';
import type { PeerSession } from '../session/handshake.js';
import { Link, type LinkOptions, type LinkState } from '../session/link.js';
import { watchNetwork } from '../session/network-watch.js';
import { type NodeId, shortNodeId } from '../session/node-id.js';
import { OpenedChannels } from '../session/opened-channels.js';
import type { Dispatcher } from '../session/rpc-session.js';
import type { SessionPath } from '../session/session.js';
import { ChannelTable, statusSource } from './channel-table.js';
import { Descriptors } from './descriptors.js';
import { type Dialler, dialPeer } from './dial-peer.js';
import { errorEvent, type Report } from './events.js';
import { RateLimit } from './rate-limit.js';
import type { Rates } from './rates.js';
import { type FactsSource, factsMethods } from './relayed.js';
import { reportConnected } from './report-session.js';
import { formatServices } from './services.js';
import type { ForwardSpec } from './spec.js';
import type { StatusSource } from './status.js';
import { TcpEntry } from './tcp-entry.js';
import { UdpEntries } from './udp-entries.js';

const ERRORS_PER_SECOND = 10;

export interface ForwardOptions extends Dialler {
  readonly specs: readonly ForwardSpec[];
  readonly report: Report;
  readonly onSilent?: LinkOptions['onSilent'];
  /** What the peer may call here, besides what UDP needs. */
  readonly methods?: Dispatcher | undefined;
  /** Ends with UNREACHABLE after so long without a session, milliseconds; never unless given. */
  readonly reconnectTimeoutMs?: number | undefined;
  /** Milliseconds after the last packet either way at which a UDP flow ends. */
  readonly udpIdleMs?: number;
  /** Limits of bytes a second. */
  readonly rates?: Rates | undefined;
  /** What is known of the network here; the peer may ask. */
  readonly facts?: FactsSource | undefined;
  /** Called when the machine's network has changed. */
  readonly onNetworkChange?: () => Promise<void>;
}

interface Parts {
  readonly table: ChannelTable;
  readonly channels: OpenedChannels;
  readonly entries: readonly TcpEntry[];
  readonly udp: UdpEntries;
  readonly link: Link;
  readonly endWatch: () => void;
}

export class Forward {
  readonly #parts: Parts;
  readonly #ending = new AbortController();
  /** Resolves when it has ended by itself, with the error that ended it; or after `close`. */
  readonly ended: Promise<TunnelError | undefined>;
  readonly source: StatusSource;

  private constructor(parts: Parts) {
    this.#parts = parts;
    this.source = statusSource(parts.table, () => parts.link.live());
    this.ended = parts.link.closed;
  }

  /** Binds every local port, and only then dials. Throws PORT_IN_USE or CANNOT_BIND with nothing left open. */
  static async start(options: ForwardOptions): Promise<Forward> {
    const { peer, specs, report, resumeTimeoutMs } = options;
    const table = new ChannelTable(report);
    const channels = new OpenedChannels(resumeTimeoutMs === undefined ? {} : { resumeTimeoutMs });
    const errors = new RateLimit(ERRORS_PER_SECOND);
    const descriptors = new Descriptors();
    const starting: { link?: Link } = {};
    const entries: TcpEntry[] = [];
    const locals: string[] = [];
    const onError = (error: TunnelError) => {
      if (errors.take() !== undefined) report(errorEvent(error));
    };
    const udp = new UdpEntries({
      peer,
      report,
      flows: table.flows,
      onError,
      lanes: (service) => options.rates?.lanes(peer, service),
      ...(options.udpIdleMs === undefined ? {} : { idleMs: options.udpIdleMs }),
    });
    try {
      for (const spec of specs) {
        if (spec.protocol === 'udp') {
          locals.push((await udp.listen(spec.local, spec.service)).local);
          continue;
        }
        const entry = await TcpEntry.listen(spec.local, {
          service: spec.service,
          channels,
          lanes: () => options.rates?.lanes(peer, spec.service),
          descriptors,
          session: (signal) => (starting.link as Link).session(signal),
          track: (channel, session, client) =>
            table.add(channel, session, spec.service, {
              local: entry.local,
              client,
              session: () => channels.sessionOf(channel),
            }),
          onError,
        });
        entries.push(entry);
        locals.push(entry.local);
      }
    } catch (error) {
      for (const entry of entries) await entry.close();
      await udp.close();
      throw error;
    }
    const reporter = new LinkReporter(options, channels, entries);
    const link = new Link({
      dial: admittedDial(
        {
          ...options,
          wants: specs.map(({ service, protocol }) => ({ name: service, protocol })),
          dispatcher: { ...options.methods, ...factsMethods(options.facts), ...udp.dispatcher },
        },
        reporter,
      ),
      onState: (state) => {
        reporter.onState(state);
        if (state.state === 'connected') udp.session(state.peer);
      },
      onSilent: options.onSilent,
      busy: () => channels.waiting > 0 || table.awaitsPeer(),
      giveUpAfterMs: options.reconnectTimeoutMs,
    });
    starting.link = link;
    const endWatch = watchNetwork(() => {
      void options.onNetworkChange?.().catch(() => undefined);
      link.networkChanged();
    });
    for (const [index, spec] of specs.entries()) {
      report({
        event: 'listening',
        protocol: spec.protocol,
        local: locals[index] as string,
        peer,
        service: spec.service,
      });
    }
    return new Forward({ table, channels, entries, udp, link, endWatch });
  }

  /** Takes no new connections, waits up to `drainMs` for the open ones, then resets what is left. */
  async close(drainMs: number, signal?: AbortSignal): Promise<void> {
    if (this.#ending.signal.aborted) return;
    this.#ending.abort();
    const { table, channels, entries, udp, link, endWatch } = this.#parts;
    endWatch();
    for (const entry of entries) await entry.close();
    await table.drain(drainMs, signal);
    channels.abortAll(new TunnelError('SHUTDOWN', 'the peer is shutting down'));
    await udp.close();
    await link.close();
  }
}

/** Dials, and checks what the peer offers: a wanted service that is missing ends the first dial for good. */
function admittedDial(options: ForwardOptions, reporter: LinkReporter): LinkOptions['dial'] {
  let first = true;
  return async (signal, onPending) => {
    const admitted = await dialPeer(options, signal, () => {
      onPending();
      reporter.onPending();
    });
    const missing = missingService(admitted, options.specs);
    if (missing && first) {
      admitted.session.close();
      throw missing;
    }
    // Later the peer was restarted with other services: its own matter, and it may bring them back.
    if (missing) options.report(errorEvent(missing));
    first = false;
    return admitted;
  };
}

/** The error to tell when the peer said what it offers and a wanted service is not among it. */
function missingService(
  { remote, peer }: PeerSession,
  specs: readonly ForwardSpec[],
): TunnelError | undefined {
  const { services } = remote;
  if (!services) return undefined;
  const missing = specs.find(
    ({ service, protocol }) =>
      !services.some((offer) => offer.name === service && offer.protocol === protocol),
  );
  if (!missing) return undefined;
  return new TunnelError(
    'DENIED',
    `peer ${shortNodeId(peer)} does not offer you the service '${missing.service}'`,
    { hint: `it offers: ${formatServices(services)}` },
  );
}

/** Lets the channels follow the link, and tells of both. */
class LinkReporter {
  readonly #peer: NodeId;
  readonly #report: Report;
  readonly #facts: FactsSource | undefined;
  readonly #channels: OpenedChannels;
  readonly #entries: readonly TcpEntry[];
  readonly #services: readonly string[];
  /** Where the peer's machine was while there was a session, if it can be asked. */
  #address: string | undefined;
  #looking: AbortController | undefined;

  constructor(options: ForwardOptions, channels: OpenedChannels, entries: readonly TcpEntry[]) {
    this.#peer = options.peer;
    this.#report = options.report;
    this.#facts = options.facts;
    this.#channels = channels;
    this.#entries = entries;
    this.#services = [...new Set(options.specs.map(({ service }) => service))];
  }

  onState(state: LinkState): void {
    const peer = this.#peer;
    const services = this.#services;
    switch (state.state) {
      case 'connected': {
        this.#looking?.abort();
        this.#looking = undefined;
        this.#follow(state.peer);
        const downMs = state.downMs === undefined ? undefined : Math.round(state.downMs);
        const attached = this.#channels.attach(state.peer);
        reportConnected(state.peer, this.#report, {
          ...(downMs === undefined ? {} : { back: { downMs, services } }),
          facts: this.#facts,
        });
        if (downMs === undefined) break;
        void attached.then(({ resumed, lost }) =>
          this.#report({ event: 'resume', peer, services, downMs, resumed, lost }),
        );
        break;
      }
      case 'connecting':
        this.#report({ event: 'session', peer, state: 'connecting' });
        break;
      case 'reconnecting':
        this.#report({
          event: 'session',
          peer,
          state: 'reconnecting',
          error: { code: state.error.code, message: state.error.message },
          nextTryMs: Math.round(state.nextTryMs),
          downMs: Math.round(state.downMs),
          waiting: this.#channels.waiting + this.#entries.reduce((sum, { held }) => sum + held, 0),
          services,
        });
        this.#lookForPeer();
        break;
      case 'closed':
        this.#looking?.abort();
        this.#report({
          event: 'session',
          peer,
          state: 'closed',
          ...(state.error ? { error: { code: state.error.code, message: state.error.message } } : {}),
        });
    }
  }

  /** A person at the peer is asked. */
  onPending(): void {
    this.#report({ event: 'session', peer: this.#peer, state: 'connecting', approval: 'pending' });
  }

  #follow({ session, remote }: PeerSession): void {
    const note = (path: SessionPath) => {
      this.#address = whereToAsk(path, remote);
    };
    note(session.path);
    session.onPathChange(note);
  }

  /** Connections that wait for a process that has ended need not wait any longer. */
  #lookForPeer(): void {
    if (this.#looking || this.#address === undefined || this.#channels.waiting === 0) return;
    this.#looking = new AbortController();
    void peerIsGone(this.#address, this.#looking.signal).then((gone) => {
      if (gone) {
        this.#channels.abortWaiting(
          new TunnelError(
            'PEER_GONE',
            'the peer is not running any more, and its end of the connection is gone',
          ),
        );
      }
    });
  }
}
