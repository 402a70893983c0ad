import { randomBytes } from 'node:crypto';
import { BaseCommand } from '../../cli/base-command.js';
import { forwardLine } from '../../cli/expose-banner.js';
import { Flags } from '../../cli/oclif.js';
import { ticketStorePath } from '../../cli/paths.js';
import { runningExpose } from '../../cli/running-expose.js';
import { parseServices, parseTtl } from '../../cli/ticket-flags.js';
import { opens, termsOf } from '../../cli/ticket-text.js';
import { formatTicket, TOKEN_BYTES } from '../../session/ticket.js';
import { parseLabel } from '../../tunnel/ticket-records.js';
import { TicketStore } from '../../tunnel/ticket-store.js';

export default class TicketCreate extends BaseCommand {
  static override summary = 'Make a ticket for some of the services, for a time, or for one use';
  static override description =
    "It counts at once, also for an 'expose' that runs already, and until it is revoked or expires.\nIt is printed once; only a hash of its token is kept.";
  static override examples = [
    '<%= config.bin %> ticket create --service db --ttl 15m --once',
    '<%= config.bin %> ticket create --service dns/udp --service web --name alice-laptop',
    '<%= config.bin %> ticket create --pair --once --ttl 1h --json',
  ];
  static override flags = {
    service: Flags.string({
      description: 'what it opens (repeatable); without it, every service of this identity, now and later',
      multiple: true,
      multipleNonGreedy: true,
      helpValue: '<name>',
    }),
    ttl: Flags.string({
      description: 'how long it is good; without it, until it is revoked',
      helpValue: '<time>',
    }),
    once: Flags.boolean({ description: 'for the first to use it, and nobody else', default: false }),
    pair: Flags.boolean({
      description: 'remember the first to use it, who needs no ticket later',
      default: false,
    }),
    name: Flags.string({ description: 'a name to list and revoke it by', helpValue: '<label>' }),
  };

  async run(): Promise<void> {
    const { flags } = await this.parse(TicketCreate);
    const output = this.output(flags);
    const named = parseServices(flags.service ?? []);
    const ttlMs = parseTtl(flags.ttl, '--ttl');
    const label = flags.name === undefined ? undefined : parseLabel(flags.name);
    const { identity, created } = await this.loadIdentity(flags);
    const running = await runningExpose(this.paths.runtime, identity.nodeId);
    const token = randomBytes(TOKEN_BYTES).toString('base64url');
    const record = await new TicketStore(ticketStorePath(this.paths)).create({
      token,
      identity: flags.identity,
      node: identity.nodeId,
      services: named.length === 0 ? 'all' : named,
      label,
      ttlMs,
      once: flags.once,
      pair: flags.pair,
    });
    const ticket = formatTicket({
      nodeId: identity.nodeId,
      ...(running?.reach ?? { direct: [], relays: [] }),
      token,
    });
    const { id, once, expiresAt } = record;
    const notes = [
      ...(created ? [`made the identity '${flags.identity}'`] : []),
      ...(running
        ? running.missing(named).map((name) => `the expose that runs offers no '${name}'`)
        : [
            `no expose of the identity '${flags.identity}' runs here, so the ticket has no addresses: a peer finds this machine by its node ID, on the internet or the local network`,
          ]),
    ];
    output.print(
      {
        event: 'ticket',
        id,
        ticket,
        ...(named.length === 1 ? { service: named[0] } : {}),
        ...(named.length > 1 ? { services: named } : {}),
        once,
        ...(flags.pair ? { pair: true } : {}),
        ...(label === undefined ? {} : { name: label }),
        ...(expiresAt === undefined ? {} : { expiresAt }),
      },
      [
        `ticket    ${id}${label === undefined ? '' : ` ${label}`}`,
        `opens     ${opens(record)}`,
        `good      ${termsOf(record)}`,
        '',
        'On the other machine run:',
        '',
        `  ${forwardLine(ticket, running?.specs(named) ?? specsOf(named))}`,
        '',
        `To take it back: tunnel ticket revoke ${id}`,
      ],
    );
    for (const note of notes) process.stderr.write(`note: ${note}\n`);
  }
}

function specsOf(named: readonly string[]): string {
  return named.length === 0 ? '<spec>' : named.map((name) => `0:${name.replace(/\/tcp$/, '')}`).join(' ');
}
