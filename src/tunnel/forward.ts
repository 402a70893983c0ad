/** Listens for one peer's services: one link, one entry per spec. */
import { TunnelError } from '../error.js';
import type { PeerSession } from '../session/handshake.js';
import { Link, type LinkState } from '../session/link.js';
import { type NodeId, shortNodeId } from '../session/node-id.js';
import { LINK_WINDOW_BYTES, WindowBudget } from '../session/window-budget.js';
import { ChannelTable } from './channel-table.js';
import { type Dialler, dialPeer } from './dial-peer.js';
import { errorEvent, type Report } from './events.js';
import { RateLimit } from './rate-limit.js';
import { reportConnected } from './report-session.js';
import { formatServices } from './services.js';
import type { ForwardSpec } from './spec.js';
import { TcpEntry } from './tcp-entry.js';
import { UdpEntries } from './udp-entries.js';

const ERRORS_PER_SECOND = 10;

export interface ForwardOptions extends Dialler {
  readonly specs: readonly ForwardSpec[];
  readonly report: Report;
  /** Milliseconds after the last packet either way at which a UDP flow ends. */
  readonly udpIdleMs?: number;
}

export class Forward {
  readonly #channels: ChannelTable;
  readonly #entries: readonly TcpEntry[];
  readonly #udp: UdpEntries;
  readonly #link: Link;
  readonly #ending = new AbortController();
  /** Resolves when it has ended by itself, with the error that ended it; or after `close`. */
  readonly ended: Promise<TunnelError | undefined>;

  private constructor(channels: ChannelTable, entries: readonly TcpEntry[], udp: UdpEntries, link: Link) {
    this.#channels = channels;
    this.#entries = entries;
    this.#udp = udp;
    this.#link = link;
    this.ended = link.closed;
  }

  /** Binds every local port, and only then dials. Throws PORT_IN_USE or CANNOT_BIND with nothing left open. */
  static async start(options: ForwardOptions): Promise<Forward> {
    const { peer, specs, report } = options;
    const channels = new ChannelTable(report);
    const budget = new WindowBudget(LINK_WINDOW_BYTES);
    const errors = new RateLimit(ERRORS_PER_SECOND);
    const starting: { link?: Link } = {};
    const entries: TcpEntry[] = [];
    const locals: string[] = [];
    const onError = (error: TunnelError) => {
      if (errors.take() !== undefined) report(errorEvent(error));
    };
    const udp = new UdpEntries({
      peer,
      report,
      takeId: () => channels.takeId(),
      onError,
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
          budget,
          session: (signal) => (starting.link as Link).session(signal),
          track: (channel, session) => channels.add(channel, session, spec.service),
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
    let first = true;
    const link = new Link({
      dial: async (signal) => {
        const admitted = await dialPeer({ ...options, dispatcher: udp.dispatcher }, signal);
        const missing = missingService(admitted, specs);
        if (missing && first) {
          admitted.session.close();
          throw missing;
        }
        // Later the peer was restarted with other services: its own matter, and it may bring them back.
        if (missing) report(errorEvent(missing));
        first = false;
        return admitted;
      },
      onState: (state) => {
        reportState(peer, state, report);
        if (state.state === 'connected') udp.session(state.peer);
      },
    });
    starting.link = link;
    for (const [index, spec] of specs.entries()) {
      report({
        event: 'listening',
        protocol: spec.protocol,
        local: locals[index] as string,
        peer,
        service: spec.service,
      });
    }
    return new Forward(channels, entries, udp, link);
  }

  /** Takes no new connections, waits up to `drainMs` for the open ones, then resets what is left. */
  async close(drainMs: number, signal?: AbortSignal): Promise<void> {
    if (this.#ending.signal.aborted) return;
    this.#ending.abort();
    for (const entry of this.#entries) await entry.close();
    await this.#channels.drain(drainMs, signal);
    this.#channels.abortAll(new TunnelError('SHUTDOWN', 'the peer is shutting down'));
    await this.#udp.close();
    await this.#link.close();
  }
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

function reportState(peer: NodeId, state: LinkState, report: Report): void {
  switch (state.state) {
    case 'connected':
      reportConnected(state.peer, report);
      break;
    case 'connecting':
      report({ event: 'session', peer, state: 'connecting' });
      break;
    case 'reconnecting':
      report({
        event: 'session',
        peer,
        state: 'reconnecting',
        error: { code: state.error.code, message: state.error.message },
        nextTryMs: state.nextTryMs,
      });
      break;
    case 'closed':
      report({
        event: 'session',
        peer,
        state: 'closed',
        ...(state.error ? { error: { code: state.error.code, message: state.error.message } } : {}),
      });
  }
}
