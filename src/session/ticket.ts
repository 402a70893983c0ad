/**
 * Tickets: `tunnel://<node-id>?addr=…&relay=…&token=…`, one pasteable URL with everything needed to
 * reach a node and be let in. The token makes it a secret: print it once, log only `redactTicket`.
 */
import { isIP } from 'node:net';
import { TunnelError } from '../error.js';
import { type NodeId, parseNodeId } from './node-id.js';
import type { AddressHints } from './session.js';

const SCHEME = 'tunnel://';
/** A ticket is pasted by people; anything longer is not one of ours. */
const MAX_TICKET_CHARACTERS = 4096;
const MAX_ADDRESSES = 32;
/** 16 bytes: 128 bits that cannot be guessed, and a ticket that still fits a chat line. */
export const TOKEN_BYTES = 16;
const TOKEN = /^[A-Za-z0-9_-]{22}$/;

/** A WebTransport listener, and the certificate it must show. */
export interface WebTransportHint {
  /** `ip:port`, IPv6 in brackets. */
  readonly address: string;
  /** SHA-256, 64 lowercase hex digits. */
  readonly certificateHash: string;
}

export interface Ticket extends AddressHints {
  readonly nodeId: NodeId;
  readonly webtransport?: readonly WebTransportHint[] | undefined;
  /** Base64url of `TOKEN_BYTES` bytes. Absent from a ticket that only carries addresses. */
  readonly token: string | undefined;
}

export function isTicket(text: string): boolean {
  return /^tunnel:/i.test(text);
}

export function formatTicket(ticket: Ticket): string {
  const parameters = [
    ...ticket.direct.map((address) => `addr=${address}`),
    // The quote stays out of the line to paste, which is quoted itself.
    ...ticket.relays.map((relay) => `relay=${encodeURIComponent(relay).replaceAll("'", '%27')}`),
    ...(ticket.webtransport ?? []).map(({ address, certificateHash }) => `wt=${address},${certificateHash}`),
    ...(ticket.token === undefined ? [] : [`token=${ticket.token}`]),
  ];
  return `${SCHEME}${ticket.nodeId}${parameters.length > 0 ? '?' : ''}${parameters.join('&')}`;
}

/** Throws BAD_TICKET (never quoting the token), or BAD_NODE_ID. Unknown parameters are a newer version's and are ignored. */
export function parseTicket(text: string): Ticket {
  if (text.length > MAX_TICKET_CHARACTERS) throw badTicket(`is ${text.length} characters long`);
  if (!text.toLowerCase().startsWith(SCHEME)) throw badTicket(`does not start with ${SCHEME}`);
  const rest = text.slice(SCHEME.length);
  const mark = rest.indexOf('?');
  const host = (mark < 0 ? rest : rest.slice(0, mark)).replace(/\/$/, '');
  const query = new URLSearchParams(mark < 0 ? '' : rest.slice(mark + 1));
  if (/[@#/]/.test(host)) throw badTicket(`has '${host.slice(0, 20)}…' where the node ID belongs`);
  let nodeId: NodeId;
  try {
    nodeId = parseNodeId(host);
  } catch (error) {
    throw badTicket(`is cut short or not one of ours: ${(error as TunnelError).message}`, error);
  }
  if (
    mark >= 0 &&
    rest
      .slice(mark + 1)
      .split('&')
      .some((part) => !part.includes('='))
  ) {
    throw badTicket('is cut short');
  }
  const direct = query.getAll('addr');
  const relays = query.getAll('relay');
  const webtransport = query.getAll('wt').map(parseWebTransportHint);
  const tokens = query.getAll('token');
  if (direct.length + relays.length + webtransport.length > MAX_ADDRESSES)
    throw badTicket('has too many addresses');
  for (const address of direct) {
    if (!isSocketAddress(address))
      throw badTicket(`has the address '${addressPart(address)}', which is no ip:port`);
  }
  for (const relay of relays) {
    if (!/^https?:$/.test(safeUrl(relay)?.protocol ?? '')) {
      throw badTicket(`has a relay that is no URL`);
    }
  }
  if (tokens.length > 1) throw badTicket('has two tokens');
  const token = tokens[0];
  if (token !== undefined && !TOKEN.test(token)) throw badTicket('is cut short: its token is not complete');
  return { nodeId, direct, relays, ...(webtransport.length > 0 ? { webtransport } : {}), token };
}

/** The ticket as it may be logged: the token replaced. Also for text that is no valid ticket. */
export function redactTicket(text: string): string {
  return text.replace(/(token(?:=|%3d))[^&#\s'"]*/gi, '$1…');
}

/** Whether a text is `ip:port` or `[ip6]:port` with a port from 1 to 65535. */
export function isSocketAddress(text: string): boolean {
  const match = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(text);
  if (!match) return false;
  const port = Number(match[3]);
  const family = match[1] === undefined ? 4 : 6;
  return isIP(match[1] ?? match[2] ?? '') === family && port >= 1 && port <= 65535;
}

function parseWebTransportHint(text: string): WebTransportHint {
  const [address = '', certificateHash = '', ...rest] = text.split(',');
  if (!isSocketAddress(address) || !/^[0-9a-f]{64}$/.test(certificateHash) || rest.length > 0) {
    throw badTicket('is cut short: its WebTransport address is not complete');
  }
  return { address, certificateHash };
}

/** Only what an address may hold is quoted: with a separator lost, a token may follow it. */
function addressPart(text: string): string {
  return /^[0-9A-Fa-f:.[\]]*/.exec(text)?.[0].slice(0, 60) ?? '';
}

function safeUrl(text: string): URL | undefined {
  try {
    return new URL(text);
  } catch {
    return undefined;
  }
}

function badTicket(problem: string, cause?: unknown): TunnelError {
  return new TunnelError('BAD_TICKET', `the ticket ${problem}`, {
    hint: "copy the whole line that 'tunnel expose' printed, in quotes: 'tunnel://<node-id>?addr=…&token=…'",
    cause,
  });
}
