/** Where a peer of the book was reached is kept there: the next start finds it without looking it up. */
import type { NodeId } from '../session/node-id.js';
import type { AddressHints } from '../session/session.js';
import type { Report } from '../tunnel/events.js';
import { findByNodeId, withAddresses } from '../tunnel/peers-book.js';
import type { PeersFile } from '../tunnel/peers-file.js';

/** Paths change a few times in the first moments. */
const SETTLE_MS = 2000;

export interface AddressMemory {
  /** `report`, listened to. */
  readonly report: Report;
  close(): Promise<void>;
}

/** A peer that is not in the book is not put there. Only a convenience: what fails is not told. */
export function rememberAddresses(
  file: PeersFile,
  nodeId: NodeId,
  addresses: AddressHints,
  report: Report,
): AddressMemory {
  let timer: NodeJS.Timeout | undefined;
  let saving: Promise<void> = Promise.resolve();
  const save = async () => {
    const isNews = (known: readonly string[], now: readonly string[]) =>
      now.some((one) => !known.includes(one));
    const [, known] = findByNodeId(await file.read(), nodeId) ?? [];
    if (!known || !(isNews(known.addresses, addresses.direct) || isNews(known.relays, addresses.relays)))
      return;
    await file.update((book) => {
      const [name, entry] = findByNodeId(book, nodeId) ?? [];
      return name === undefined || !entry ? book : new Map(book).set(name, withAddresses(entry, addresses));
    });
  };
  const flush = () => {
    clearTimeout(timer);
    timer = undefined;
    saving = saving.then(save).catch(() => undefined);
  };
  return {
    report(event) {
      const reached = event.event === 'path' || (event.event === 'session' && event.state === 'connected');
      if (reached) timer ??= setTimeout(flush, SETTLE_MS);
      report(event);
    },
    async close() {
      if (timer) flush();
      await saving;
    },
  };
}
