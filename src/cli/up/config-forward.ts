/** A [[forward]] of a config file. */
import { isIP } from 'node:net';
import { dirname, resolve } from 'node:path';
import { TunnelError } from '../../error.js';
import type { Ticket } from '../../session/ticket.js';
import type { PeersBook } from '../../tunnel/peers-book.js';
import { parseRateRules } from '../../tunnel/rates.js';
import { formatForwardSpec, formatLocal, type Local, parseForwardSpecs } from '../../tunnel/spec.js';
import { type ForwardPlan, UDP_IDLE } from '../forward-service.js';
import { VIAS } from '../network-flags.js';
import { readTicketFile } from '../peer-argument.js';
import { looksLikeTicket, peerIn } from '../peer-names.js';
import type { Common } from './common.js';
import type { ConfigText } from './config-file.js';
import { LISTEN_EXAMPLE } from './config-keys.js';
import { each, ownNetwork, required, time } from './config-values.js';
import type { Section } from './toml-section.js';

export interface ForwardSource {
  readonly file: ConfigText;
  readonly book: PeersBook;
}

/** Throws BAD_CONFIG. */
export async function parseForward(
  section: Section,
  common: Common,
  context: ForwardSource,
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
async function peerOf(section: Section, { file, book }: ForwardSource): Promise<Ticket> {
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
export function checkBeside(plan: ForwardPlan, others: readonly ForwardPlan[], section: Section): void {
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
        `has '${formatForwardSpec(spec)}', and ${formatLocal(twin.local)} is where [[forward]] ${index + 1} listens`,
      );
    }
  }
}

function overlap(one: Local, other: Local): boolean {
  if (one.kind === 'unix' || other.kind === 'unix') return formatLocal(one) === formatLocal(other);
  if (one.port !== other.port || one.port === 0) return false;
  const isAny = ({ host }: { readonly host: string }, beside: string) =>
    host === '::' || (host === '0.0.0.0' && isIP(beside) !== 6);
  return one.host === other.host || isAny(one, other.host) || isAny(other, one.host);
}

function raise(error: unknown): never {
  throw error;
}
