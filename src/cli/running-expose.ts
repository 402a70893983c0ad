/** The expose of an identity that runs on this machine now, asked over its status socket. */
import type { NodeId } from '../session/node-id.js';
import type { Reach, StatusSnapshot } from '../tunnel/status.js';
import { suggestedSpec } from './expose-banner.js';
import { readStatus } from './status-client.js';

export interface RunningExpose {
  readonly reach: Reach;
  /** Those of `names` (`db`, `dns/udp`) that it does not offer. */
  missing(names: readonly string[]): readonly string[];
  /** What a forward of these services says, or of all of them. */
  specs(names: readonly string[]): string;
}

export async function runningExpose(runtime: string, node: NodeId): Promise<RunningExpose | undefined> {
  const processes = await readStatus(runtime, { sort: 'id', reverse: false, filter: '', limit: 0 });
  const found = processes.find(({ nodeId, reach }) => nodeId === node && reach !== undefined);
  if (!found?.reach) return undefined;
  const offered = found.tunnels.filter(({ target }) => target !== undefined);
  const chosen = (names: readonly string[]) =>
    offered.filter((tunnel) => names.length === 0 || names.some((name) => is(name, tunnel)));
  return {
    reach: found.reach,
    missing: (names) => names.filter((name) => !offered.some((tunnel) => is(name, tunnel))),
    specs: (names) =>
      chosen(names)
        .map(({ service, protocol, target = '' }) => suggestedSpec(service, protocol, portOf(target)))
        .join(' ') || '<spec>',
  };
}

function is(name: string, { service, protocol }: StatusSnapshot['tunnels'][number]): boolean {
  return name === service || name === `${service}/${protocol}`;
}

/** The port of `127.0.0.1:5432`; a unix socket has none. */
function portOf(target: string): number | undefined {
  const port = target.startsWith('unix:') ? undefined : /:(\d+)$/.exec(target)?.[1];
  return port === undefined ? undefined : Number(port);
}
