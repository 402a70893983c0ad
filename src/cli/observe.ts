/** What watches over a running expose or forward: the status model, its socket, and the dashboard. */
import { toTunnelError } from '../error.js';
import type { PeerSession } from '../session/handshake.js';
import type { Dispatcher } from '../session/rpc-session.js';
import { redactTicket } from '../session/ticket.js';
import type { Report } from '../tunnel/events.js';
import { PeerWatch, statsMethods } from '../tunnel/stats-watch.js';
import type { Decision, StatusSource } from '../tunnel/status.js';
import { StatusModel, type StatusModelOptions } from '../tunnel/status-model.js';
import {
  canShowDashboard,
  loadDashboard,
  type OpenDashboard,
  openDashboard,
  type ViewFlags,
} from './dashboard.js';
import { LocalFeed, localActions } from './local-feed.js';
import { describeError, type Output } from './output.js';
import { DRAIN_MS, type Shutdown } from './shutdown.js';
import { type StatusServer, serveStatus } from './status-server.js';

export interface ObserveOptions extends Omit<StatusModelOptions, 'pid'> {
  readonly flags: ViewFlags & { readonly 'share-stats': boolean };
  readonly output: Output;
  /** The folder of the status sockets. */
  readonly runtime: string;
  readonly shutdown: Shutdown;
  /** Answers a peer that waits to be let in; missing where nobody is ever asked. */
  readonly decide?: (decision: Decision) => Promise<boolean>;
}

export interface Observation {
  readonly report: Report;
  /** As `report`, for one of several parts that may have to do with the same peer. */
  reportOf(link: string): Report;
  /** What there is to see besides what events tell of. */
  readonly tunnels: Pick<StatusModel, 'offer' | 'withdraw' | 'unlisten'>;
  /** A peer with a session has not answered for so long; undefined: it answers again. */
  onSilent(peer: PeerSession, silentMs: number | undefined): void;
  /** What `peer` may call here. */
  methods(peer: string): Dispatcher | undefined;
  /** Begins to watch `source`. `invitation` is what an expose tells the people at this terminal, as of now. */
  start(source: StatusSource, invitation?: () => readonly string[] | undefined): Promise<void>;
  close(): Promise<void>;
}

/** The status socket is there when it resolves; without one the tunnel runs all the same. */
export async function observe(options: ObserveOptions): Promise<Observation> {
  const { flags, output, runtime, shutdown } = options;
  const model = new StatusModel({ ...options, pid: process.pid });
  const actions = localActions(model, options.decide);
  const shows = canShowDashboard(flags);
  // Loads while the endpoint is bound. An error is told where it is awaited.
  if (shows) {
    output.mute(true);
    void loadDashboard().catch(() => undefined);
  }
  const watch = new PeerWatch(model);
  let server: StatusServer | undefined;
  let view: OpenDashboard | undefined;
  let shown = false;
  const reportOf =
    (link?: string): Report =>
    (event) => {
      model.observe(event, link);
      output.report(event);
    };
  const report = reportOf();
  const quit = (how: 'quit' | 'interrupt') => {
    // As if the signal had come from outside: there is one way to end.
    process.kill(process.pid, how === 'quit' ? 'SIGTERM' : 'SIGINT');
  };
  const closeView = () => {
    view?.close();
    view = undefined;
    output.mute(false);
  };
  try {
    server = await serveStatus(runtime, model, actions);
  } catch (error) {
    // The tunnel is what matters; it is only not seen from elsewhere.
    const { code, message, hint } = toTunnelError(error);
    report({ event: 'error', code, message, ...(hint === undefined ? {} : { hint }) });
  }
  void shutdown.requested.then(() => model.stopping(DRAIN_MS));
  return {
    report,
    reportOf,
    tunnels: model,
    onSilent: (peer, silentMs) => model.peerSilent(peer, silentMs),
    methods: (peer) => (flags['share-stats'] ? statsMethods(model, peer) : undefined),
    async start(source, invitation) {
      model.attach(source);
      if (!shows) return;
      shown = true;
      view = await openDashboard({
        feed: new LocalFeed(model),
        actions,
        endsTunnel: true,
        invitation,
        onQuit: quit,
        // What it shows goes to the status socket as well.
        onStray: (line) => model.note(redactTicket(line), 'warn'),
        onCrash: (error) => {
          closeView();
          process.stderr.write(
            `the dashboard failed, lines follow: ${describeError(toTunnelError(error))}\n`,
          );
        },
      });
    },
    async close() {
      const { totals } = model.snapshot();
      watch.close();
      closeView();
      model.close();
      await server?.close();
      if (shown) {
        const { channelsTotal, bytesIn, bytesOut } = totals;
        process.stdout.write(
          `${channelsTotal} connections, ${bytesOut} bytes to peers, ${bytesIn} bytes from them\n`,
        );
      }
    },
  };
}
