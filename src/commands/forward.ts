import { Args } from '@oclif/core';
import { BaseCommand } from '../cli/base-command.js';
import { dialFlags, statsFlags } from '../cli/network-flags.js';
import { observe } from '../cli/observe.js';
import { parsePeer } from '../cli/peer.js';
import { serve } from '../cli/serve.js';
import { listenForShutdown } from '../cli/shutdown.js';
import { parseForwardSpecs } from '../tunnel/spec.js';

export default class ForwardCommand extends BaseCommand {
  static override summary = "Listen locally and carry each connection to a peer's service";
  static override description =
    'A spec is [[bind:]localport:]service or unix:/path:service; 5432 listens on 127.0.0.1:5432 and reaches the service 5432.\nWithout a session it keeps trying: start it before the other side if you like.';
  static override examples = [
    "<%= config.bin %> forward 'tunnel://<node-id>?addr=…&token=…' 5432",
    '<%= config.bin %> forward <node-id> 15432:db 0:web',
  ];
  static override strict = false;
  static override args = {
    peer: Args.string({ description: 'a ticket or a node ID', required: true }),
    spec: Args.string({ description: 'where to listen, and for which service', required: true }),
  };
  static override flags = { ...dialFlags, ...statsFlags };

  async run(): Promise<void> {
    const { flags, argv } = await this.parse(ForwardCommand);
    const output = this.output(flags);
    const [peerText, ...specTexts] = argv as string[];
    const ticket = parsePeer(peerText as string);
    const specs = parseForwardSpecs(specTexts);
    const { requireTcp } = await import('../tunnel/require-tcp.js');
    requireTcp(specs.map(({ service, protocol }) => ({ name: service, protocol })));
    const shutdown = listenForShutdown();
    const { identity } = await this.loadIdentity(flags);
    const { openWays } = await import('../cli/ways.js');
    const { ways, close } = await openWays(identity, ticket, flags);
    const observation = await observe({
      command: 'forward',
      nodeId: identity.nodeId,
      identity: flags.identity,
      runtime: this.paths.runtime,
      flags,
      output,
      shutdown,
    });
    let code: number;
    try {
      const { Forward } = await import('../tunnel/forward.js');
      const forward = await Forward.start({
        identity,
        peer: ticket.nodeId,
        ways,
        token: ticket.token,
        specs,
        report: observation.report,
        methods: observation.methods(ticket.nodeId),
      });
      await observation.start(forward.source);
      code = await serve(forward, shutdown);
    } finally {
      await observation.close();
      await close();
      shutdown.dispose();
    }
    this.exit(code);
  }
}
