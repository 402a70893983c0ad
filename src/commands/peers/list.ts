import { BaseCommand } from '../../cli/base-command.js';
import { peerJson, rightsText } from '../../cli/peer-lines.js';
import { peersFile } from '../../cli/peer-names.js';
import { shortNodeId } from '../../session/node-id.js';

export default class PeersList extends BaseCommand {
  static override summary = 'List the peers book';
  static override examples = ['<%= config.bin %> peers list', '<%= config.bin %> peers list --json'];

  async run(): Promise<void> {
    const { flags } = await this.parse(PeersList);
    const output = this.output(flags);
    const book = await peersFile(this.paths).read();
    const width = Math.max(...[...book.keys()].map(({ length }) => length), 0);
    output.print(
      { event: 'peers', peers: [...book].map(([name, entry]) => peerJson(name, entry)) },
      book.size === 0
        ? ['the peers book is empty; add one with: tunnel peers add <name> <ticket or node ID>']
        : [...book].map(
            ([name, entry]) =>
              `${name.padEnd(width)}  ${shortNodeId(entry.nodeId)}  may reach ${rightsText(entry)}`,
          ),
    );
  }
}
