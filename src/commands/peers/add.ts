import { BaseCommand } from '../../cli/base-command.js';
import { Args, Flags } from '../../cli/oclif.js';
import { parsePeer } from '../../cli/peer.js';
import { peerArgument } from '../../cli/peer-argument.js';
import { peerJson, peerLines } from '../../cli/peer-lines.js';
import { looksLikeTicket, peersFile } from '../../cli/peer-names.js';
import { parseServiceRights } from '../../cli/peer-rights.js';
import { TunnelError } from '../../error.js';
import {
  allowing,
  checkNameIsFree,
  checkPeerName,
  findByNodeId,
  newEntry,
  type PeerEntry,
  withTicket,
} from '../../tunnel/peers-book.js';

export default class PeersAdd extends BaseCommand {
  static override summary = 'Put a peer into the peers book';
  static override description =
    "A ticket's addresses are kept, and its token too, so that the name alone is enough for 'tunnel forward'.\nThe book is readable by you alone; with --no-token the token is left out of it.";
  static override examples = [
    "<%= config.bin %> peers add alice 'tunnel://<node-id>?addr=…&token=…'",
    '<%= config.bin %> peers add alice - < ticket.txt',
    '<%= config.bin %> peers add bob <node-id> --allow db --allow dns/udp',
  ];
  static override args = {
    name: Args.string({ description: 'what to call it', required: true, ignoreStdin: true }),
    peer: Args.string({
      description: "a ticket or a node ID; '-' reads it from stdin",
      required: true,
      ignoreStdin: true,
    }),
  };
  static override flags = {
    allow: Flags.string({
      description: 'what it may reach on this machine (repeatable)',
      multiple: true,
      multipleNonGreedy: true,
      helpValue: '<service>',
    }),
    token: Flags.boolean({ description: "keep the ticket's token", default: true, allowNo: true }),
  };

  async run(): Promise<void> {
    const { flags, args } = await this.parse(PeersAdd);
    const output = this.output(flags);
    const name = checkPeerName(args.name);
    const { peer: text } = await peerArgument([args.peer], { ticketFile: undefined, command: 'peers add' });
    const given = parsePeer(text);
    const ticket = flags.token ? given : { ...given, token: undefined };
    const rights = parseServiceRights(flags.allow ?? []);
    const file = peersFile(this.paths);
    const book = await file.update((before) => {
      checkNameIsFree(before, name, ticket.nodeId);
      const [other] = findByNodeId(before, ticket.nodeId) ?? [];
      if (other !== undefined && other !== name) {
        throw new TunnelError('USAGE', `that node is in the peers book already, as '${other}'`, {
          hint: `run: tunnel peers rename ${other} ${name}`,
        });
      }
      const entry = withTicket(before.get(name) ?? newEntry(ticket.nodeId), ticket);
      return new Map(before).set(name, rights.length > 0 ? allowing(entry, rights, undefined) : entry);
    });
    const entry = book.get(name) as PeerEntry;
    const kept = looksLikeTicket(text) && ticket.token !== undefined;
    output.print({ event: 'peer', ...peerJson(name, entry) }, [
      ...peerLines(name, entry),
      ...(kept ? ['', `The ticket's token is a secret; it is kept in ${file.path}, for you alone.`] : []),
    ]);
  }
}
