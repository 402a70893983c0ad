/**
 * The config file of `tunnel up` as plans of what to run: the words of the flags of `expose` and `forward`,
 * in tables. All of it is checked before any of it is answered.
 */
import { parse } from 'smol-toml';
import { TunnelError } from '../../error.js';
import { isSocketAddress } from '../../session/ticket.js';
import type { PeersBook } from '../../tunnel/peers-book.js';
import { parseRateRules } from '../../tunnel/rates.js';
import { parseTargets } from '../../tunnel/spec.js';
import { ASK_TIMEOUT, announcement, type ExposePlan, speedRight } from '../expose-plan.js';
import { saidOfTicket, type TicketTerms, ticketTerms } from '../expose-tickets.js';
import type { ForwardPlan } from '../forward-service.js';
import { parseListenAddress } from '../listen-address.js';
import { CONGESTIONS, checkRelays, type DialFlags, RESUME_TIMEOUT, VIAS } from '../network-flags.js';
import { identityPath, type Paths } from '../paths.js';
import { peerIn } from '../peer-names.js';
import type { Common, Given } from './common.js';
import type { ConfigText } from './config-file.js';
import { checkBeside, parseForward } from './config-forward.js';
import { COMMON_EXAMPLES, EXPOSE_EXAMPLES, FORWARD_EXAMPLES, SERVICES_EXAMPLE } from './config-keys.js';
import { bindOf, each, ownNetwork, required, time } from './config-values.js';
import { Section } from './toml-section.js';

export interface UpConfig {
  readonly common: Common;
  readonly expose: ExposePlan | undefined;
  readonly forwards: readonly ForwardPlan[];
}

export interface ConfigContext {
  readonly given: Given;
  readonly book: PeersBook;
  readonly paths: Paths;
  /** What a process already runs with: its parts go by that, whatever the file says now. */
  readonly running?: Common | undefined;
}

/** Throws BAD_CONFIG, naming the file, the line where it can be told, the key, and what is right there. */
export async function parseConfig(file: ConfigText, context: ConfigContext): Promise<UpConfig> {
  const { expose, forward, ...values } = parseToml(file);
  const root = new Section(values, COMMON_EXAMPLES, { ...file, table: '' });
  const common = parseCommon(root, context);
  const running = context.running ?? common;
  if (expose === undefined && forward === undefined) {
    throw bad(file, 'has neither [expose] nor [[forward]], so there is nothing to run', {
      hint: `example: [expose] and in the next line services = ${SERVICES_EXAMPLE}`,
    });
  }
  if (expose !== undefined && !isTable(expose))
    throw bad(file, "has 'expose' that is no table", { hint: 'example: [expose]' });
  const plans: ForwardPlan[] = [];
  for (const section of forwardSections(file, forward)) {
    const plan = await parseForward(section, running, { ...context, file });
    checkBeside(plan, plans, section);
    plans.push(plan);
  }
  const exposePlan =
    expose === undefined
      ? undefined
      : parseExpose(new Section(expose, EXPOSE_EXAMPLES, { ...file, table: 'expose' }), running, context);
  checkBinds([...(exposePlan ? [exposePlan] : []), ...plans], root);
  return { common, expose: exposePlan, forwards: plans };
}

/** Each part has a UDP socket of its own. */
function checkBinds(
  plans: readonly { readonly network: DialFlags | ExposePlan['network'] }[],
  root: Section,
): void {
  const ports = plans.flatMap(({ network: { bind } }) =>
    bind !== undefined && isSocketAddress(bind) ? [bind] : [],
  );
  const twice = ports.find((port, index) => ports.indexOf(port) !== index);
  if (twice === undefined) return;
  throw root.fail('bind', `: '${twice}' is one UDP port, and more than one part of the file would use it`, {
    hint: 'leave the port out, or say it in [expose] alone: bind = "192.0.2.7:4433"',
  });
}

function parseToml(file: ConfigText): Record<string, unknown> {
  try {
    return parse(file.text);
  } catch (cause) {
    const { line, message } = cause as { readonly line?: number; readonly message: string };
    // The rest of the message quotes the file, which may hold tickets.
    const what = message.split('\n')[0]?.replace(/^Invalid TOML document: /, '');
    throw bad(file, `is no TOML: ${what}`, {
      line,
      hint: `texts are in quotes, lists in brackets: services = ${SERVICES_EXAMPLE}`,
    });
  }
}

function forwardSections(file: ConfigText, forward: unknown): readonly Section[] {
  if (forward === undefined) return [];
  if (!Array.isArray(forward) || !forward.every(isTable)) {
    throw bad(file, "has 'forward' that is no list of tables", {
      hint: 'each begins with a line of its own, with two brackets: [[forward]]',
    });
  }
  return forward.map(
    (values, index) => new Section(values, FORWARD_EXAMPLES, { ...file, table: 'forward', index }),
  );
}

function parseCommon(root: Section, { given, paths }: ConfigContext): Common {
  const identity = given.identity ?? root.text('identity') ?? 'default';
  root.as('identity', identity, () => identityPath(paths, identity));
  const relay = root.texts('relay');
  const noRelay = root.flag('no-relay') ?? false;
  if (relay && noRelay) throw root.fail('no-relay', "is true, and 'relay' names one: leave out one of them");
  root.as('relay', relay?.[0], () => checkRelays(relay));
  const isRelayGiven = given.relay !== undefined || given['no-relay'] !== undefined;
  return {
    identity,
    shareStats: given['share-stats'] ?? root.flag('share-stats') ?? true,
    resumeTimeout: time(root, 'resume-timeout', RESUME_TIMEOUT).text,
    network: {
      relay: isRelayGiven ? given.relay : relay,
      'no-relay': isRelayGiven ? (given['no-relay'] ?? false) : noRelay,
      lan: given.lan ?? root.flag('lan') ?? true,
      dns: given.dns ?? root.flag('dns') ?? true,
      dht: given.dht ?? root.flag('dht') ?? false,
      via: given.via ?? root.choice('via', VIAS) ?? 'auto',
      bind: given.bind ?? bindOf(root),
      congestion: given.congestion ?? root.choice('congestion', CONGESTIONS) ?? 'cubic',
    },
  };
}

function parseExpose(section: Section, common: Common, { book }: ConfigContext): ExposePlan {
  const targets = required(section, 'services');
  const services = each(section, 'services', targets, parseTargets);
  const network = { ...common.network, ...ownNetwork(section) };
  const nodeIdOf = (peer: string) => peerIn(book, peer).nodeId;
  const isPublic = section.flag('public') ?? false;
  const ask = section.flag('ask') ?? false;
  if (isPublic && ask) throw section.fail('ask', "is true, and so is 'public', which asks nobody");
  const name = section.text('announce');
  const webtransport = section.text('webtransport');
  if (webtransport !== undefined) {
    section.as('webtransport', webtransport, () => parseListenAddress(webtransport, 'webtransport'));
  }
  const rates = section.texts('limit-rate') ?? [];
  return {
    network,
    services,
    allow: each(section, 'allow', section.texts('allow') ?? [], (peers) => peers.map(nodeIdOf)),
    allowSpeed: each(section, 'allow-speed', section.texts('allow-speed') ?? [], (peers) =>
      speedRight(peers, nodeIdOf),
    ),
    public: isPublic,
    ask,
    approvalTimeoutMs: time(section, 'ask-timeout', ASK_TIMEOUT, 1).ms,
    announced: section.as('announce', name, () => announcement(name, network)),
    terms: termsOf(section),
    webtransport,
    resumeTimeoutMs: time(section, 'resume-timeout', common.resumeTimeout).ms,
    rates: each(section, 'limit-rate', rates, (texts) =>
      parseRateRules(texts, { services: services.map((service) => service.name), peer: nodeIdOf }),
    ),
  };
}

function termsOf(section: Section): TicketTerms | undefined {
  const flags = {
    ticket: section.flag('ticket') ?? true,
    once: section.flag('once') ?? false,
    pair: section.flag('pair') ?? false,
    'ticket-ttl': section.word('ticket-ttl'),
  };
  const said = saidOfTicket(flags);
  if (!flags.ticket && said !== undefined) {
    throw section.fail(said, "is about the ticket, and 'ticket' is false: leave out one of them");
  }
  return section.as('ticket-ttl', flags['ticket-ttl'], () => ticketTerms(flags));
}

function bad(
  { path }: ConfigText,
  problem: string,
  { line, hint }: { readonly line?: number | undefined; readonly hint: string },
): TunnelError {
  return new TunnelError('BAD_CONFIG', `${path}${line === undefined ? '' : `:${line}`} ${problem}`, { hint });
}

function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date);
}
