/** A slow line of a test network: see `udp-relay.js`. It runs on the router. */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { Network } from './netns.js';

const PROGRAM = fileURLToPath(new URL('./udp-relay.js', import.meta.url));

export interface RelayOptions {
  /** Each way. */
  readonly bytesPerSecond: number;
  /** Each way. */
  readonly delayMs: number;
}

/** Leads from a port of the router to `port` of the far host. */
export async function spawnRelay(
  { router, near, far }: Network,
  port: number,
  { bytesPerSecond, delayMs }: RelayOptions,
): Promise<{ child: ChildProcess; port: number }> {
  const child = router.spawn(process.execPath, [
    ...[PROGRAM, near.gateway, far.address, String(port)],
    ...[String(bytesPerSecond), String(delayMs)],
  ]);
  const [line] = (await once(child.stdout?.setEncoding('utf8') as NodeJS.ReadableStream, 'data')) as [string];
  return { child, port: Number(line) };
}
