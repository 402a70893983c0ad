import { withAnnouncedName } from '../cli/announce.js';
import { BaseCommand } from '../cli/base-command.js';
import { ASK_TIMEOUT, exposePlan } from '../cli/expose-plan.js';
import { ExposeRights } from '../cli/expose-rights.js';
import { ExposeService, offeredServices } from '../cli/expose-service.js';
import { ticketFlags } from '../cli/expose-tickets.js';
import { onHangUp } from '../cli/hang-up.js';
import { networkFlags, rateFlag, resumeFlag, statsFlags } from '../cli/network-flags.js';
import { observe } from '../cli/observe.js';
import { Args, Flags } from '../cli/oclif.js';
import { peerIn, peersFile } from '../cli/peer-names.js';
import { serve } from '../cli/serve.js';
import { listenForShutdown } from '../cli/shutdown.js';

export default class ExposeCommand extends BaseCommand {
  static override summary = 'Offer local services to peers';
  static override description =
    "Stays in the foreground and prints the line to paste on the other machine.\nA target is [name=][tcp:|udp:][host:]port or [name=]unix:/path; 8080 means 127.0.0.1:8080, named '8080'.";
  static override examples = [
    '<%= config.bin %> expose 8080',
    '<%= config.bin %> expose web=localhost:3000 db=10.0.0.5:5432 docker=unix:/run/docker.sock',
    '<%= config.bin %> expose dns=udp:53 dns=tcp:53',
    '<%= config.bin %> expose 8080 --allow alice --ask',
    '<%= config.bin %> expose 8080 --announce workshop',
  ];
  static override strict = false;
  static override args = { target: Args.string({ description: 'what to offer', required: true }) };
  static override flags = {
    ...networkFlags,
    ...resumeFlag,
    ...rateFlag,
    ...statsFlags,
    allow: Flags.string({
      description: 'let this peer reach every target here (repeatable)',
      multiple: true,
      multipleNonGreedy: true,
      helpValue: '<peer>',
    }),
    public: Flags.boolean({
      description: 'let ANYONE in who learns the node ID, without a ticket',
      exclusive: ['ask'],
      default: false,
    }),
    ask: Flags.boolean({
      description: 'let unknown peers wait until you allow or deny them',
      default: false,
    }),
    'allow-speed': Flags.string({
      description: "let this peer measure the speed to here (repeatable); 'all' is everyone who is let in",
      multiple: true,
      multipleNonGreedy: true,
      helpValue: '<peer>',
    }),
    'ask-timeout': Flags.string({
      description: 'how long an unknown peer waits to be let in',
      default: ASK_TIMEOUT,
      helpValue: '<time>',
    }),
    announce: Flags.string({
      description:
        "show this node, under a name (this machine's if left out) and with what it offers, to everybody on the local network ('tunnel peers nearby')",
      helpValue: '[<name>]',
    }),
    ...ticketFlags,
    webtransport: Flags.string({
      description: 'also listen here for peers whose network drops UDP (HTTP/2 or HTTP/3)',
      helpValue: '<ip:port>',
    }),
  };

  async run(): Promise<void> {
    const { flags, argv } = await this.parse(ExposeCommand, withAnnouncedName(this.argv));
    const output = this.output(flags);
    const rights = await ExposeRights.open(peersFile(this.paths));
    this.names.from((nodeId) => rights.book.nameOf(nodeId));
    const plan = exposePlan(argv as string[], flags, (peer) => peerIn(rights.book.book, peer).nodeId);
    const shutdown = listenForShutdown();
    const endHangUp = onHangUp(() => void rights.book.look());
    const { identity, created } = await this.loadIdentity(flags);
    const observation = await observe({
      command: 'expose',
      nodeId: identity.nodeId,
      identity: flags.identity,
      services: offeredServices(plan.services),
      runtime: this.paths.runtime,
      flags,
      output,
      shutdown,
      nameOf: (nodeId) => this.names.nameOf(nodeId),
      decide: (decision) => rights.decide(decision),
    });
    rights.report = observation.report;
    let code: number;
    let expose: ExposeService | undefined;
    try {
      expose = await ExposeService.start(plan, {
        paths: this.paths,
        identity,
        identityName: flags.identity,
        rights,
        observation,
        label: (nodeId) => this.names.label(nodeId),
      });
      const banner = expose.announce(output.print, { created });
      await observation.start(expose.source, () => banner);
      code = await serve(expose, shutdown);
    } finally {
      await expose?.close(0);
      await observation.close();
      rights.book.close();
      endHangUp();
      shutdown.dispose();
    }
    this.exit(code);
  }
}
