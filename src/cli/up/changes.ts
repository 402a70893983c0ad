/** What a reload has changed, in the words of the config file. */
import { isDeepStrictEqual } from 'node:util';
import type { NodeId } from '../../session/node-id.js';
import { formatForwardSpec, formatService, formatTarget } from '../../tunnel/spec.js';
import type { ExposePlan } from '../expose-plan.js';
import { type ForwardPlan, isSameLink } from '../forward-service.js';
import type { Common } from './common.js';

export interface Plans {
  readonly expose: ExposePlan | undefined;
  readonly forwards: readonly ForwardPlan[];
}

export interface Changes {
  readonly added: readonly string[];
  readonly removed: readonly string[];
  readonly changed: readonly string[];
}

/** `label` is what lines call a peer. */
export function changesOf(before: Plans, after: Plans, label: (nodeId: NodeId) => string): Changes {
  const [old, now] = [partsOf(before, label), partsOf(after, label)];
  return {
    added: [...now.keys()].filter((part) => !old.has(part)),
    removed: [...old.keys()].filter((part) => !now.has(part)),
    changed: [
      ...[...now.keys()].filter((part) => old.has(part) && old.get(part) !== now.get(part)),
      ...exposeSettings(before.expose, after.expose),
      ...after.forwards
        .filter((plan) =>
          before.forwards.some((other) => isPeerOf(other, plan) && !isSettledAlike(other, plan)),
        )
        .map(({ peer }) => `forward @ ${label(peer.nodeId)}`),
    ],
  };
}

/** Keys of what is said once that say something else now. */
export function commonDifferences(running: Common, wanted: Common): readonly string[] {
  const flat = ({ network, ...rest }: Common): Readonly<Record<string, unknown>> => ({
    identity: rest.identity,
    'share-stats': rest.shareStats,
    'resume-timeout': rest.resumeTimeout,
    ...network,
  });
  const [now, then] = [flat(running), flat(wanted)];
  return Object.keys(now).filter((key) => !isDeepStrictEqual(now[key], then[key]));
}

/** Each service and each listener, and what may differ while it stays the same one. */
function partsOf(
  { expose, forwards }: Plans,
  label: (nodeId: NodeId) => string,
): ReadonlyMap<string, string> {
  return new Map([
    ...(expose?.services ?? []).map((service): [string, string] => [
      `expose ${formatService(service.name, service.target.protocol)}`,
      formatTarget(service.target),
    ]),
    ...forwards.flatMap(({ peer, specs }) =>
      specs.map((spec): [string, string] => [
        `forward ${formatForwardSpec(spec)} @ ${label(peer.nodeId)}`,
        '',
      ]),
    ),
  ]);
}

function exposeSettings(before: ExposePlan | undefined, after: ExposePlan | undefined): readonly string[] {
  if (!before || !after) return [];
  const settings: readonly (readonly [string, (plan: ExposePlan) => unknown])[] = [
    ['allow', ({ allow }) => allow],
    ['public', (plan) => plan.public],
    ['allow-speed', ({ allowSpeed }) => allowSpeed],
    ['ticket', ({ terms }) => terms],
    ['limit-rate', ({ rates }) => rates],
  ];
  return settings
    .filter(([, of]) => !isDeepStrictEqual(of(before), of(after)))
    .map(([name]) => `expose ${name}`);
}

function isPeerOf(one: ForwardPlan, other: ForwardPlan): boolean {
  return one.peer.nodeId === other.peer.nodeId;
}

function isSettledAlike(one: ForwardPlan, other: ForwardPlan): boolean {
  return isSameLink(one, other) && isDeepStrictEqual(one.rates, other.rates);
}
