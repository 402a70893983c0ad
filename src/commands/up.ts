import { BaseCommand } from '../cli/base-command.js';
import { dialFlags, statsFlags } from '../cli/network-flags.js';
import { Flags } from '../cli/oclif.js';
import type { Given } from '../cli/up/common.js';
import { runUp } from '../cli/up/run-up.js';

export default class UpCommand extends BaseCommand {
  static override summary = 'Run every expose and forward of a config file in one process';
  static override description =
    'The file is ./tunnel.toml, else tunnel.toml in the config folder. Its keys are the flags of \'expose\' and \'forward\':\n\n  [expose]\n  services = ["db=5432", "dns=udp:53"]\n  allow = ["alice"]\n\n  [[forward]]\n  peer = "bob"\n  listen = ["8080:web", "5353:dns/udp"]\n\nIt is read again on SIGHUP and when it changes; what is unchanged in it keeps its connections.\nFlags given here count more than what the file says. All keys: docs/config.md.';
  static override examples = [
    '<%= config.bin %> up',
    '<%= config.bin %> up --config /etc/tunnel.toml',
    '<%= config.bin %> up --no-relay --json',
    'kill -HUP <pid>',
  ];
  static override flags = {
    config: Flags.string({
      char: 'c',
      description: 'the file to run',
      helpValue: '<path>',
    }),
    ...dialFlags,
    ...statsFlags,
  };

  async run(): Promise<void> {
    const { flags, metadata } = await this.parse(UpCommand);
    const given = Object.entries(flags).filter(([name]) => metadata.flags[name]?.setFromDefault !== true);
    const code = await runUp({
      flags,
      given: Object.fromEntries(given) as Given,
      output: this.output(flags),
      paths: this.paths,
      names: this.names,
    });
    this.exit(code);
  }
}
