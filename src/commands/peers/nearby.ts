import { type AnnouncedNode, announcedNodes } from '../../cli/announce.js';
import { BaseCommand } from '../../cli/base-command.js';
import { parseDuration } from '../../cli/duration.js';
import { plainForwardLine } from '../../cli/expose-banner.js';
import { bindEndpoint, lanOff } from '../../cli/network-flags.js';
import { Flags } from '../../cli/oclif.js';
import { loadNames, peersFile } from '../../cli/peer-names.js';
import { listenForShutdown } from '../../cli/shutdown.js';
import { Spinner } from '../../cli/spinner.js';
import { within } from '../../cli/within.js';
import { TunnelError } from '../../error.js';
import type { IrohEndpoint } from '../../session/engines/iroh-network.js';
import { Identity } from '../../session/identity.js';

const MAX_TIMEOUT_MS = 60_000;

export default class PeersNearby extends BaseCommand {
  static override summary = 'List the nodes of this local network that chose to be seen';
  static override description =
    "They run 'tunnel expose … --announce'. A name is whatever its node says; who answers to a node ID is proven when you connect. To be let in takes a right, as always: a ticket, or 'tunnel peers allow' there.";
  static override examples = ['<%= config.bin %> peers nearby', '<%= config.bin %> peers nearby --json'];
  static override flags = {
    timeout: Flags.string({
      char: 't',
      description: 'how long to look',
      default: '3s',
      helpValue: '<time>',
    }),
    bind: Flags.string({ description: 'look from this local address only', helpValue: '<ip>' }),
  };

  async run(): Promise<void> {
    const { flags } = await this.parse(PeersNearby);
    const output = this.output(flags);
    const timeoutMs = parseDuration(flags.timeout, '--timeout', 1, MAX_TIMEOUT_MS);
    const off = lanOff({ lan: true, bind: flags.bind });
    if (off !== undefined) {
      throw new TunnelError('USAGE', `nobody can be seen: ${off}`, { hint: 'leave out --bind' });
    }
    await loadNames(this.names, peersFile(this.paths));
    const shutdown = listenForShutdown();
    const spinner = new Spinner();
    let endpoint: IrohEndpoint | undefined;
    let exitCode: number | undefined;
    try {
      endpoint = await bindEndpoint(Identity.generate(), {
        'no-relay': true,
        lan: true,
        dns: false,
        dht: false,
        congestion: 'cubic',
        bind: flags.bind,
      });
      const { lan } = endpoint.lookupErrors;
      if (lan !== undefined) {
        throw new TunnelError('OS_RESOURCE', `the local network cannot be looked at: ${lan}`, {
          hint: "see the line 'mdns' of tunnel doctor",
        });
      }
      const seen = endpoint;
      const count = () => {
        const { length } = announcedNodes(seen.nearby);
        if (!flags.json) spinner.start(`looking around: ${length === 0 ? 'nobody' : length} yet`);
      };
      count();
      const end = endpoint.onNearby(count);
      exitCode = await within(shutdown.requested, timeoutMs, undefined);
      end();
      spinner.stop();
      const nodes = announcedNodes(endpoint.nearby);
      output.print(
        { event: 'nearby', nodes: nodes.map((node) => this.#json(node)) },
        nodes.length === 0
          ? ['nobody on this network shows itself; a machine does with: tunnel expose … --announce']
          : nodes.flatMap((node) => this.#lines(node)),
      );
    } finally {
      spinner.stop();
      await endpoint?.close();
      shutdown.dispose();
    }
    if (exitCode !== undefined) this.exit(exitCode);
  }

  #json({ name, nodeId, addresses, specs }: AnnouncedNode): object {
    const peer = this.names.nameOf(nodeId);
    return {
      name,
      nodeId,
      addresses,
      specs,
      forward: plainForwardLine(nodeId, specs),
      ...(peer ? { peer } : {}),
    };
  }

  #lines({ name, nodeId, addresses, specs }: AnnouncedNode): readonly string[] {
    const peer = this.names.nameOf(nodeId);
    return [
      `${name}${peer === undefined ? '' : `, '${peer}' in the peers book`}`,
      `  node       ${nodeId}`,
      `  addresses  ${addresses.join(', ')}`,
      `  ${plainForwardLine(nodeId, specs)}`,
    ];
  }
}
