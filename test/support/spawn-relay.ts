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

/** A tunnel's only way: the ticket's address becomes the relay's, and there is no other way any more. */
export async function throughRelay(
  ticket: string,
  network: Network,
  options: RelayOptions,
): Promise<{ child: ChildProcess; ticket: string }> {
  const address = `${network.far.address}:`;
  const port = new RegExp(`addr=${address.replaceAll('.', '\\.')}(\\d+)`).exec(ticket)?.[1] as string;
  const relay = await spawnRelay(network, Number(port), options);
  await network.cut();
  const led = ticket.replace(`addr=${address}${port}`, `addr=${network.near.gateway}:${relay.port}`);
  return { child: relay.child, ticket: led };
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
