/**
 * For tests that bind real endpoints: the addon's handles keep their endpoint's sockets until they are
 * garbage; what is left after that is a leak.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose-gc');
export const collectGarbage = runInNewContext('gc') as () => void;
