/**
 * What goes over a status socket: JSON, one object a line. The server speaks first, with `hello` and
 * its version; then each request is answered by its id, and a watch by snapshots until it is changed.
 */
import { TunnelError } from '../error.js';
import type { ChannelQuery, ChannelSort, Decision, StatusSnapshot, StatusVersion } from '../tunnel/status.js';

export const STATUS_VERSION: StatusVersion = 1;
/** A request is short; a longer line is not one. */
export const MAX_REQUEST_BYTES = 4096;

export type StatusRequest =
  | { readonly id: number; readonly method: 'snapshot' | 'watch'; readonly query: WireQuery }
  | { readonly id: number; readonly method: 'reset'; readonly channel: number }
  | { readonly id: number; readonly method: 'decide'; readonly decision: Decision };

/** As a `ChannelQuery`; no limit is null, since JSON has no infinity. */
export type WireQuery = Omit<ChannelQuery, 'limit'> & { readonly limit: number | null };

export type StatusMessage =
  | { readonly type: 'hello'; readonly version: number; readonly pid: number }
  | { readonly type: 'snapshot'; readonly id?: number; readonly snapshot: StatusSnapshot }
  | { readonly type: 'done'; readonly id: number; readonly ok: boolean }
  | { readonly type: 'error'; readonly id?: number; readonly code: string; readonly message: string };

const SORTS: readonly ChannelSort[] = ['rate', 'bytes', 'age', 'id', 'service', 'peer'];

/** Throws PROTOCOL for what is no request of this version. */
export function parseRequest(line: string): StatusRequest {
  let from: Record<string, unknown>;
  try {
    from = Object(JSON.parse(line));
  } catch (error) {
    throw new TunnelError('PROTOCOL', 'the request is no JSON', { cause: error });
  }
  const { id, method } = from;
  if (!Number.isSafeInteger(id)) throw new TunnelError('PROTOCOL', 'the request has no id');
  const request = { id: id as number };
  switch (method) {
    case 'snapshot':
    case 'watch':
      return { ...request, method, query: parseQuery(Object(from.query)) };
    case 'reset':
      if (Number.isSafeInteger(from.channel)) return { ...request, method, channel: from.channel as number };
      break;
    case 'decide':
      return { ...request, method, decision: parseDecision(Object(from.decision)) };
  }
  throw new TunnelError('PROTOCOL', 'the request names nothing that can be done here');
}

function parseDecision({ id, allowed, always }: Record<string, unknown>): Decision {
  if (!Number.isSafeInteger(id) || typeof allowed !== 'boolean' || typeof always !== 'boolean')
    throw new TunnelError('PROTOCOL', 'the request decides nothing');
  return { id: id as number, allowed, always };
}

function parseQuery({ sort, reverse, filter, limit }: Record<string, unknown>): WireQuery {
  return {
    sort: SORTS.find((one) => one === sort) ?? 'id',
    reverse: reverse === true,
    filter: typeof filter === 'string' ? filter : '',
    limit: Number.isSafeInteger(limit) && (limit as number) >= 0 ? (limit as number) : null,
  };
}

export function queryOf({ limit, ...query }: WireQuery): ChannelQuery {
  return { ...query, limit: limit ?? Number.POSITIVE_INFINITY };
}

export function wireQuery({ limit, ...query }: ChannelQuery): WireQuery {
  return { ...query, limit: Number.isFinite(limit) ? limit : null };
}

/** Cuts a stream of bytes into lines; throws TOO_LARGE for a line beyond `maxBytes`. */
export class LineReader {
  readonly #maxLength: number;
  #rest: string[] = [];
  #length = 0;

  constructor(maxLength: number) {
    this.#maxLength = maxLength;
  }

  push(text: string): readonly string[] {
    const parts = text.split('\n');
    const last = parts.pop() as string;
    const lines = parts.map((part, index) => (index === 0 ? this.#take() + part : part));
    if (last !== '') this.#rest.push(last);
    this.#length += last.length;
    if (this.#length > this.#maxLength || lines.some((line) => line.length > this.#maxLength)) {
      throw new TunnelError('TOO_LARGE', `a line of more than ${this.#maxLength} characters`);
    }
    return lines;
  }

  #take(): string {
    const rest = this.#rest.join('');
    this.#rest = [];
    this.#length = 0;
    return rest;
  }
}
