/**
 * The tickets of this user, in `tokens.json`: one file for all identities and processes. Every change
 * is a step of its own on the disk.
 */
import { toTunnelError } from '../error.js';
import type { NodeId } from '../session/node-id.js';
import { badFile, fileStamp, readSafeFile, type SafeFile, updateSafeFile } from './safe-file.js';
import {
  decodeTickets,
  encodeTickets,
  hashToken,
  newTicketId,
  prune,
  type TicketRecord,
} from './ticket-records.js';

const MAX_BYTES = 8 * 1024 * 1024;

export interface NewTicket {
  readonly token: string;
  readonly identity: string;
  readonly node: NodeId;
  readonly services: TicketRecord['services'];
  readonly label?: string | undefined;
  readonly ttlMs?: number | undefined;
  readonly once?: boolean;
  readonly pair?: boolean;
  readonly purpose?: string;
  readonly salt?: string | undefined;
}

export class TicketStore {
  readonly #file: SafeFile;

  constructor(path: string) {
    this.#file = { path, what: 'ticket store', maxBytes: MAX_BYTES };
  }

  get path(): string {
    return this.#file.path;
  }

  /** Differs when the tickets have changed. Cheap, and synchronous. */
  stamp(): string {
    return fileStamp(this.#file.path);
  }

  /** Throws BAD_STATE for a file that is damaged or not private. */
  async load(): Promise<readonly TicketRecord[]> {
    return this.parse(await this.text());
  }

  /** What `parse` takes. Throws BAD_STATE only for a file that cannot be trusted or read. */
  text(): Promise<string | undefined> {
    return readSafeFile(this.#file);
  }

  /**
   * `change` gets all records and answers all of them, changed; the very same array leaves the file as
   * it is. It may run more than once. Resolves with its `result` when that is on the disk. Throws
   * BAD_STATE, OS_RESOURCE, LIMIT, and what `change` throws.
   */
  update<T>(
    change: (records: readonly TicketRecord[]) => {
      readonly records: readonly TicketRecord[];
      readonly result: T;
    },
  ): Promise<T> {
    return updateSafeFile(this.#file, (text) => {
      const before = this.parse(text);
      const { records, result } = change(before);
      if (records === before) return { result };
      return { text: encodeTickets(prune(records, Date.now())), result };
    });
  }

  /** Adds a ticket. Only the hash of its token is kept. */
  create(ticket: NewTicket): Promise<TicketRecord> {
    return this.update((records) => {
      const record = newRecord(ticket, records);
      return { records: [...records, record], result: record };
    });
  }

  /** Revokes those of the tickets that `which` picks and that are not yet; answers them. */
  revoke(which: (record: TicketRecord) => boolean): Promise<readonly TicketRecord[]> {
    return this.update((records) => {
      const revoked = records.filter((record) => record.revokedAt === undefined && which(record));
      if (revoked.length === 0) return { records, result: [] };
      const revokedAt = new Date().toISOString();
      return {
        records: records.map((record) => (revoked.includes(record) ? { ...record, revokedAt } : record)),
        result: revoked,
      };
    });
  }

  /** Throws BAD_STATE. */
  parse(text: string | undefined): readonly TicketRecord[] {
    if (text === undefined) return [];
    try {
      return decodeTickets(text);
    } catch (error) {
      throw badFile(
        this.#file.path,
        this.#file.what,
        toTunnelError(error).message,
        'restore it from a backup, or move it away: every ticket is then void',
        error,
      );
    }
  }
}

/** A record for a token, with an id that none of `others` has. */
export function newRecord(ticket: NewTicket, others: readonly TicketRecord[]): TicketRecord {
  const { token, identity, node, label, services, ttlMs, once = false, pair = false, purpose, salt } = ticket;
  const now = Date.now();
  let id = newTicketId();
  while (others.some((other) => other.id === id)) id = newTicketId();
  return {
    id,
    hash: hashToken(token),
    identity,
    node,
    ...(label === undefined ? {} : { label }),
    services,
    createdAt: new Date(now).toISOString(),
    ...(ttlMs === undefined ? {} : { expiresAt: new Date(now + ttlMs).toISOString() }),
    once,
    pair,
    ...(purpose === undefined ? {} : { purpose }),
    ...(salt === undefined ? {} : { salt }),
  };
}
