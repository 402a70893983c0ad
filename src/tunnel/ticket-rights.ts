/**
 * Tickets as a source of rights: follows the store on the disk, and records there what must outlive
 * this process before a peer is answered.
 */
import { systemCode, TunnelError, toTunnelError } from '../error.js';
import type { NodeId } from '../session/node-id.js';
import type { Held, Presented, RightsSource, ServiceSet } from './policy.js';
import { RateLimit } from './rate-limit.js';
import {
  awaitsPairing,
  type Bearer,
  holds,
  matching,
  opensFor,
  serviceSet,
  type TicketRecord,
  taken,
} from './ticket-records.js';
import type { TicketStore } from './ticket-store.js';

/** What is revoked is gone within a second: this, and the time to read the file. */
const LOOK_MS = 250;
/** As of the peers book: the machine's trouble, not the file's. */
const PASSING: ReadonlySet<string> = new Set(['EMFILE', 'ENFILE', 'ENOMEM', 'EIO', 'EAGAIN', 'EINTR']);
/** Of no file. */
const STALE = 'stale';
/** A peer shows one; each is compared with all that there are. */
const MAX_TOKENS = 4;

export interface TicketRightsOptions {
  readonly store: TicketStore;
  /** The exposing node: tickets of others mean nothing here. */
  readonly node: NodeId;
  /** What the expose's own tickets are derived from; without it only those made by hand count. */
  readonly purpose?: string | undefined;
  /** Of an expose whose own ticket could not be written down: it counts while this process lives. */
  readonly unsaved?: TicketRecord | undefined;
  /** Writes the peer into the book. Resolves when it is on the disk and counts. */
  readonly remember?: ((peer: NodeId, services: ServiceSet) => Promise<void>) | undefined;
  /** What the people here must know: that the store cannot be read, or written. */
  readonly onError: (error: TunnelError) => void;
}

export class TicketRights implements RightsSource {
  readonly #options: TicketRightsOptions;
  readonly #listeners = new Set<() => void>();
  readonly #errors = new RateLimit(1);
  /** Of the expose's own tickets that count. */
  #purposes: ReadonlySet<string>;
  #unsaved: readonly TicketRecord[];
  #records: ReadonlyMap<string, TicketRecord> = new Map();
  #stamp: string;
  #reading: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;

  private constructor(options: TicketRightsOptions, stamp: string, records: readonly TicketRecord[]) {
    const { purpose, unsaved } = options;
    this.#options = options;
    this.#purposes = new Set(purpose === undefined ? [] : [purpose]);
    this.#unsaved = unsaved ? [unsaved] : [];
    this.#stamp = stamp;
    this.#records = this.#relevant(records);
    this.#timer = setInterval(() => void this.#follow(), LOOK_MS).unref();
  }

  /** Throws BAD_STATE for a store that is damaged or not private. */
  static async open(options: TicketRightsOptions): Promise<TicketRights> {
    // Before it is read: what comes in between is noticed at the next look.
    const stamp = options.store.stamp();
    return new TicketRights(options, stamp, await options.store.load());
  }

  /**
   * Takes single-use tickets, and pairs, on the disk. Throws UNAVAILABLE when that cannot be written:
   * the peer may come again.
   */
  async prepare(presented: Presented): Promise<void> {
    // A ticket that was made a moment ago counts.
    await this.#follow();
    for (const record of this.#shown(presented)) {
      const now = Date.now();
      if (!opensFor(record, presented, now)) continue;
      if (taken(record, presented, now) === record && !awaitsPairing(record, presented)) continue;
      try {
        await this.#take(record.id, presented);
      } catch (error) {
        this.#fail(toTunnelError(error));
        throw new TunnelError('UNAVAILABLE', 'the peer cannot let you in now', { cause: error });
      }
    }
  }

  admit(presented: Presented): readonly Held[] {
    const { peer, instanceId } = presented;
    return this.#shown(presented).map(({ id }) => ({
      current: () => this.#current(id, { peer, instanceId }),
    }));
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * The expose has another ticket of its own now, or none. `keep`: those it had before go on opening what
   * they opened; otherwise they are void. Resolves when that counts.
   */
  async replace(
    own: { readonly purpose: string; readonly unsaved?: TicketRecord | undefined } | undefined,
    { keep }: { readonly keep: boolean },
  ): Promise<void> {
    this.#purposes = new Set([...(keep ? this.#purposes : []), ...(own ? [own.purpose] : [])]);
    this.#unsaved = [...(keep ? this.#unsaved : []), ...(own?.unsaved ? [own.unsaved] : [])];
    this.#records = this.#relevant([...this.#records.values()]);
    // What was left out of the store before may count now.
    this.#stamp = STALE;
    await this.#follow();
  }

  close(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#listeners.clear();
  }

  #current(id: string, bearer: Bearer): ReturnType<Held['current']> {
    const record = this.#records.get(id);
    if (!record || !holds(record, bearer, Date.now())) return undefined;
    const { expiresAt } = record;
    return {
      services: serviceSet(record),
      via: 'ticket',
      id,
      ...(expiresAt === undefined ? {} : { expiresAtMs: Date.parse(expiresAt) }),
    };
  }

  #shown({ tokens }: Presented): readonly TicketRecord[] {
    return matching([...this.#records.values()], tokens.slice(0, MAX_TOKENS));
  }

  async #take(id: string, bearer: Bearer): Promise<void> {
    const { store, remember, node } = this.#options;
    const change = (to: (record: TicketRecord) => TicketRecord) =>
      store.update((records) => {
        const before = records.find((record) => record.id === id);
        const after = before === undefined ? undefined : to(before);
        if (after === before) return { records, result: after };
        return {
          records: records.map((one) => (one === before ? (after as TicketRecord) : one)),
          result: after,
        };
      });
    // Another process may have been first in the meantime: what counts is what is on the disk.
    const record = await change((one) => {
      const now = Date.now();
      return opensFor(one, bearer, now) ? taken(one, bearer, now) : one;
    });
    if (record && awaitsPairing(record, bearer) && holds(record, bearer, Date.now()) && remember) {
      if (bearer.peer !== node) await remember(bearer.peer, serviceSet(record));
      await change((one) =>
        awaitsPairing(one, bearer) ? { ...one, pairedWith: { peer: bearer.peer, done: true } } : one,
      );
    }
    await this.#follow();
  }

  /** Resolves when what the file says now is known. */
  async #follow(): Promise<void> {
    // A few times at most: a file that cannot be read now is left to the next look.
    for (let tries = 0; tries < 3 && (this.#reading || this.#isStale()); tries += 1) {
      this.#reading ??= this.#read().finally(() => {
        this.#reading = undefined;
      });
      await this.#reading;
    }
  }

  #isStale(): boolean {
    try {
      return this.#options.store.stamp() !== this.#stamp;
    } catch {
      return true;
    }
  }

  async #read(): Promise<void> {
    const { store } = this.#options;
    // In this order: a change while it is read is noticed at the next look.
    const stamp = store.stamp();
    let text: string | undefined;
    try {
      text = await store.text();
    } catch (cause) {
      const error = toTunnelError(cause);
      // The machine's trouble says nothing about the file: the next look tries again.
      if (PASSING.has(systemCode(error.cause) ?? systemCode(cause) ?? '')) return;
      // Who could write it may have been anyone.
      this.#adopt(stamp, []);
      this.#tell(error, 'until that is mended no ticket lets anybody in');
      return;
    }
    try {
      this.#adopt(stamp, store.parse(text));
    } catch (cause) {
      this.#stamp = stamp;
      this.#tell(toTunnelError(cause), 'what it said before goes on');
    }
  }

  #adopt(stamp: string, records: readonly TicketRecord[]): void {
    this.#stamp = stamp;
    this.#records = this.#relevant(records);
    for (const listener of [...this.#listeners]) listener();
  }

  #relevant(records: readonly TicketRecord[]): ReadonlyMap<string, TicketRecord> {
    const { node } = this.#options;
    const mine = records.filter(
      ({ node: of, purpose }) => of === node && (purpose === undefined || this.#purposes.has(purpose)),
    );
    return new Map([...this.#unsaved, ...mine].map((record) => [record.id, record]));
  }

  #tell({ code, message, hint }: TunnelError, meanwhile: string): void {
    this.#fail(new TunnelError(code, `${message}; ${meanwhile}`, { hint }));
  }

  #fail(error: TunnelError): void {
    if (this.#errors.take() !== undefined) this.#options.onError(error);
  }
}
