/** What every fault of a process does to its connections, shared by the short and the long tests. */
import { expect } from 'vitest';
import type { Party } from '../support/party.js';
import type { Rig } from '../support/rig.js';

const KIB = 1024;

/** A connection that both sides have used. */
export async function used(rig: Rig): Promise<{ near: Party; far: Party }> {
  const ends = await rig.connected();
  await exchange(ends.near, ends.far);
  return ends;
}

/** 1 KiB each way, there and back. */
export async function exchange(near: Party, far: Party, timeoutMs = 30_000): Promise<void> {
  const [toFar, toNear] = [far.received + KIB, near.received + KIB];
  await Promise.all([near.send(KIB), far.send(KIB)]);
  await Promise.all([far.whenReceived(toFar, timeoutMs), near.whenReceived(toNear, timeoutMs)]);
}

/** A new connection through the tunnel is served from its first to its last byte. */
export async function works(rig: Rig, timeoutMs = 30_000): Promise<void> {
  const { near, far } = await rig.connected(timeoutMs);
  await exchange(near, far, timeoutMs);
  near.finish();
  far.finish();
  expect(await near.whenSeen(timeoutMs)).toBe('end');
  expect(await far.whenSeen(timeoutMs)).toBe('end');
  expect([near.wrongAt, far.wrongAt]).toEqual([undefined, undefined]);
}

/** An end is only seen where the other side made one, and then nothing is missing before it. */
export function expectNoFalseEnd(receiver: Party, sender: Party): void {
  expect(receiver.wrongAt, 'first wrong byte').toBeUndefined();
  if (receiver.seen !== 'end') return;
  expect(sender.finished, 'an end that nobody made').toBe(true);
  expect(receiver.received).toBe(sender.sent);
}
