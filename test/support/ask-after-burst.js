/**
 * Uses up what the system of `host` answers at once for `port`, where nothing listens, then asks whether
 * the peer there is gone: `node ask-after-burst.js <host> <port> <timeout ms>`. Prints the answer.
 */
import { createSocket } from 'node:dgram';
import { setTimeout as sleep } from 'node:timers/promises';
import { peerIsGone } from '../../dist/session/gone-peer.js';

const [host, port, timeoutMs] = process.argv.slice(2);
const socket = createSocket('udp4');
socket.on('error', () => undefined);
await new Promise((resolve) => socket.connect(Number(port), host, resolve));
const ending = AbortSignal.timeout(Number(timeoutMs));
let answer = false;
// An address of this host that comes late is a change of its network, which ends a look.
while (!answer && !ending.aborted) {
  for (let packet = 0; packet < 50; packet += 1) socket.send('x');
  // Until they have arrived and been refused: no event tells of those that are not.
  await sleep(300);
  answer = await peerIsGone(`${host}:${port}`, ending);
}
socket.close();
process.stdout.write(String(answer));
