import { BaseCommand } from '../../cli/base-command.js';
import { Args } from '../../cli/oclif.js';
import { peerJson, peerLines } from '../../cli/peer-lines.js';
import { peersFile, requirePeer } from '../../cli/peer-names.js';

export default class PeersShow extends BaseCommand {
  static override summary = 'Show what the peers book has of a peer';
  static override examples = ['<%= config.bin %> peers show alice'];
  static override args = {
    peer: Args.string({ description: 'a name or a node ID', required: true, ignoreStdin: true }),
  };

  async run(): Promise<void> {
    const { flags, args } = await this.parse(PeersShow);
    const output = this.output(flags);
    const [name, entry] = requirePeer(await peersFile(this.paths).read(), args.peer);
    output.print({ event: 'peer', ...peerJson(name, entry) }, peerLines(name, entry));
  }
}
