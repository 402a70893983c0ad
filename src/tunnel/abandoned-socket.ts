/** Socket files of processes that died: the file stays, and nobody listens behind it. */
import { connect } from 'node:net';
import { systemCode } from '../error.js';

/** Whether a connection to `path` is refused. False where it is taken, or fails for another reason. */
export function isAbandonedSocket(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(false);
    });
    probe.once('error', (error) => resolve(systemCode(error) === 'ECONNREFUSED'));
  });
}
