// Bulk over TCP between two hosts. `wan-load.js sink`: takes whatever comes, on a port that it prints;
// each line on stdin is answered by the bytes so far, and resets every connection where it is not empty.
// `wan-load.js send <host> <port> <streams>`: sends until it is ended.
import { connect, createServer } from 'node:net';
import { createInterface } from 'node:readline';

const [role, host, port, streams] = process.argv.slice(2);
if (role === 'sink') {
  let bytes = 0;
  const sockets = new Set();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('data', (chunk) => {
      bytes += chunk.length;
    });
    socket.on('error', () => undefined);
  });
  server.listen(0, '0.0.0.0', () => console.log(server.address().port));
  createInterface({ input: process.stdin })
    .on('line', (line) => {
      if (line !== '') for (const socket of sockets) socket.resetAndDestroy();
      console.log(bytes);
    })
    .on('close', () => process.exit());
} else {
  const chunk = Buffer.alloc(256 * 1024, 'x');
  for (let i = 0; i < Number(streams); i += 1) {
    const socket = connect(Number(port), host);
    const pump = () => {
      while (socket.write(chunk));
    };
    socket.on('connect', pump);
    socket.on('drain', pump);
    socket.on('error', (error) => {
      console.error(error.message);
      process.exit(1);
    });
  }
}
