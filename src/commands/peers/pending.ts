import { BaseCommand } from '../../cli/base-command.js';
import { loadNames, peersFile } from '../../cli/peer-names.js';
import { pendingPeers } from '../../cli/pending-peers.js';
import { printable } from '../../session/frame.js';
import { duration } from '../../tui/format.js';

export default class PeersPending extends BaseCommand {
  static override summary = 'List the peers that wait to be let in';
  static override description = "They wait at a 'tunnel expose --ask' of yours on this machine.";
  static override examples = ['<%= config.bin %> peers pending'];

  async run(): Promise<void> {
    const { flags } = await this.parse(PeersPending);
    const output = this.output(flags);
    await loadNames(this.names, peersFile(this.paths));
    const pending = await pendingPeers(this.paths.runtime);
    const now = Date.now();
    output.print(
      { event: 'pending', pending },
      pending.length === 0
        ? ['nobody waits to be let in']
        : pending.flatMap(({ peer, services, everything, more, from, until }) => [
            `${this.names.label(peer)} asks for ${everything ? 'everything: ' : ''}${services.join(', ')}` +
              `${more > 0 ? ` and ${more} more` : ''}, from ${printable(from)}, ${duration(Date.parse(until) - now)} left`,
            `  tunnel peers allow ${peer}`,
          ]),
    );
  }
}
