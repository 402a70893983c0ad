// A slow line in user space: `udp-relay.js <listen ip> <target ip> <target port> <bytes/s> <delay ms>`
// prints its port, and carries packets both ways at that rate, with that delay, dropping what would
// wait longer than a quarter of a second. At SIGUSR2 it forgets who is who, as a NAT does: what comes next
// leaves from another port.
import { createSocket } from 'node:dgram';

const [listenHost, targetHost, targetPort, rateText, delayText] = process.argv.slice(2);
const bytesPerSecond = Number(rateText);
const delayMs = Number(delayText);
const MAX_QUEUE_MS = 250;

/** One direction: when the line is free again, and what to do when a packet has crossed it. */
function line() {
  let freeAt = 0;
  return (bytes, deliver) => {
    const now = performance.now();
    freeAt = Math.max(freeAt, now);
    if (freeAt - now > MAX_QUEUE_MS) return;
    freeAt += (bytes / bytesPerSecond) * 1000;
    setTimeout(deliver, freeAt - now + delayMs);
  };
}

const up = line();
const down = line();
const outside = createSocket('udp4');
const clients = new Map();

outside.on('message', (message, from) => {
  const key = `${from.address}:${from.port}`;
  let inside = clients.get(key);
  if (!inside) {
    inside = createSocket('udp4');
    inside.on('message', (answer) =>
      down(answer.length, () => outside.send(answer, from.port, from.address)),
    );
    clients.set(key, inside);
  }
  const socket = inside;
  up(message.length, () => {
    // Forgotten while the packet was on the line.
    if (clients.get(key) === socket) socket.send(message, Number(targetPort), targetHost);
  });
});
process.on('SIGUSR2', () => {
  for (const inside of clients.values()) inside.close();
  clients.clear();
});
outside.bind(0, listenHost, () => console.log(outside.address().port));
