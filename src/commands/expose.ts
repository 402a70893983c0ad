import { checkAnnouncedName, encodeAnnouncement, withAnnouncedName } from '../cli/announce.js';
import { BaseCommand } from '../cli/base-command.js';
import { parseDuration } from '../cli/duration.js';
import { exposeBanner, suggestedSpecs } from '../cli/expose-banner.js';
import { ExposeRights, publicNotice } from '../cli/expose-rights.js';
import { type ExposeTickets, openTickets, ticketFlags, ticketTerms } from '../cli/expose-tickets.js';
import { lockIdentity } from '../cli/identity-lock.js';
import { factsOf } from '../cli/network-facts.js';
import {
  bindEndpoint,
  lanOff,
  networkFlags,
  portFile,
  rateFlag,
  resumeFlag,
  statsFlags,
} from '../cli/network-flags.js';
import { observe } from '../cli/observe.js';
import { Args, Flags } from '../cli/oclif.js';
import { parsePeer } from '../cli/peer.js';
import { findPeer, peersFile, resolvePeer } from '../cli/peer-names.js';
import { serve } from '../cli/serve.js';
import { listenForShutdown } from '../cli/shutdown.js';
import type { WebTransportListening } from '../cli/webtransport-listener.js';
import { accessJson, peersByBook } from '../cli/who-may-connect.js';
import { TunnelError } from '../error.js';
import type { Identity } from '../session/identity.js';
import type { NodeId } from '../session/node-id.js';
import type { Endpoint } from '../session/session.js';
import { formatTicket } from '../session/ticket.js';
import { errorEvent, type TunnelEvent } from '../tunnel/events.js';
import { LiveBook } from '../tunnel/peers-file.js';
import { allowSource, publicSource } from '../tunnel/policy.js';
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
    '<%= config.bin %> expose 8080 --allow alice --ask',
    '<%= config.bin %> expose 8080 --announce workshop',
  ];
  static override strict = false;
  static override args = { target: Args.string({ description: 'what to offer', required: true }) };
  static override flags = {
    ...networkFlags,
    ...resumeFlag,
    ...rateFlag,
    ...statsFlags,
    allow: Flags.string({
      description: 'let this peer reach every target here (repeatable)',
      multiple: true,
      multipleNonGreedy: true,
      helpValue: '<peer>',
    }),
    public: Flags.boolean({
      description: 'let ANYONE in who learns the node ID, without a ticket',
      exclusive: ['ask'],
      default: false,
    }),
    ask: Flags.boolean({
      description: 'let unknown peers wait until you allow or deny them',
      default: false,
    }),
    'allow-speed': Flags.string({
      description: "let this peer measure the speed to here (repeatable); 'all' is everyone who is let in",
      multiple: true,
      multipleNonGreedy: true,
      helpValue: '<peer>',
    }),
    'ask-timeout': Flags.string({
      description: 'how long an unknown peer waits to be let in',
      default: '5m',
      helpValue: '<time>',
    }),
    announce: Flags.string({
      description:
        "show this node, under a name (this machine's if left out) and with what it offers, to everybody on the local network ('tunnel peers nearby')",
      helpValue: '[<name>]',
    }),
    ...ticketFlags,
    webtransport: Flags.string({
      description: 'also listen here for peers whose network drops UDP (HTTP/2 or HTTP/3)',
      helpValue: '<ip:port>',
    }),
  };

  async run(): Promise<void> {
    const { flags, argv } = await this.parse(ExposeCommand, withAnnouncedName(this.argv));
    const output = this.output(flags);
    const services = parseTargets(argv as string[]);
    const announced = announcement(flags);
    const resumeTimeoutMs = parseDuration(flags['resume-timeout'], '--resume-timeout');
    const approvalTimeoutMs = parseDuration(flags['ask-timeout'], '--ask-timeout', 1);
    const file = peersFile(this.paths);
    const allowed = await Promise.all((flags.allow ?? []).map((peer) => resolvePeer(peer, file)));
    const allowsSpeed = await speedRight(flags['allow-speed'] ?? [], (peer) => resolvePeer(peer, file));
    const rights = new ExposeRights(await LiveBook.open(file, (error) => rights.report(errorEvent(error))));
    this.names.from((nodeId) => rights.book.nameOf(nodeId));
    const terms = ticketTerms(flags);
    const rates = new Rates(
      parseRateRules(flags['limit-rate'], {
        services: services.map(({ name }) => name),
        peer: (text) => (findPeer(rights.book.book, text)?.[1] ?? parsePeer(text)).nodeId,
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
      nameOf: (nodeId) => this.names.nameOf(nodeId),
      decide: (decision) => rights.decide(decision),
    });
    rights.report = observation.report;
    let code: number;
    let tickets: ExposeTickets | undefined;
    try {
      tickets = await openTickets({
        paths: this.paths,
        identity,
        identityName: flags.identity,
        services,
        terms,
        report: observation.report,
        book: rights.book,
      });
      const endpoint = await bindEndpoint(identity, flags, {
        portFile: portFile(this.paths.state, flags.identity),
        // Found by who knows its ID in either case; a name is for all to see.
        announce: true,
        ...(announced === undefined
          ? {}
          : { lanName: encodeAnnouncement(announced, suggestedSpecs(services)) }),
      });
      const { lan: lanError } = endpoint.lookupErrors;
      const { Expose } = await import('../tunnel/expose.js');
      const listening =
        flags.webtransport === undefined
          ? undefined
          : await this.#listen(identity, flags.webtransport, endpoint);
      const expose = new Expose({
        endpoints: listening ? [endpoint, listening.endpoint] : [endpoint],
        identity,
        services,
        rights: [
          rights.book.rights(),
          allowSource(allowed.map(({ nodeId }) => nodeId)),
          ...(flags.public ? [publicSource()] : []),
          tickets.rights,
        ],
        ask: flags.ask,
        approvalTimeoutMs,
        report: observation.report,
        onSilent: observation.onSilent,
        methods: observation.methods,
        allowsSpeed,
        facts: factsOf(endpoint),
        resumeTimeoutMs,
        rates,
      });
      rights.approvals = expose.approvals;
      const { nodeId } = identity;
      const reach = () => {
        const { direct, relays } = endpoint.addresses();
        // It takes a moment to find the nearest; until then it is any of those that were named.
        const named = relays.length > 0 ? relays : (flags.relay ?? []);
        return { direct, relays: named, webtransport: listening?.hints };
      };
      const { token, record } = tickets;
      const ticket = formatTicket({ nodeId, ...reach(), token });
      const identityName = flags.identity;
      const access = {
        ticket: record,
        public: flags.public,
        ask: flags.ask,
        allow: allowed.map((peer) => this.names.label(peer.nodeId)),
        book: peersByBook(rights.book.book, offered),
      };
      const banner = exposeBanner({ nodeId, identityName, created, services, ticket, access, announced });
      output.print(
        {
          event: 'ready',
          nodeId,
          ticket,
          services: offered,
          access: accessJson(access),
          ...(announced === undefined ? {} : { announced }),
          pid: process.pid,
        },
        banner,
      );
      if (announced !== undefined && lanError !== undefined) observation.report(notSeen(lanError));
      if (flags.public) observation.report(publicNotice(nodeId));
      await observation.start({ ...expose.source, reach }, banner);
      code = await serve(
        { ended: new Promise(() => undefined), close: (ms, signal) => expose.close(ms, signal) },
        shutdown,
      );
    } finally {
      tickets?.rights.close();
      await observation.close();
      rights.book.close();
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

/** Throws USAGE for a name that cannot be shown, or where nobody would see it. */
function announcement(flags: {
  readonly announce?: string | undefined;
  readonly lan: boolean;
  readonly bind?: string | undefined;
}): string | undefined {
  if (flags.announce === undefined) return undefined;
  const name = checkAnnouncedName(flags.announce);
  const off = lanOff(flags);
  if (off === undefined) return name;
  throw new TunnelError('USAGE', `nobody would see the name '${name}': ${off}`, {
    hint: 'leave out --announce, or the other flag',
  });
}

function notSeen(why: string): TunnelEvent {
  const message = `nobody on the local network sees this node: ${why}`;
  return errorEvent(
    new TunnelError('OS_RESOURCE', message, { hint: "see the line 'mdns' of tunnel doctor" }),
  );
}

/** Throws what `resolve` throws for a peer that cannot be found. */
async function speedRight(
  peers: readonly string[],
  resolve: (peer: string) => Promise<{ readonly nodeId: NodeId }>,
): Promise<(peer: NodeId) => boolean> {
  const isAll = peers.includes('all');
  const named = await Promise.all(peers.filter((peer) => peer !== 'all').map(resolve));
  const allowed = new Set(named.map(({ nodeId }) => nodeId));
  return (peer) => isAll || allowed.has(peer);
}
