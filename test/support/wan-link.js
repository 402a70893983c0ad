// A long line in user space: carries the VXLAN packets of two hosts to each other with a delay, at a
// rate, through a queue, losing some. What runs over it, TCP or QUIC, are whole IP packets, so all are
// treated alike. See wan.ts.
//
// `wan-link.js <left ip> <left host> <right ip> <right host>`; each line on stdin is the line's new
// properties as JSON: {bytesPerSecond, delayMs (one way), lossRatio, queueBytes}. Each is answered by a
// line of what was carried, lost and dropped at a full queue since the one before.
import { createSocket } from 'node:dgram';
import { createInterface } from 'node:readline';

const PORT = 4789;
/** What Ethernet and VXLAN add is no part of the line. */
const OVERHEAD_BYTES = 22;
const [leftAddress, leftHost, rightAddress, rightHost] = process.argv.slice(2);
let line = { bytesPerSecond: 12.5e6, delayMs: 0, lossRatio: 0, queueBytes: 1e6 };
let counts = newCounts();

function newCounts() {
  return { carried: 0, lost: 0, dropped: 0, lateMs: 0 };
}

const VXLAN_BYTES = 8;
const IP_AT = VXLAN_BYTES + 14;
const CHECKSUM_AT = { 6: 16, 17: 6 };

/**
 * The kernel leaves the checksum of TCP and UDP to a network card, which there is none of on the way to
 * this program: it is written here.
 */
function completeChecksum(packet) {
  if (packet.length < IP_AT + 20 || packet.readUInt16BE(IP_AT - 2) !== 0x0800) return;
  const protocol = packet[IP_AT + 9];
  const field = CHECKSUM_AT[protocol];
  if (field === undefined) return;
  const start = IP_AT + (packet[IP_AT] & 15) * 4;
  const end = IP_AT + packet.readUInt16BE(IP_AT + 2);
  packet.writeUInt16BE(0, start + field);
  // The pseudo header: both addresses, the protocol, the length.
  let sum = protocol + (end - start);
  for (let i = IP_AT + 12; i < IP_AT + 20; i += 2) sum += (packet[i] << 8) | packet[i + 1];
  for (let i = start; i + 1 < end; i += 2) sum += (packet[i] << 8) | packet[i + 1];
  if ((end - start) % 2 === 1) sum += packet[end - 1] << 8;
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  packet.writeUInt16BE(~sum & 0xffff || 0xffff, start + field);
}

/** One direction. Packets leave in the order in which they came. */
class Direction {
  #queue = [];
  #next = 0;
  #freeAt = 0;
  #timer;

  constructor(send) {
    this.send = send;
  }

  accept(packet) {
    const now = performance.now();
    const size = packet.length - OVERHEAD_BYTES;
    this.#freeAt = Math.max(this.#freeAt, now);
    const waitingBytes = ((this.#freeAt - now) / 1000) * line.bytesPerSecond;
    if (waitingBytes + size > line.queueBytes) {
      counts.dropped += 1;
      return;
    }
    this.#freeAt += (size / line.bytesPerSecond) * 1000;
    // It took its time on the line all the same.
    if (Math.random() < line.lossRatio) {
      counts.lost += 1;
      return;
    }
    completeChecksum(packet);
    this.#queue.push([this.#freeAt + line.delayMs, packet]);
    this.#schedule();
  }

  #schedule() {
    if (this.#timer !== undefined || this.#next >= this.#queue.length) return;
    const wait = this.#queue[this.#next][0] - performance.now();
    this.#timer = setTimeout(() => this.#deliver(), Math.max(0, wait));
  }

  #deliver() {
    this.#timer = undefined;
    const now = performance.now();
    while (this.#next < this.#queue.length && this.#queue[this.#next][0] <= now) {
      const [due, packet] = this.#queue[this.#next];
      counts.lateMs = Math.max(counts.lateMs, now - due);
      counts.carried += 1;
      this.send(packet);
      this.#next += 1;
    }
    if (this.#next > 1024) {
      this.#queue.splice(0, this.#next);
      this.#next = 0;
    }
    this.#schedule();
  }
}

const left = createSocket('udp4');
const right = createSocket('udp4');
const toRight = new Direction((packet) => right.send(packet, PORT, rightHost));
const toLeft = new Direction((packet) => left.send(packet, PORT, leftHost));
left.on('message', (packet) => toRight.accept(packet));
right.on('message', (packet) => toLeft.accept(packet));
await Promise.all(
  [
    [left, leftAddress],
    [right, rightAddress],
  ].map(([socket, address]) => new Promise((resolve) => socket.bind(PORT, address, resolve))),
);
for (const socket of [left, right]) {
  socket.setRecvBufferSize(4 << 20);
  socket.setSendBufferSize(4 << 20);
}
createInterface({ input: process.stdin })
  .on('line', (text) => {
    line = { ...line, ...JSON.parse(text) };
    console.log(JSON.stringify(counts));
    counts = newCounts();
  })
  .on('close', () => process.exit());
console.log('ready');
