/** What connections may be doing when the path goes, and what they were promised. */
import { expect } from 'vitest';
import type { Party, SendOptions } from '../support/party.js';

const KIB = 1024;
const MIB = 1024 * KIB;
/** After the mend everything must come to its end within this time. */
export const SETTLED_MS = 40_000;

export interface Ends {
  readonly near: Party;
  readonly far: Party;
}

/** The big transfers: under way when the path goes, and for long enough after it. */
export interface Bulk {
  readonly bytes: number;
  readonly bytesPerSecond?: number;
}

export interface Scenario {
  readonly title: string;
  /** Resolves when the outage may begin. */
  before?(ends: Ends, bulk: Bulk): Promise<void>;
  during?(ends: Ends): void;
  after(ends: Ends): Promise<void>;
}

/** Both sides' streams are whole, and both ends are ends. */
export async function completes({ near, far }: Ends): Promise<void> {
  expect(await near.whenSeen(SETTLED_MS), `${near}`).toBe('end');
  expect(await far.whenSeen(SETTLED_MS), `${far}`).toBe('end');
  exact(near, far);
  exact(far, near);
}

function exact(receiver: Party, sender: Party): void {
  expect(receiver.wrongAt, 'first wrong byte').toBeUndefined();
  expect(receiver.received).toBe(sender.sent);
  expect(receiver.receivedSha256).toBe(sender.sentSha256);
}

export function sendAndFinish(party: Party, bytes: number, options: SendOptions = {}): void {
  void party.send(bytes, options).then(() => party.finish());
}

async function exchange({ near, far }: Ends): Promise<void> {
  await Promise.all([near.send(KIB), far.send(KIB)]);
  await Promise.all([near.whenReceived(KIB, SETTLED_MS), far.whenReceived(KIB, SETTLED_MS)]);
}

export const SCENARIOS: readonly Scenario[] = [
  {
    title: 'a download in mid-transfer arrives with the same SHA-256',
    async before({ near, far }, bulk) {
      sendAndFinish(far, bulk.bytes, bulk);
      near.finish();
      await near.whenReceived(8 * MIB, SETTLED_MS);
    },
    after: completes,
  },
  {
    title: 'an upload in mid-transfer arrives with the same SHA-256',
    async before({ near, far }, bulk) {
      sendAndFinish(near, bulk.bytes, bulk);
      far.finish();
      await far.whenReceived(8 * MIB, SETTLED_MS);
    },
    after: completes,
  },
  {
    title: 'an idle connection goes on',
    before: exchange,
    async after(ends) {
      sendAndFinish(ends.near, 300 * KIB);
      sendAndFinish(ends.far, 300 * KIB);
      await completes(ends);
    },
  },
  {
    title: 'what both sides write and end during the outage arrives whole',
    before: exchange,
    during({ near, far }) {
      sendAndFinish(near, 600 * KIB);
      sendAndFinish(far, 600 * KIB);
    },
    after: completes,
  },
  {
    title: 'a late reply of 4 MiB, begun during the outage after a half-close before it, arrives whole',
    async before({ near, far }) {
      sendAndFinish(near, MIB);
      expect(await far.whenSeen(SETTLED_MS)).toBe('end');
    },
    during: ({ far }) => sendAndFinish(far, 4 * MIB),
    after: completes,
  },
  {
    title: 'a late request of 4 MiB, begun during the outage after the service ended its side, arrives whole',
    async before({ near, far }) {
      far.finish();
      expect(await near.whenSeen(SETTLED_MS)).toBe('end');
    },
    during: ({ near }) => sendAndFinish(near, 4 * MIB),
    after: completes,
  },
  {
    title: 'a reader that stopped before the outage and goes on after it gets every byte',
    async before({ near, far }) {
      near.pause();
      sendAndFinish(far, 48 * MIB);
      near.finish();
      await far.until('a blocked sender', SETTLED_MS, () => far.socket.writableNeedDrain);
    },
    async after(ends) {
      ends.near.resume();
      await completes(ends);
    },
  },
  {
    title: 'an application that stopped reading before the outage and goes on during it gets every byte',
    async before({ near, far }) {
      near.pause();
      sendAndFinish(far, 24 * MIB);
      near.finish();
      await far.until('a blocked sender', SETTLED_MS, () => far.socket.writableNeedDrain);
    },
    during: ({ near }) => near.resume(),
    after: completes,
  },
  {
    title: 'a service that stopped reading before the outage and goes on during it gets every byte',
    async before({ near, far }) {
      far.pause();
      sendAndFinish(near, 24 * MIB);
      far.finish();
      await near.until('a blocked sender', SETTLED_MS, () => near.socket.writableNeedDrain);
    },
    during: ({ far }) => far.resume(),
    after: completes,
  },
  {
    title: 'a reset by the application during the outage reaches the service as a reset',
    before: exchange,
    during: ({ near }) => near.reset(),
    async after({ far }) {
      expect(await far.whenSeen(SETTLED_MS)).toBe('reset');
    },
  },
  {
    title: 'a reset by the application in mid-upload during the outage reaches the service as a reset',
    async before({ near, far }) {
      // Without an end, and slow enough to be under way for as long as it takes.
      void near.send(Number.MAX_SAFE_INTEGER, { bytesPerSecond: 16 * MIB });
      await far.whenReceived(4 * MIB, SETTLED_MS);
    },
    during({ near }) {
      // All that was sent before may have arrived before the cut.
      void near.send(KIB);
      near.reset();
    },
    async after({ near, far }) {
      expect(await far.whenSeen(SETTLED_MS)).toBe('reset');
      expect(far.wrongAt).toBeUndefined();
      expect(far.received).toBeLessThan(near.sent);
    },
  },
  {
    title: 'a reset by the service during the outage reaches the application as a reset',
    before: exchange,
    during: ({ far }) => far.reset(),
    async after({ near }) {
      expect(await near.whenSeen(SETTLED_MS)).toBe('reset');
    },
  },
  {
    title: 'a reset by the service during the outage, after the application ended its side, is no clean end',
    async before({ near, far }) {
      sendAndFinish(near, KIB);
      expect(await far.whenSeen(SETTLED_MS)).toBe('end');
      await far.send(KIB);
    },
    during: ({ far }) => far.reset(),
    async after({ near }) {
      expect(await near.whenSeen(SETTLED_MS)).toBe('reset');
    },
  },
];
