/**
 * An iroh endpoint in a process of its own, to be killed. Prints its node ID and addresses as JSON,
 * accepts one session, opens a stream on it that says `alive`, and then holds everything open.
 */
import { bindIroh } from '../../src/session/engines/iroh.js';
import { Identity } from '../../src/session/identity.js';

const endpoint = await bindIroh({
  identity: Identity.generate(),
  bind: ['127.0.0.1:0'],
  relay: 'none',
  addressLookup: false,
});
process.stdout.write(`${JSON.stringify({ nodeId: endpoint.nodeId, direct: endpoint.boundAddresses() })}\n`);
const hold = setInterval(() => undefined, 60_000);
for await (const session of endpoint.incoming) {
  const stream = await session.createBidirectionalStream();
  stream.write(null, Buffer.from('alive'));
  stream.receive({
    data: (chunk) => stream.consumed(chunk.length),
    end: () => undefined,
    reset: () => undefined,
    stopped: () => undefined,
    drain: () => undefined,
    lost: () => undefined,
  });
  await session.closed;
}
clearInterval(hold);
