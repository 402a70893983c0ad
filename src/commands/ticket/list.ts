import { BaseCommand } from '../../cli/base-command.js';
import { ticketStorePath } from '../../cli/paths.js';
import { columns, ticketJson, ticketTable } from '../../cli/ticket-text.js';
import { TicketStore } from '../../tunnel/ticket-store.js';

export default class TicketList extends BaseCommand {
  static override summary = 'List the tickets of an identity, and who used them';
  static override description =
    'Tickets themselves are not shown: only hashes of them are kept. What is over stays in the list for 30 days.';
  static override examples = [
    '<%= config.bin %> ticket list',
    '<%= config.bin %> ticket list --identity work --json',
  ];

  async run(): Promise<void> {
    const { flags } = await this.parse(TicketList);
    const output = this.output(flags);
    const all = await new TicketStore(ticketStorePath(this.paths)).load();
    const mine = all.filter(({ identity }) => identity === flags.identity);
    output.print(
      { event: 'tickets', identity: flags.identity, tickets: mine.map(ticketJson) },
      mine.length === 0
        ? [`there are no tickets of the identity '${flags.identity}'; make one with: tunnel ticket create`]
        : columns(ticketTable(mine)),
    );
  }
}
