/** Listens for one peer's services: one link, one entry per spec. */
import { TunnelError } from '../error.js';
import type { PeerSession } from '../session/handshake.js';
import { Link, type LinkState } from '../session/link.js';
import { type NodeId, shortNodeId } from '../session/node-id.js';
import { LINK_WINDOW_BYTES, WindowBudget } from '../session/window-budget.js';
import { ChannelTable, statusSource } from './channel-table.js';
import { type Dialler, dialPeer } from './dial-peer.js';
import { errorEvent, type Report } from './events.js';
import { RateLimit } from './rate-limit.js';
import { reportConnected } from './report-session.js';
import { formatServices } from './services.js';
import type { ForwardSpec } from './spec.js';
import type { StatusSource } from './status.js';
import { TcpEntry } from './tcp-entry.js';

const ERRORS_PER_SECOND = 10;

export interface ForwardOptions extends Dialler {
  readonly specs: readonly ForwardSpec[];
  readonly report: Report;
}

export class Forward {
  readonly #channels: ChannelTable;
  readonly #entries: readonly TcpEntry[];
  readonly #link: Link;
  readonly #ending = new AbortController();
  /** Resolves when it has ended by itself, with the error that ended it; or after `close`. */
  readonly ended: Promise<TunnelError | undefined>;
  readonly source: StatusSource;

  private constructor(
    channels: ChannelTable,
    entries: readonly TcpEntry[],
    link: Link,
    source: StatusSource,
  ) {
    this.#channels = channels;
    this.#entries = entries;
    this.#link = link;
    this.ended = link.closed;
    this.source = source;
  }

  /** Binds every local port, and only then dials. Throws PORT_IN_USE or CANNOT_BIND with nothing left open. */
  static async start(options: ForwardOptions): Promise<Forward> {
    const { peer, specs, report } = options;
    const channels = new ChannelTable(report);
    const budget = new WindowBudget(LINK_WINDOW_BYTES);
    const errors = new RateLimit(ERRORS_PER_SECOND);
    const starting: { link?: Link } = {};
    const entries: TcpEntry[] = [];
    try {
      for (const [index, spec] of specs.entries()) {
        entries.push(
          await TcpEntry.listen(spec.local, {
            service: spec.service,
            budget,
            session: (signal) => (starting.link as Link).session(signal),
            track: (channel, session, client) =>
              channels.add(channel, session, spec.service, { local: entries[index]?.local ?? '', client }),
            onError: (error) => {
              if (errors.take() !== undefined) report(errorEvent(error));
            },
          }),
        );
      }
    } catch (error) {
      for (const entry of entries) await entry.close();
      throw error;
    }
    let first = true;
    const current: { session?: PeerSession | undefined } = {};
    const link = new Link({
      dial: async (signal) => {
        const admitted = await dialPeer(options, signal);
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
        current.session = state.state === 'connected' ? state.peer : undefined;
        reportState(peer, state, report);
      },
    });
    starting.link = link;
    for (const [index, spec] of specs.entries()) {
      const entry = entries[index] as TcpEntry;
      report({
        event: 'listening',
        protocol: spec.protocol,
        local: entry.local,
        peer,
        service: spec.service,
      });
    }
    return new Forward(
      channels,
      entries,
      link,
      statusSource(channels, () => (current.session ? [current.session] : [])),
    );
  }

  /** Takes no new connections, waits up to `drainMs` for the open ones, then resets what is left. */
  async close(drainMs: number, signal?: AbortSignal): Promise<void> {
    if (this.#ending.signal.aborted) return;
    this.#ending.abort();
    for (const entry of this.#entries) await entry.close();
    await this.#channels.drain(drainMs, signal);
    this.#channels.abortAll(new TunnelError('SHUTDOWN', 'the peer is shutting down'));
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
