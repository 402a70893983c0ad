/** A process of its own that loads, or makes, the identity at the path given, and prints its node ID. */
import { loadIdentity } from '../../src/session/identity.js';

const { identity } = await loadIdentity(process.argv[2] as string);
process.stdout.write(`${identity.nodeId}\n`);
