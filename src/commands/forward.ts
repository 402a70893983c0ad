import { BaseCommand } from '../cli/base-command.js';
import { ForwardService, forwardPlan, UDP_IDLE } from '../cli/forward-service.js';
import { onHangUp } from '../cli/hang-up.js';
import { dialFlags, rateFlag, resumeFlag, statsFlags } from '../cli/network-flags.js';
import { observe } from '../cli/observe.js';
import { Args, Flags } from '../cli/oclif.js';
import { peerArgument, ticketFileFlag } from '../cli/peer-argument.js';
import { loadNames, PEER_ARGUMENT, peersFile, resolvePeer } from '../cli/peer-names.js';
import { serve } from '../cli/serve.js';
import { listenForShutdown } from '../cli/shutdown.js';

export default class ForwardCommand extends BaseCommand {
  static override summary = "Listen locally and carry each connection or UDP flow to a peer's service";
  static override description =
    'A spec is [[bind:]localport:]service[/udp] or unix:/path:service; 5432 listens on 127.0.0.1:5432 and reaches the service 5432.\nWithout a session it keeps trying: start it before the other side if you like.';
  static override examples = [
    "<%= config.bin %> forward 'tunnel://<node-id>?addr=…&token=…' 5432",
    '<%= config.bin %> forward <node-id> 15432:db 0:web',
    '<%= config.bin %> forward alice 5432',
    '<%= config.bin %> forward <node-id> 5353:dns/udp',
    '<%= config.bin %> forward --ticket-file ticket.txt 5432',
    '<%= config.bin %> forward - 5432 < ticket.txt',
  ];
  static override strict = false;
  static override args = {
    peer: Args.string({
      description: `${PEER_ARGUMENT}, or '-' for a ticket on stdin`,
      required: false,
      ignoreStdin: true,
    }),
    spec: Args.string({
      description: 'where to listen, and for which service',
      required: false,
      ignoreStdin: true,
    }),
  };
  static override flags = {
    ...dialFlags,
    ...ticketFileFlag,
    ...resumeFlag,
    ...rateFlag,
    ...statsFlags,
    'reconnect-timeout': Flags.string({
      description: 'give up after so long without a session; without it, never',
      helpValue: '<time>',
    }),
    'udp-idle': Flags.string({
      description: 'how long after its last packet a UDP flow ends',
      default: UDP_IDLE,
      helpValue: '<time>',
    }),
  };

  async run(): Promise<void> {
    const { flags, argv } = await this.parse(ForwardCommand);
    const output = this.output(flags);
    const given = await peerArgument(argv as string[], {
      ticketFile: flags['ticket-file'],
      command: 'forward',
      rest: '<spec>',
    });
    const file = peersFile(this.paths);
    const ticket = await resolvePeer(given.peer, file);
    await loadNames(this.names, file);
    const plan = forwardPlan(ticket, given.rest, flags);
    const shutdown = listenForShutdown();
    const endHangUp = onHangUp(() => void loadNames(this.names, file));
    const { identity } = await this.loadIdentity(flags);
    const observation = await observe({
      command: 'forward',
      nodeId: identity.nodeId,
      identity: flags.identity,
      runtime: this.paths.runtime,
      flags,
      output,
      shutdown,
      nameOf: (nodeId) => this.names.nameOf(nodeId),
    });
    let code: number;
    let forward: ForwardService | undefined;
    try {
      forward = await ForwardService.start(plan, { identity, observation, peersFile: file });
      await observation.start(forward.source);
      code = await serve(forward, shutdown);
    } finally {
      await forward?.close(0);
      await observation.close();
      endHangUp();
      shutdown.dispose();
    }
    this.exit(code);
  }
}
