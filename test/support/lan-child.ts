/**
 * An iroh endpoint on every interface, on the local network under the name of the first argument (none for
 * one that only looks). Prints its node ID, then every change of the nodes nearby, each as a line of JSON.
 */
import { bindIroh } from '../../src/session/engines/iroh.js';
import { Identity } from '../../src/session/identity.js';

const [name] = process.argv.slice(2);
const endpoint = await bindIroh({
  identity: Identity.generate(),
  bind: [],
  relay: 'none',
  addressLookup: false,
  lan: { announce: name !== undefined, name },
});
const print = (value: unknown) => process.stdout.write(`${JSON.stringify(value)}\n`);
print({ nodeId: endpoint.nodeId, errors: endpoint.lookupErrors });
endpoint.onNearby(() => print(endpoint.nearby));
if (endpoint.nearby.length > 0) print(endpoint.nearby);
process.once('SIGTERM', () => void endpoint.close().then(() => process.exit(0)));
