import { BaseCommand } from '../../cli/base-command.js';
import { Args } from '../../cli/oclif.js';
import { peersFile, requirePeer } from '../../cli/peer-names.js';

export default class PeersRemove extends BaseCommand {
  static override summary = 'Forget a peer, with all the book lets it reach';
  static override description =
    "What it uses by the book is closed at once. A ticket it holds goes on: 'tunnel peers deny' stops that too.";
  static override examples = ['<%= config.bin %> peers remove alice'];
  static override args = {
    peer: Args.string({ description: 'a name or a node ID', required: true, ignoreStdin: true }),
  };

  async run(): Promise<void> {
    const { flags, args } = await this.parse(PeersRemove);
    const output = this.output(flags);
    let removed: { readonly name: string; readonly nodeId: string } | undefined;
    await peersFile(this.paths).update((before) => {
      const [name, { nodeId }] = requirePeer(before, args.peer);
      removed = { name, nodeId };
      return new Map([...before].filter(([key]) => key !== name));
    });
    output.print({ event: 'peer', ...removed, removed: true }, [`removed ${removed?.name}`]);
  }
}
