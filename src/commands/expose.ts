import { Args, Flags } from '@oclif/core';
import { BaseCommand } from '../cli/base-command.js';
import { parseDuration } from '../cli/duration.js';
import { exposeBanner } from '../cli/expose-banner.js';
import { lockIdentity } from '../cli/identity-lock.js';
import {
  bindEndpoint,
  networkFlags,
  portFile,
  rateFlag,
  resumeFlag,
  statsFlags,
} from '../cli/network-flags.js';
import { observe } from '../cli/observe.js';
import { parsePeer } from '../cli/peer.js';
import { serve } from '../cli/serve.js';
import { listenForShutdown } from '../cli/shutdown.js';
import type { WebTransportListening } from '../cli/webtransport-listener.js';
import type { Identity } from '../session/identity.js';
import type { Endpoint } from '../session/session.js';
import { parseRateRules, Rates } from '../tunnel/rates.js';
import { formatTarget, parseTargets } from '../tunnel/spec.js';

export default class ExposeCommand extends BaseCommand {
  static override summary = 'Offer local services to peers';
  static override description =
    "Stays in the foreground and prints the line to paste on the other machine.\nA target is [name=][tcp:|udp:][host:]port or [name=]unix:/path; 8080 means 127.0.0.1:8080, named '8080'.";
  static override examples = [
    '<%= config.bin %> expose 8080',
    '<%= config.bin %> expose web=localhost:3000 db=10.0.0.5:5432 docker=unix:/run/docker.sock',
    '<%= config.bin %> expose dns=udp:53 dns=tcp:53',
  ];
  static override strict = false;
  static override args = { target: Args.string({ description: 'what to offer', required: true }) };
  static override flags = {
    ...networkFlags,
    ...resumeFlag,
    ...rateFlag,
    ...statsFlags,
    webtransport: Flags.string({
      description: 'also listen here for peers whose network drops UDP (HTTP/2 or HTTP/3)',
      helpValue: '<ip:port>',
    }),
  };

  async run(): Promise<void> {
    const { flags, argv } = await this.parse(ExposeCommand);
    const output = this.output(flags);
    const services = parseTargets(argv as string[]);
    const resumeTimeoutMs = parseDuration(flags['resume-timeout'], '--resume-timeout');
    const rates = new Rates(
      parseRateRules(flags['limit-rate'], {
        services: services.map(({ name }) => name),
        peer: (text) => parsePeer(text).nodeId,
      }),
    );
    const shutdown = listenForShutdown();
    const { identity, created } = await this.loadIdentity(flags);
    const unlock = await lockIdentity(this.paths.runtime, flags.identity);
    const offered = services.map(({ name, target }) => ({
      name,
      protocol: target.protocol,
      target: formatTarget(target),
    }));
    const observation = await observe({
      command: 'expose',
      nodeId: identity.nodeId,
      identity: flags.identity,
      services: offered,
      runtime: this.paths.runtime,
      flags,
      output,
      shutdown,
    });
    let code: number;
    try {
      const endpoint = await bindEndpoint(identity, flags, portFile(this.paths.state, flags.identity));
      const { Expose } = await import('../tunnel/expose.js');
      const listening =
        flags.webtransport === undefined
          ? undefined
          : await this.#listen(identity, flags.webtransport, endpoint);
      const expose = new Expose({
        endpoints: listening ? [endpoint, listening.endpoint] : [endpoint],
        identity,
        services,
        report: observation.report,
        methods: observation.methods,
        resumeTimeoutMs,
        rates,
      });
      const ticket = expose.ticket({ ...endpoint.addresses(), webtransport: listening?.hints });
      const { nodeId } = identity;
      const banner = exposeBanner({ nodeId, identityName: flags.identity, created, services, ticket });
      output.print({ event: 'ready', nodeId, ticket, services: offered, pid: process.pid }, banner);
      await observation.start(expose.source, banner);
      code = await serve(
        { ended: new Promise(() => undefined), close: (ms, signal) => expose.close(ms, signal) },
        shutdown,
      );
    } finally {
      await observation.close();
      await unlock();
      shutdown.dispose();
    }
    this.exit(code);
  }

  /** Leaves nothing bound when it fails. */
  async #listen(identity: Identity, address: string, bound: Endpoint): Promise<WebTransportListening> {
    const { listenWebTransportOn } = await import('../cli/webtransport-listener.js');
    try {
      return await listenWebTransportOn(identity, address);
    } catch (error) {
      await bound.close();
      throw error;
    }
  }
}
