import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, it } from 'vitest';
import type { NodeId } from '../../src/session/node-id.js';
import type { ChannelFigures } from '../../src/tunnel/status.js';
import { ChannelRecords } from '../../src/tunnel/status-channels.js';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

function figures(id: number): ChannelFigures {
  return {
    ...{
      id,
      peer: 'ab'.repeat(32) as NodeId,
      service: 'svc',
      protocol: 'tcp',
      path: 'memory',
      state: 'open',
    },
    ...{ bytesIn: 0, bytesOut: 0, unackedBytes: 0, window: 0, ageMs: 0 },
  } as ChannelFigures;
}

it('what has closed is let go, also where nobody ever looks', async () => {
  const records = new ChannelRecords(() => undefined);
  const seen = Array.from({ length: 100 }, (_, id) => {
    const one = figures(id);
    records.open(one);
    return new WeakRef(one);
  });
  for (const id of seen.keys()) records.close(id, { bytesIn: 1, bytesOut: 1, reason: 'eos', durationMs: 1 });
  // A WeakRef holds on until the turn is over.
  await new Promise((resolve) => setImmediate(resolve));
  collect();
  expect(seen.filter((one) => one.deref() !== undefined)).toEqual([]);
  expect(records.size).toBe(0);
});
