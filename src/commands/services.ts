import { BaseCommand } from '../cli/base-command.js';
import { dialFlags } from '../cli/network-flags.js';
import { Args } from '../cli/oclif.js';
import { peerArgument, ticketFileFlag } from '../cli/peer-argument.js';
import { loadNames, PEER_ARGUMENT, peersFile, resolvePeer } from '../cli/peer-names.js';
import { Spinner } from '../cli/spinner.js';
import { canRedraw } from '../cli/terminal.js';

export default class ServicesCommand extends BaseCommand {
  static override summary = 'List what a peer offers you';
  static override examples = ["<%= config.bin %> services 'tunnel://<node-id>?addr=…&token=…'"];
  static override args = {
    peer: Args.string({
      description: `${PEER_ARGUMENT}, or '-' for a ticket on stdin`,
      required: false,
      ignoreStdin: true,
    }),
  };
  static override flags = { ...dialFlags, ...ticketFileFlag };

  async run(): Promise<void> {
    const { flags, argv } = await this.parse(ServicesCommand);
    const output = this.output(flags);
    const given = await peerArgument(argv as string[], {
      ticketFile: flags['ticket-file'],
      command: 'services',
    });
    const file = peersFile(this.paths);
    const ticket = await resolvePeer(given.peer, file);
    await loadNames(this.names, file);
    const { nodeId: peer, token } = ticket;
    const { identity } = await this.loadIdentity(flags);
    const { openWays } = await import('../cli/ways.js');
    const { ways, close } = await openWays(identity, ticket, flags);
    const spinner = new Spinner();
    if (!flags.json) spinner.start(`connecting to ${this.names.label(peer)}`);
    try {
      const { dialPeer } = await import('../tunnel/dial-peer.js');
      const { listServices } = await import('../tunnel/services.js');
      const session = await dialPeer({ identity, peer, ways, token }, undefined, () => {
        const waiting = `waiting for approval: somebody at ${this.names.label(peer)} has to let you in`;
        if (flags.json) return;
        spinner.start(waiting);
        if (!canRedraw(process.stderr)) process.stderr.write(`${waiting}\n`);
      });
      const services = await listServices(session);
      spinner.stop();
      output.print(
        { event: 'services', peer, services },
        services.length === 0
          ? ['the peer offers you nothing']
          : services.map(({ name, protocol }) => `${name}\t${protocol}`),
      );
      session.session.close();
    } finally {
      spinner.stop();
      await close();
    }
  }
}
