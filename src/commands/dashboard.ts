import { BaseCommand } from '../cli/base-command.js';
import { canShowDashboard, loadDashboard, openDashboard } from '../cli/dashboard.js';
import { EXIT_OK, EXIT_SIGINT } from '../cli/exit-codes.js';
import { listenForShutdown } from '../cli/shutdown.js';
import { RemoteFeed } from '../cli/status-client.js';
import { TunnelError, toTunnelError } from '../error.js';

export default class DashboardCommand extends BaseCommand {
  static override summary = 'Watch every tunnel of this user on this machine';
  static override description =
    "Processes appear and leave by themselves. Leaving the dashboard ends none of them.\nA script uses 'tunnel status --json' instead.";
  static override examples = ['<%= config.bin %> dashboard'];

  async run(): Promise<void> {
    const { flags } = await this.parse(DashboardCommand);
    if (!canShowDashboard(flags)) {
      throw new TunnelError('USAGE', 'the dashboard needs a terminal', {
        hint: 'elsewhere use: tunnel status, tunnel status --watch, or tunnel status --json',
      });
    }
    void loadDashboard().catch(() => undefined);
    const feed = new RemoteFeed(this.paths.runtime);
    const shutdown = listenForShutdown();
    try {
      await feed.start();
      const code = await new Promise<number>((resolve, reject) => {
        void shutdown.requested.then(resolve);
        openDashboard({
          feed,
          actions: feed,
          endsTunnel: false,
          onQuit: (how) => resolve(how === 'quit' ? EXIT_OK : EXIT_SIGINT),
          onStray: () => undefined,
          onCrash: (error) => reject(toTunnelError(error)),
        }).then((view) => {
          this.#close = view.close;
        }, reject);
      });
      this.#close();
      if (code !== EXIT_OK) this.exit(code);
    } finally {
      feed.close();
      shutdown.dispose();
    }
  }

  #close: () => void = () => undefined;
}
