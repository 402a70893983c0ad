/** A peer of another version ends the forward with 76, and both versions are named. */
import { expect, it } from 'vitest';
import { bindIroh } from '../../src/session/engines/iroh.js';
import { encodeFrame, FrameType } from '../../src/session/frame.js';
import { encodeHello } from '../../src/session/hello.js';
import { Identity } from '../../src/session/identity.js';
import { formatTicket } from '../../src/session/ticket.js';
import { Machine } from '../support/tunnel-process.js';

it('a forward to a peer of another major version exits with 76', async () => {
  const identity = Identity.generate();
  const future = await bindIroh({ identity, bind: ['127.0.0.1:0'], relay: 'none', addressLookup: false });
  const serving = (async () => {
    for await (const session of future.incoming) {
      for await (const stream of session.incomingBidirectionalStreams) {
        const hello = encodeHello({
          major: 2,
          minor: 3,
          instanceId: 'cd'.repeat(16),
          identity: identity.nodeId,
          supported: [],
          required: [],
        });
        stream.write(null, encodeFrame(0, FrameType.HELLO, hello));
      }
    }
  })();
  const machine = new Machine();
  const ticket = formatTicket({ nodeId: identity.nodeId, ...future.addresses(), token: undefined });
  const forward = machine.start('forward', ticket, '0:db');
  expect(await forward.exited).toBe(76);
  expect(forward.events.at(-1)).toMatchObject({ event: 'error', code: 'VERSION' });
  expect(forward.stderr).toMatch(/tunnel\/2\.3.*tunnel\/1\.0/);
  await future.close();
  await serving;
  await machine.dispose();
});
