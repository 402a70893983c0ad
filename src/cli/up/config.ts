/**
 * The config file of `tunnel up` as plans of what to run: the words of the flags of `expose` and `forward`,
 * in tables. All of it is checked before any of it is answered.
 */
import { isIP } from 'node:net';
import { dirname, resolve } from 'node:path';
import { parse } from 'smol-toml';
import { TunnelError } from '../../error.js';
import type { Ticket } from '../../session/ticket.js';
import { isSocketAddress } from '../../session/ticket.js';
import type { PeersBook } from '../../tunnel/peers-book.js';
import { parseRateRules } from '../../tunnel/rates.js';
import {
  type ForwardSpec,
  formatLocal,
  type Local,
  parseForwardSpecs,
  parseTargets,
} from '../../tunnel/spec.js';
import { parseDuration } from '../duration.js';
import { ASK_TIMEOUT, announcement, type ExposePlan, speedRight } from '../expose-plan.js';
import { type TicketTerms, ticketTerms } from '../expose-tickets.js';
import { type ForwardPlan, UDP_IDLE } from '../forward-service.js';
import { parseListenAddress } from '../listen-address.js';
import { CONGESTIONS, checkRelays, type DialFlags, RESUME_TIMEOUT, VIAS } from '../network-flags.js';
import { identityPath, type Paths } from '../paths.js';
import { readTicketFile } from '../peer-argument.js';
import { looksLikeTicket, peerIn } from '../peer-names.js';
import type { ConfigText } from './config-file.js';
import { type Examples, Section } from './toml-section.js';

/** What is said once, for everything in the file. */
export interface Common {
  readonly identity: string;
  readonly network: DialFlags;
  readonly shareStats: boolean;
  readonly resumeTimeout: string;
}

/** Of the command line, which counts more than the file. */
export type Given = Partial<DialFlags & { readonly identity: string; readonly 'share-stats': boolean }>;

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

const NETWORK_EXAMPLES: Examples = {
  bind: '"192.0.2.7"',
  congestion: '"bbr"',
  'resume-timeout': '"15m"',
};

const COMMON_EXAMPLES: Examples = {
  identity: '"work"',
  relay: '["https://relay.example.org"]',
  'no-relay': 'true',
  lan: 'false',
  dns: 'false',
  dht: 'true',
  via: '"auto"',
  'share-stats': 'false',
  ...NETWORK_EXAMPLES,
};

const SERVICES_EXAMPLE = '["db=5432", "web=localhost:3000", "dns=udp:53"]';
const LISTEN_EXAMPLE = '["15432:db", "5353:dns/udp"]';

const EXPOSE_EXAMPLES: Examples = {
  services: SERVICES_EXAMPLE,
  allow: '["alice"]',
  public: 'true',
  ask: 'true',
  'ask-timeout': '"5m"',
  'allow-speed': '["alice"]',
  announce: '"workshop"',
  ticket: 'false',
  'ticket-ttl': '"24h"',
  once: 'true',
  pair: 'true',
  webtransport: '"0.0.0.0:4433"',
  'limit-rate': '["10MB/s", "db=500kB/s", "peer:alice=2Mbit"]',
  ...NETWORK_EXAMPLES,
};

const FORWARD_EXAMPLES: Examples = {
  peer: '"alice"',
  'ticket-file': '"alice.ticket"',
  listen: LISTEN_EXAMPLE,
  via: '"auto"',
  'reconnect-timeout': '"10m"',
  'udp-idle': '"2m"',
  'limit-rate': '["10MB/s", "db=500kB/s"]',
  ...NETWORK_EXAMPLES,
};

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
  const ticket = section.flag('ticket') ?? true;
  const [once, pair] = [section.flag('once') ?? false, section.flag('pair') ?? false];
  const ttl = section.word('ticket-ttl');
  const said = ttl !== undefined ? 'ticket-ttl' : once ? 'once' : pair ? 'pair' : undefined;
  if (!ticket && said !== undefined) {
    throw section.fail(said, "is about the ticket, and 'ticket' is false: leave out one of them");
  }
  return section.as('ticket-ttl', ttl, () => ticketTerms({ ticket, once, pair, 'ticket-ttl': ttl }));
}

async function parseForward(
  section: Section,
  common: Common,
  context: ConfigContext & { readonly file: ConfigText },
): Promise<ForwardPlan> {
  const peer = await peerOf(section, context);
  const specs = each(section, 'listen', required(section, 'listen'), parseForwardSpecs);
  const giveUp = section.word('reconnect-timeout');
  const via = section.choice('via', VIAS);
  const network = { ...common.network, ...ownNetwork(section), ...(via === undefined ? {} : { via }) };
  if (network.via === 'webtransport' && (peer.webtransport ?? []).length === 0) {
    throw section.fail(
      'via',
      "is 'webtransport', and nothing is known of a WebTransport address of the peer",
      {
        hint: "use the ticket of an expose with webtransport = …, or leave 'via' out",
      },
    );
  }
  return {
    network,
    peer,
    specs,
    resumeTimeoutMs: time(section, 'resume-timeout', common.resumeTimeout).ms,
    reconnectTimeoutMs: giveUp === undefined ? undefined : time(section, 'reconnect-timeout', giveUp).ms,
    udpIdleMs: time(section, 'udp-idle', UDP_IDLE, 1).ms,
    rates: each(section, 'limit-rate', section.texts('limit-rate') ?? [], (rates) =>
      parseRateRules(rates, { services: specs.map(({ service }) => service) }),
    ),
  };
}

/** A ticket is a secret: it has to be where nobody else can read it. */
async function peerOf(
  section: Section,
  { file, book }: ConfigContext & { readonly file: ConfigText },
): Promise<Ticket> {
  const [peer, ticketFile] = [section.text('peer'), section.text('ticket-file')];
  if ((peer === undefined) === (ticketFile === undefined)) {
    throw section.fail('peer', peer === undefined ? 'is missing' : "is there, and 'ticket-file' as well", {
      hint: 'one of them says who has the services: peer = "alice", or ticket-file = "alice.ticket"',
    });
  }
  if (peer !== undefined) {
    if (looksLikeTicket(peer) && !file.isPrivate) {
      throw section.fail('peer', 'is a ticket, which is a secret, in a file that others can read', {
        hint: `run: chmod 600 '${file.path}', or put it into a file of its own: ticket-file = "alice.ticket"`,
      });
    }
    return section.as('peer', peer, () => peerIn(book, peer));
  }
  const path = resolve(dirname(file.path), ticketFile as string);
  const text = await readTicketFile(path, (fix) => {
    throw new TunnelError('USAGE', `the ticket file ${path} can be read by others; run: ${fix}`);
  }).catch((error: unknown) => section.as('ticket-file', ticketFile, () => raise(error)));
  return section.as('ticket-file', ticketFile, () => peerIn(book, text));
}

/** Throws BAD_CONFIG where two forwards of the file cannot be side by side. */
function checkBeside(plan: ForwardPlan, others: readonly ForwardPlan[], section: Section): void {
  for (const [index, other] of others.entries()) {
    // A process is one to a peer: what it has there would be taken for one another's.
    if (other.peer.nodeId === plan.peer.nodeId) {
      throw section.fail(
        section.has('peer') ? 'peer' : 'ticket-file',
        `is the node of [[forward]] ${index + 1} too`,
        {
          hint: `put all of its services into one 'listen': listen = ${LISTEN_EXAMPLE}`,
        },
      );
    }
    for (const spec of plan.specs) {
      const twin = other.specs.find(
        (one) => one.protocol === spec.protocol && overlap(one.local, spec.local),
      );
      if (!twin) continue;
      throw section.fail(
        'listen',
        `has ${written(spec)}, and ${formatLocal(twin.local)} is where [[forward]] ${index + 1} listens`,
      );
    }
  }
}

function written({ local, service, protocol }: ForwardSpec): string {
  return `'${formatLocal(local)}:${service}${protocol === 'udp' ? '/udp' : ''}'`;
}

function overlap(one: Local, other: Local): boolean {
  if (one.kind === 'unix' || other.kind === 'unix') return formatLocal(one) === formatLocal(other);
  if (one.port !== other.port || one.port === 0) return false;
  const isAny = ({ host }: { readonly host: string }, beside: string) =>
    host === '::' || (host === '0.0.0.0' && isIP(beside) !== 6);
  return one.host === other.host || isAny(one, other.host) || isAny(other, one.host);
}

/** What a part may say for itself. */
function ownNetwork(section: Section): Partial<Pick<DialFlags, 'bind' | 'congestion'>> {
  const [bind, congestion] = [bindOf(section), section.choice('congestion', CONGESTIONS)];
  return { ...(bind === undefined ? {} : { bind }), ...(congestion === undefined ? {} : { congestion }) };
}

function required(section: Section, key: string): readonly string[] {
  const texts = section.texts(key);
  if (!texts) throw section.fail(key, 'is missing');
  if (texts.length === 0) throw section.fail(key, 'is empty');
  return texts;
}

function bindOf(section: Section): string | undefined {
  const bind = section.text('bind');
  if (bind === undefined || isSocketAddress(bind) || isIP(bind.replace(/^\[(.*)\]$/, '$1')) !== 0)
    return bind;
  throw section.fail('bind', `: '${bind}' is no address to bind to`);
}

function time(
  section: Section,
  key: string,
  fallback: string,
  least = 0,
): { readonly text: string; readonly ms: number } {
  const text = section.word(key) ?? fallback;
  return { text, ms: section.as(key, text, () => parseDuration(text, key, least)) };
}

/** As `read` of all of them; the one that is wrong by itself is named by its line. */
function each<T>(
  section: Section,
  key: string,
  texts: readonly string[],
  read: (texts: readonly string[]) => T,
): T {
  for (const text of texts) if (isAloneWrong(text, read)) section.as(key, text, () => read([text]));
  return section.as(key, undefined, () => read(texts));
}

function isAloneWrong(text: string, read: (texts: readonly string[]) => unknown): boolean {
  try {
    read([text]);
    return false;
  } catch {
    return true;
  }
}

function bad(
  { path }: ConfigText,
  problem: string,
  { line, hint }: { readonly line?: number | undefined; readonly hint: string },
): TunnelError {
  return new TunnelError('BAD_CONFIG', `${path}${line === undefined ? '' : `:${line}`} ${problem}`, { hint });
}

function raise(error: unknown): never {
  throw error;
}

function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date);
}
