import { BaseCommand } from '../../cli/base-command.js';
import { Args } from '../../cli/oclif.js';
import { peerJson } from '../../cli/peer-lines.js';
import { peersFile, requirePeer } from '../../cli/peer-names.js';
import { checkNameIsFree, checkPeerName, type PeerEntry } from '../../tunnel/peers-book.js';

export default class PeersRename extends BaseCommand {
  static override summary = 'Give a peer another name';
  static override examples = ['<%= config.bin %> peers rename alice alice-laptop'];
  static override args = {
    peer: Args.string({ description: 'a name or a node ID', required: true, ignoreStdin: true }),
    name: Args.string({ description: 'the new name', required: true, ignoreStdin: true }),
  };

  async run(): Promise<void> {
    const { flags, args } = await this.parse(PeersRename);
    const output = this.output(flags);
    const name = checkPeerName(args.name);
    let old = args.peer;
    const book = await peersFile(this.paths).update((before) => {
      const [known, { nodeId }] = requirePeer(before, args.peer);
      old = known;
      if (old === name) return before;
      checkNameIsFree(before, name, nodeId);
      return new Map([...before].map(([key, entry]) => [key === old ? name : key, entry]));
    });
    output.print({ event: 'peer', ...peerJson(name, book.get(name) as PeerEntry) }, [
      `${old} is now ${name}`,
    ]);
  }
}
