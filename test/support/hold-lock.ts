/** A process of its own that holds the lock of the identity `default` until it is killed. */
import { lockIdentity } from '../../src/cli/identity-lock.js';

await lockIdentity(process.argv[2] as string, 'default');
process.stdout.write('held\n');
setInterval(() => undefined, 60_000);
