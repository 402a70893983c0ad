import { BaseCommand } from '../../cli/base-command.js';
import { Args, Flags } from '../../cli/oclif.js';
import { peerJson, rightsText } from '../../cli/peer-lines.js';
import { peersFile } from '../../cli/peer-names.js';
import { parseServiceRights } from '../../cli/peer-rights.js';
import { decideOnce, pendingPeers, whichPeer } from '../../cli/pending-peers.js';
import { TunnelError } from '../../error.js';
import { EVERY_SERVICE, findByNodeId, type PeerEntry, recordDecision } from '../../tunnel/peers-book.js';

export default class PeersDeny extends BaseCommand {
  static override summary = 'Keep a peer from services of this machine, or from all of it';
  static override description =
    "Written to the peers book, and stronger than any ticket. What the peer uses of it at a running 'tunnel expose' is closed within a second.";
  static override examples = [
    '<%= config.bin %> peers deny alice',
    '<%= config.bin %> peers deny alice db',
    '<%= config.bin %> peers deny 3f9a12bc --once',
  ];
  static override strict = false;
  static override args = {
    peer: Args.string({
      description: 'a name, a node ID, or a peer that waits',
      required: true,
      ignoreStdin: true,
    }),
    service: Args.string({
      description: 'what it may not reach; everything when none is named',
      ignoreStdin: true,
    }),
  };
  static override flags = {
    once: Flags.boolean({ description: 'only this once: nothing is written to the book' }),
  };

  async run(): Promise<void> {
    const { flags, argv } = await this.parse(PeersDeny);
    const output = this.output(flags);
    const [text, ...named] = argv as [string, ...string[]];
    const services = parseServiceRights(named);
    const file = peersFile(this.paths);
    const { runtime } = this.paths;
    const pending = await pendingPeers(runtime);
    const nodeId = whichPeer(text, await file.read(), pending);
    if (flags.once) {
      if (services.length > 0)
        throw new TunnelError('USAGE', 'with --once it is denied what it asks for, and no list');
      await decideOnce(runtime, pending, nodeId, false);
      output.print({ event: 'peer', nodeId, allowed: false, once: true }, [`${text} is denied this once`]);
      return;
    }
    const book = await file.update((before) =>
      recordDecision(before, nodeId, {
        allowed: false,
        services: services.length > 0 ? services : [EVERY_SERVICE],
      }),
    );
    const [name, entry] = findByNodeId(book, nodeId) as readonly [string, PeerEntry];
    output.print({ event: 'peer', ...peerJson(name, entry) }, [`${name} may reach ${rightsText(entry)}`]);
  }
}
