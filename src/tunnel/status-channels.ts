/** The open channels of a status model: sampled, counted for their tunnels, and selected for a view. */
import type { ChannelFigures, ChannelQuery, ChannelState, ChannelStatus } from './status.js';
import { Rate } from './status-rates.js';

/** The last ones that ended are kept, so that a detail view can say why. */
const MAX_CLOSED = 64;

/** Told of the bytes a channel has moved since it was last looked at. */
export type OnBytes = (channel: ChannelRecord, bytesIn: number, bytesOut: number) => void;

export class ChannelRecord {
  readonly figures: ChannelFigures;
  readonly tunnel: string;
  readonly rateIn = new Rate();
  readonly rateOut = new Rate();
  /** Both ways, as of the last sample: sorting asks for it often. */
  rate = 0;
  bytesIn = 0;
  bytesOut = 0;
  /** What a filter is looked for in; all of it but the state never changes. Made when it is asked for. */
  #text: string | undefined;

  constructor(figures: ChannelFigures) {
    this.figures = figures;
    this.tunnel = tunnelKey(figures.protocol, figures.local ?? figures.service);
  }

  contains(text: string): boolean {
    const { id, peer, service, protocol, client, local, target } = this.figures;
    this.#text ??= [id, peer, service, protocol, client, local, target].join(' ').toLowerCase();
    return this.#text.includes(text) || this.figures.state.includes(text);
  }
}

export class ChannelRecords {
  readonly #open = new Map<number, ChannelRecord>();
  readonly #closed: {
    readonly record: ChannelRecord;
    readonly reason: string;
    readonly durationMs: number;
  }[] = [];
  readonly #onBytes: OnBytes;

  constructor(onBytes: OnBytes) {
    this.#onBytes = onBytes;
  }

  get size(): number {
    return this.#open.size;
  }

  get closed(): readonly ChannelStatus[] {
    return this.#closed.map(({ record, reason, durationMs }) => ({
      ...channelStatus(record, 'closed'),
      durationMs,
      reason,
    }));
  }

  values(): Iterable<ChannelRecord> {
    return this.#open.values();
  }

  open(figures: ChannelFigures): ChannelRecord {
    const record = new ChannelRecord(figures);
    this.#open.set(figures.id, record);
    return record;
  }

  /** Undefined when it was not known. */
  close(
    id: number,
    end: {
      readonly bytesIn: number;
      readonly bytesOut: number;
      readonly reason: string;
      readonly durationMs: number;
    },
  ): ChannelRecord | undefined {
    const record = this.#open.get(id);
    if (!record) return undefined;
    this.#open.delete(id);
    this.#count(record, end.bytesIn, end.bytesOut);
    this.#closed.push({ record, reason: end.reason, durationMs: end.durationMs });
    if (this.#closed.length > MAX_CLOSED) this.#closed.shift();
    return record;
  }

  sample(elapsedMs: number, weight: number): void {
    for (const record of this.#open.values()) {
      const { bytesIn, bytesOut } = record.figures;
      const movedIn = bytesIn - record.bytesIn;
      const movedOut = bytesOut - record.bytesOut;
      record.rateIn.sample(movedIn, elapsedMs, weight);
      record.rateOut.sample(movedOut, elapsedMs, weight);
      record.rate = record.rateIn.perSecond + record.rateOut.perSecond;
      if (movedIn > 0 || movedOut > 0) this.#count(record, bytesIn, bytesOut);
    }
  }

  select(query: ChannelQuery): { rows: readonly ChannelStatus[]; matching: number } {
    const text = query.filter.trim().toLowerCase();
    const all = [...this.#open.values()];
    const found = text === '' ? all : all.filter((record) => record.contains(text));
    return {
      rows: first(query.limit, found, order(query)).map((record) =>
        channelStatus(record, record.figures.state),
      ),
      matching: found.length,
    };
  }

  #count(record: ChannelRecord, bytesIn: number, bytesOut: number): void {
    this.#onBytes(record, bytesIn - record.bytesIn, bytesOut - record.bytesOut);
    record.bytesIn = bytesIn;
    record.bytesOut = bytesOut;
  }
}

export function tunnelKey(protocol: string, place: string): string {
  return `${protocol} ${place}`;
}

/** The first `count` in this order: cheaper than sorting all of them, of which a view shows few. */
function first(
  count: number,
  records: readonly ChannelRecord[],
  compare: (a: ChannelRecord, b: ChannelRecord) => number,
): readonly ChannelRecord[] {
  if (count === 0) return [];
  const best: ChannelRecord[] = [];
  let last: ChannelRecord | undefined;
  for (const record of records) {
    if (last && compare(record, last) > 0) continue;
    best.push(record);
    if (best.length < 2 * count) continue;
    best.sort(compare).length = count;
    last = best.at(-1);
  }
  return best.sort(compare).slice(0, count);
}

function order({ sort, reverse }: ChannelQuery): (a: ChannelRecord, b: ChannelRecord) => number {
  const newestFirst = (a: ChannelRecord, b: ChannelRecord) => b.figures.id - a.figures.id;
  const by = ORDERS[sort];
  const sign = reverse ? -1 : 1;
  return (a, b) => sign * by(a, b) || newestFirst(a, b);
}

const ORDERS: Readonly<Record<ChannelQuery['sort'], (a: ChannelRecord, b: ChannelRecord) => number>> = {
  rate: (a, b) => b.rate - a.rate,
  bytes: (a, b) => b.bytesIn + b.bytesOut - a.bytesIn - a.bytesOut,
  // Ids are given in turn.
  age: (a, b) => a.figures.id - b.figures.id,
  id: (a, b) => b.figures.id - a.figures.id,
  service: (a, b) => compare(a.figures.service, b.figures.service),
  peer: (a, b) => compare(a.figures.peer, b.figures.peer),
};

function compare(a: string, b: string): number {
  return a === b ? 0 : a < b ? -1 : 1;
}

function channelStatus(record: ChannelRecord, state: ChannelState): ChannelStatus {
  const { figures } = record;
  return {
    id: figures.id,
    tunnel: record.tunnel,
    peer: figures.peer,
    service: figures.service,
    protocol: figures.protocol,
    path: figures.path,
    state,
    ...(figures.client === undefined ? {} : { client: figures.client }),
    ...(figures.local === undefined ? {} : { local: figures.local }),
    ...(figures.target === undefined ? {} : { target: figures.target }),
    durationMs: Math.round(figures.ageMs),
    bytesIn: record.bytesIn,
    bytesOut: record.bytesOut,
    rateIn: record.rateIn.perSecond,
    rateOut: record.rateOut.perSecond,
    unackedBytes: figures.unackedBytes,
    window: figures.window,
    ...(figures.epoch === undefined ? {} : { epoch: figures.epoch }),
    ...(figures.resumes === undefined ? {} : { resumes: figures.resumes }),
    ...(figures.drops === undefined ? {} : { drops: figures.drops }),
  };
}
