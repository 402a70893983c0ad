/** Listens for one peer's services: one link, one entry per spec. */
import { TunnelError, toTunnelError } from '../error.js';
import type { PeerSession } from '../session/handshake.js';
import { Link, type LinkOptions } from '../session/link.js';
import { watchNetwork } from '../session/network-watch.js';
import { type NodeId, shortNodeId } from '../session/node-id.js';
import { OpenedChannels } from '../session/opened-channels.js';
import type { Dispatcher } from '../session/rpc-session.js';
import { ChannelTable, statusSource } from './channel-table.js';
import { Descriptors } from './descriptors.js';
import { type Dialler, dialPeer } from './dial-peer.js';
import { errorEvent, type Report } from './events.js';
import { DENIALS, LinkReporter } from './link-reporter.js';
import { RateLimit } from './rate-limit.js';
import type { Rates } from './rates.js';
import { type FactsSource, factsMethods } from './relayed.js';
import { formatServices } from './services.js';
import { type ForwardSpec, isSameSpec } from './spec.js';
import type { StatusSource } from './status.js';
import { TcpEntry } from './tcp-entry.js';
import { UdpEntries } from './udp-entries.js';
import type { UdpEntry } from './udp-entry.js';
import { wait } from './wait.js';

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
  /** Limits of bytes a second, asked for each new connection. */
  readonly rates?: Pick<Rates, 'lanes'> | undefined;
  /** What is known of the network here; the peer may ask. */
  readonly facts?: FactsSource | undefined;
  /** Called when the machine's network has changed. */
  readonly onNetworkChange?: () => Promise<void>;
  /** A peer that denied is asked again after so long, milliseconds; unless given that ends it. */
  readonly retryDeniedMs?: number | undefined;
  /** Is not dialled before that resolves. */
  readonly after?: Promise<void> | undefined;
  /** What outlives it in a process that has others: to the peer, all channels of a process are numbered as one. */
  readonly shared?: { readonly channels: OpenedChannels; readonly descriptors: Descriptors } | undefined;
}

export interface Listening {
  readonly spec: ForwardSpec;
  /** Where it listens, as bound. */
  readonly local: string;
}

export interface ListenOptions {
  readonly drainMs: number;
  /** Ends the waiting. */
  readonly signal?: AbortSignal | undefined;
}

export interface Relistened {
  readonly removed: readonly Listening[];
  readonly failed: readonly { readonly spec: ForwardSpec; readonly error: TunnelError }[];
  readonly drained: Promise<void>;
}

interface Entry extends Listening {
  readonly on: TcpEntry | UdpEntry;
}

export class Forward {
  readonly #options: ForwardOptions;
  readonly #table: ChannelTable;
  readonly #channels: OpenedChannels;
  readonly #descriptors: Descriptors;
  readonly #udp: UdpEntries;
  readonly #reporter: LinkReporter;
  readonly #errors = new RateLimit(ERRORS_PER_SECOND);
  readonly #ending = new AbortController();
  #entries: readonly Entry[] = [];
  #link: Link | undefined;
  #endWatch: () => void = () => undefined;
  /** Ends the pause after a denial. */
  #askAgain: () => void = () => undefined;
  #ended: Promise<TunnelError | undefined> = Promise.resolve(undefined);
  readonly source: StatusSource;

  private constructor(options: ForwardOptions) {
    const { peer, report, resumeTimeoutMs, shared } = options;
    this.#options = options;
    this.#table = new ChannelTable(report);
    this.#channels =
      shared?.channels ?? new OpenedChannels(resumeTimeoutMs === undefined ? {} : { resumeTimeoutMs });
    this.#descriptors = shared?.descriptors ?? new Descriptors();
    this.#udp = new UdpEntries({
      peer,
      report,
      flows: this.#table.flows,
      onError: (error) => this.#onError(error),
      lanes: (service) => options.rates?.lanes(peer, service),
      ...(options.udpIdleMs === undefined ? {} : { idleMs: options.udpIdleMs }),
    });
    this.#reporter = new LinkReporter(options, this.#channels, {
      services: () => [...new Set(this.#specs.map(({ service }) => service))],
      held: () => this.#entries.reduce((sum, { on }) => sum + (on instanceof TcpEntry ? on.held : 0), 0),
    });
    this.source = statusSource(this.#table, () => this.#link?.live() ?? []);
  }

  /** Binds every local port, and only then dials. Throws PORT_IN_USE or CANNOT_BIND with nothing left open. */
  static async start(options: ForwardOptions): Promise<Forward> {
    const forward = new Forward(options);
    try {
      for (const spec of options.specs) forward.#entries = [...forward.#entries, await forward.#bind(spec)];
    } catch (error) {
      for (const entry of forward.#entries) await forward.#unbind(entry);
      await forward.#udp.close();
      throw error;
    }
    forward.#ended = forward.#run();
    forward.#endWatch = watchNetwork(() => {
      void options.onNetworkChange?.().catch(() => undefined);
      forward.#link?.networkChanged();
    });
    for (const entry of forward.#entries) forward.#reportListening(entry);
    return forward;
  }

  /**
   * Listens where `specs` say from now on, and nowhere else. What they have in common with those before
   * stays as it is, with its connections. Those of the others are waited for up to `drainMs`, then reset:
   * `drained` resolves then. `failed` is what could not be bound, which the next call tries again.
   */
  async listen(specs: readonly ForwardSpec[], { drainMs, signal }: ListenOptions): Promise<Relistened> {
    const wanted = [...specs];
    const [kept, gone]: [Entry[], Entry[]] = [[], []];
    for (const entry of this.#entries) {
      const at = wanted.findIndex((spec) => isSameSpec(spec, entry.spec));
      if (at < 0) gone.push(entry);
      else {
        wanted.splice(at, 1);
        kept.push(entry);
      }
    }
    // First: what is new may be where these are.
    await Promise.all(gone.map((entry) => this.#unbind(entry)));
    this.#entries = kept;
    const failed: { spec: ForwardSpec; error: TunnelError }[] = [];
    for (const spec of wanted) {
      try {
        const added = await this.#bind(spec);
        this.#entries = [...this.#entries, added];
        this.#reportListening(added);
      } catch (error) {
        failed.push({ spec, error: toTunnelError(error) });
      }
    }
    return { removed: gone, failed, drained: this.#drain(gone, drainMs, signal) };
  }

  /** Resolves when it has ended by itself, with the error that ended it; or after `close`. */
  get ended(): Promise<TunnelError | undefined> {
    return this.#ended;
  }

  get listening(): readonly Listening[] {
    return this.#entries;
  }

  /** Where the peer is not asked at the moment, since it denied, it is asked again now. */
  hasten(): void {
    this.#askAgain();
  }

  /** Takes no new connections, waits up to `drainMs` for the open ones, then resets what is left. */
  async close(drainMs: number, signal?: AbortSignal): Promise<void> {
    if (this.#ending.signal.aborted) return;
    this.#ending.abort();
    this.#endWatch();
    for (const { on } of this.#entries) if (on instanceof TcpEntry) await on.close();
    await this.#table.drain(drainMs, signal);
    this.#channels.abortAll(new TunnelError('SHUTDOWN', 'the peer is shutting down'));
    await this.#udp.close();
    await this.#link?.close();
  }

  get #specs(): readonly ForwardSpec[] {
    return this.#entries.map(({ spec }) => spec);
  }

  #onError(error: TunnelError): void {
    if (this.#errors.take() !== undefined) this.#options.report(errorEvent(error));
  }

  async #bind(spec: ForwardSpec): Promise<Entry> {
    const on =
      spec.protocol === 'udp' ? await this.#udp.listen(spec.local, spec.service) : await this.#accept(spec);
    return { spec, local: on.local, on };
  }

  #unbind({ on }: Entry): Promise<void> {
    return on instanceof TcpEntry ? on.close() : this.#udp.unlisten(on);
  }

  async #accept({ local, service }: ForwardSpec): Promise<TcpEntry> {
    const { peer, rates } = this.#options;
    const entry: TcpEntry = await TcpEntry.listen(local, {
      service,
      channels: this.#channels,
      lanes: () => rates?.lanes(peer, service),
      descriptors: this.#descriptors,
      session: (signal) => (this.#link as Link).session(signal),
      track: (channel, session, client) =>
        this.#table.add(channel, session, service, {
          owner: entry,
          local: entry.local,
          client,
          session: () => this.#channels.sessionOf(channel),
        }),
      onError: (error) => this.#onError(error),
    });
    return entry;
  }

  #reportListening({ spec, local }: Entry): void {
    const { peer, report } = this.#options;
    report({ event: 'listening', protocol: spec.protocol, local, peer, service: spec.service });
  }

  async #drain(entries: readonly Entry[], drainMs: number, signal?: AbortSignal): Promise<void> {
    const owners = new Set(entries.map(({ on }) => on));
    await this.#table.drain(drainMs, signal, owners);
    this.#table.abortAll(new TunnelError('SHUTDOWN', 'it is not listened there any more'), owners);
  }

  /** Keeps a link until it ends by itself. A peer that denied is asked again after a while, where that is wished. */
  async #run(): Promise<TunnelError | undefined> {
    const { peer, retryDeniedMs, report } = this.#options;
    let told: string | undefined;
    for (;;) {
      const link = this.#makeLink();
      const error = await link.closed;
      if (!error || retryDeniedMs === undefined || !DENIALS.has(error.code)) return error;
      if (told !== error.message) report(errorEvent(denied(peer, error, retryDeniedMs)));
      told = error.message;
      const again = new AbortController();
      this.#askAgain = () => again.abort();
      await wait(retryDeniedMs, { signal: AbortSignal.any([again.signal, this.#ending.signal]) });
      if (this.#ending.signal.aborted) return undefined;
    }
  }

  #makeLink(): Link {
    const options = this.#options;
    const link = new Link({
      dial: this.#admittedDial(),
      onState: (state) => {
        this.#reporter.onState(state);
        if (state.state === 'connected') this.#udp.session(state.peer);
      },
      onSilent: options.onSilent,
      busy: () => this.#channels.waiting > 0 || this.#table.awaitsPeer(),
      giveUpAfterMs: options.reconnectTimeoutMs,
    });
    this.#link = link;
    return link;
  }

  /** Dials, and checks what the peer offers: a wanted service that is missing ends the first dial for good. */
  #admittedDial(): LinkOptions['dial'] {
    const options = this.#options;
    let first = true;
    return async (signal, onPending) => {
      await options.after;
      const specs = this.#specs;
      const admitted = await dialPeer(
        {
          ...options,
          wants: specs.map(({ service, protocol }) => ({ name: service, protocol })),
          dispatcher: { ...options.methods, ...factsMethods(options.facts), ...this.#udp.dispatcher },
        },
        signal,
        () => {
          onPending();
          this.#reporter.onPending();
        },
      );
      const missing = missingService(admitted, specs);
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
}

function denied(peer: NodeId, { code, message, hint }: TunnelError, retryMs: number): TunnelError {
  const again = `it is asked again every ${Math.round(retryMs / 1000)} s`;
  return new TunnelError(code, `${shortNodeId(peer)} answered: ${message}`, {
    hint: hint === undefined ? again : `${hint}; ${again}`,
  });
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
