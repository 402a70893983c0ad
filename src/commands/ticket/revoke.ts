import { BaseCommand } from '../../cli/base-command.js';
import { Args, Flags } from '../../cli/oclif.js';
import { ticketStorePath } from '../../cli/paths.js';
import { TunnelError } from '../../error.js';
import type { TicketRecord } from '../../tunnel/ticket-records.js';
import { TicketStore } from '../../tunnel/ticket-store.js';

export default class TicketRevoke extends BaseCommand {
  static override summary = 'Take tickets back: whoever is connected by one is cut off within a second';
  static override description =
    "A peer that was paired by a ticket stays in the peers book: see 'tunnel peers --help' to remove it.";
  static override examples = [
    '<%= config.bin %> ticket revoke 3f9a12cd',
    '<%= config.bin %> ticket revoke alice-laptop',
    '<%= config.bin %> ticket revoke --all',
  ];
  static override args = {
    ticket: Args.string({ description: 'its ID or its name', required: false, ignoreStdin: true }),
  };
  static override flags = {
    all: Flags.boolean({ description: 'all tickets of the identity', default: false }),
  };

  async run(): Promise<void> {
    const { flags, args } = await this.parse(TicketRevoke);
    const output = this.output(flags);
    const { ticket } = args;
    if ((ticket === undefined) === !flags.all) {
      throw new TunnelError('USAGE', "'tunnel ticket revoke' needs either <ticket> or --all", {
        hint: 'see which there are: tunnel ticket list',
      });
    }
    const store = new TicketStore(ticketStorePath(this.paths));
    const meant = ({ id, label, identity }: TicketRecord) =>
      identity === flags.identity && (ticket === undefined || id === ticket || label === ticket);
    if (ticket !== undefined && !(await store.load()).some(meant)) {
      throw new TunnelError(
        'USAGE',
        `there is no ticket ${quoted(ticket)} of the identity '${flags.identity}'`,
        {
          hint: 'see which there are: tunnel ticket list',
        },
      );
    }
    const revoked = await store.revoke(meant);
    output.print(
      { event: 'revoked', tickets: revoked.map(({ id }) => id) },
      revoked.length === 0
        ? [ticket === undefined ? 'there was none to revoke' : 'it was revoked before']
        : revoked.map(({ id, label }) => `revoked ${id}${label === undefined ? '' : ` ${label}`}`),
    );
  }
}

/** Someone may paste the ticket itself here. */
function quoted(text: string): string {
  return /^[\w .@-]{1,64}$/.test(text) ? `'${text}'` : 'of that name';
}
