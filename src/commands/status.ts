import { BaseCommand } from '../cli/base-command.js';
import { Flags } from '../cli/oclif.js';
import { readStatus } from '../cli/status-client.js';
import { silentLines, statusJson, statusLines } from '../cli/status-table.js';
import { canRedraw } from '../cli/terminal.js';
import { EVERY_CHANNEL } from '../tunnel/status-model.js';

const WATCH_MS = 1000;

export default class StatusCommand extends BaseCommand {
  static override summary = 'Show the tunnels of this user on this machine';
  static override description =
    'Prints a table, or with --json one object: processes:[{pid, command, nodeId, startedAt, sessions, tunnels, channels, totals}], with bytes as integers and rates as bytes per second.';
  static override examples = ['<%= config.bin %> status', '<%= config.bin %> status --json'];
  static override flags = {
    watch: Flags.boolean({ description: 'print it again every second until told to end' }),
  };

  async run(): Promise<void> {
    const { flags } = await this.parse(StatusCommand);
    const print = async () => {
      const silent: number[] = [];
      const processes = await readStatus(this.paths.runtime, EVERY_CHANNEL, (pid) => silent.push(pid));
      const lines = flags.json
        ? [JSON.stringify({ processes: processes.map(statusJson) })]
        : statusLines(processes, silent);
      const again = flags.watch && !flags.json;
      // A terminal shows the newest one only; what is kept in a file, or piped, shows all of them.
      const clear = again && canRedraw(process.stdout) ? '\x1b[H\x1b[2J' : '';
      process.stdout.write(`${clear}${lines.join('\n')}\n${again && clear === '' ? '\n' : ''}`);
      if (flags.json) for (const line of silentLines(silent)) process.stderr.write(`tunnel: ${line}\n`);
    };
    await print();
    if (!flags.watch) return;
    const { listenForShutdown } = await import('../cli/shutdown.js');
    const shutdown = listenForShutdown();
    let next: NodeJS.Timeout | undefined;
    const code = await new Promise<number>((resolve, reject) => {
      void shutdown.requested.then(resolve);
      const later = () => {
        next = setTimeout(() => print().then(later, reject), WATCH_MS);
      };
      later();
    });
    clearTimeout(next);
    shutdown.dispose();
    this.exit(code);
  }
}
