import { BaseCommand } from '../../cli/base-command.js';
import { parseDuration } from '../../cli/duration.js';
import { Args, Flags } from '../../cli/oclif.js';
import { peerJson, rightsText } from '../../cli/peer-lines.js';
import { peersFile } from '../../cli/peer-names.js';
import { parseServiceRights } from '../../cli/peer-rights.js';
import { decideOnce, pendingPeers, wantedRights, whichPeer } from '../../cli/pending-peers.js';
import { TunnelError } from '../../error.js';
import {
  checkNameIsFree,
  checkPeerName,
  EVERY_SERVICE,
  findByNodeId,
  type PeerEntry,
  recordDecision,
} from '../../tunnel/peers-book.js';

export default class PeersAllow extends BaseCommand {
  static override summary = 'Let a peer reach services of this machine';
  static override description =
    "Written to the peers book; a running 'tunnel expose' follows at once. A peer that waits to be let in gets what it asks for when no service is named.";
  static override examples = [
    '<%= config.bin %> peers allow alice db dns/udp',
    '<%= config.bin %> peers allow alice --all --ttl 2h',
    '<%= config.bin %> peers allow 3f9a12bc --once',
  ];
  static override strict = false;
  static override args = {
    peer: Args.string({
      description: 'a name, a node ID, or a peer that waits',
      required: true,
      ignoreStdin: true,
    }),
    service: Args.string({ description: 'what it may reach: db, dns/udp', ignoreStdin: true }),
  };
  static override flags = {
    all: Flags.boolean({ description: 'every service, also later ones', exclusive: ['once'] }),
    ttl: Flags.string({ description: 'for so long only', helpValue: '<time>', exclusive: ['once'] }),
    once: Flags.boolean({ description: 'only this once: nothing is written to the book' }),
    name: Flags.string({
      description: 'what to call a peer that is not in the book',
      helpValue: '<name>',
      exclusive: ['once'],
    }),
  };

  async run(): Promise<void> {
    const { flags, argv } = await this.parse(PeersAllow);
    const output = this.output(flags);
    const [text, ...named] = argv as [string, ...string[]];
    const services = parseServiceRights(named);
    const { ttl, once, all } = flags;
    const expiresAtMs = ttl === undefined ? undefined : Date.now() + parseDuration(ttl, '--ttl', 1);
    const name = flags.name === undefined ? undefined : checkPeerName(flags.name);
    const file = peersFile(this.paths);
    const { runtime } = this.paths;
    const pending = await pendingPeers(runtime);
    const nodeId = whichPeer(text, await file.read(), pending);
    if (once) {
      if (services.length > 0)
        throw new TunnelError('USAGE', 'with --once it gets what it asks for, and no list');
      await decideOnce(runtime, pending, nodeId, true);
      output.print({ event: 'peer', nodeId, allowed: true, once: true }, [`${text} is let in this once`]);
      return;
    }
    const questions = pending.filter(({ peer }) => peer === nodeId);
    const rights = all ? [EVERY_SERVICE] : services.length > 0 ? services : wantedRights(questions);
    if (rights.length === 0) {
      throw new TunnelError('USAGE', `say what ${text} may reach`, {
        hint: `tunnel peers allow ${text} db, or --all for every service`,
      });
    }
    const book = await file.update((before) => {
      if (name !== undefined) checkNameIsFree(before, name, nodeId);
      return recordDecision(before, nodeId, { allowed: true, services: rights, expiresAtMs, name });
    });
    const [known, entry] = findByNodeId(book, nodeId) as readonly [string, PeerEntry];
    output.print({ event: 'peer', ...peerJson(known, entry) }, [`${known} may reach ${rightsText(entry)}`]);
  }
}
