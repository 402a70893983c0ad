import { BaseCommand } from '../cli/base-command.js';
import { parseDuration } from '../cli/duration.js';
import { dialFlags, rateFlag, resumeFlag, statsFlags } from '../cli/network-flags.js';
import { observe } from '../cli/observe.js';
import { Args, Flags } from '../cli/oclif.js';
import { peerArgument, ticketFileFlag } from '../cli/peer-argument.js';
import { loadNames, PEER_ARGUMENT, peersFile, resolvePeer } from '../cli/peer-names.js';
import { rememberAddresses } from '../cli/remember-addresses.js';
import { serve } from '../cli/serve.js';
import { listenForShutdown } from '../cli/shutdown.js';
import { parseRateRules, Rates } from '../tunnel/rates.js';
import { parseForwardSpecs } from '../tunnel/spec.js';

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
      default: '2m',
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
    const specs = parseForwardSpecs(given.rest);
    const rates = new Rates(
      parseRateRules(flags['limit-rate'], { services: specs.map(({ service }) => service) }),
    );
    const resumeTimeoutMs = parseDuration(flags['resume-timeout'], '--resume-timeout');
    const giveUp = flags['reconnect-timeout'];
    const reconnectTimeoutMs =
      giveUp === undefined ? undefined : parseDuration(giveUp, '--reconnect-timeout');
    const udpIdleMs = parseDuration(flags['udp-idle'], '--udp-idle', 1);
    const shutdown = listenForShutdown();
    const { identity } = await this.loadIdentity(flags);
    const { openWays } = await import('../cli/ways.js');
    const { ways, addresses, facts, networkChange, close } = await openWays(identity, ticket, flags);
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
    const memory = rememberAddresses(file, ticket.nodeId, addresses, observation.report);
    let code: number;
    try {
      const { Forward } = await import('../tunnel/forward.js');
      const forward = await Forward.start({
        identity,
        peer: ticket.nodeId,
        ways,
        addresses,
        token: ticket.token,
        specs,
        resumeTimeoutMs,
        rates,
        reconnectTimeoutMs,
        facts,
        onNetworkChange: networkChange,
        udpIdleMs,
        report: memory.report,
        onSilent: observation.onSilent,
        methods: observation.methods(ticket.nodeId),
      });
      await observation.start(forward.source);
      code = await serve(forward, shutdown);
    } finally {
      await memory.close();
      await observation.close();
      await close(shutdown.atOnce);
      shutdown.dispose();
    }
    this.exit(code);
  }
}
