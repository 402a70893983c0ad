/** What the events of a process say about its channels. */
import { expect } from 'vitest';
import { eventually } from './eventually.js';
import type { TunnelProcess } from './tunnel-process.js';

/** Channels opened and not closed yet. */
export function openChannels(process: TunnelProcess): number {
  let open = 0;
  for (const { event } of process.events) {
    if (event === 'channel.open') open += 1;
    else if (event === 'channel.close') open -= 1;
  }
  return open;
}

/** Fails when, within the time, a process still has a channel. */
export async function channelsClosed(processes: readonly TunnelProcess[], timeoutMs = 40_000): Promise<void> {
  for (const process of processes) {
    await eventually(() => openChannels(process) === 0, timeoutMs);
    expect(openChannels(process), 'channels still open').toBe(0);
  }
}
