// `udp-probe.js` echoes on a port that it prints; `udp-probe.js <address> <port> <count>` sends that
// many packets and prints how many came back.
import { createSocket } from 'node:dgram';
import { setTimeout as sleep } from 'node:timers/promises';

const [address, port, count] = process.argv.slice(2);
const socket = createSocket('udp4');

if (address === undefined) {
  socket.on('message', (message, from) => socket.send(message, from.port, from.address));
  socket.bind(0, () => console.log(socket.address().port));
} else {
  let answered = 0;
  socket.on('message', () => {
    answered += 1;
  });
  // Without a route the system says so at once.
  socket.on('error', () => undefined);
  for (let i = 0; i < Number(count); i += 1) {
    socket.send(Buffer.from([i]), Number(port), address, () => undefined);
    await sleep(10);
  }
  await sleep(200);
  console.log(answered);
  socket.close();
}
