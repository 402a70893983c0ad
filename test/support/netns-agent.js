// Runs inside a network namespace and makes TCP sockets there for the test process, which gets their
// file descriptors over IPC: a socket stays in the namespace it was made in, whoever holds it.
import { connect, createServer } from 'node:net';

const ops = {
  listen({ id }) {
    const server = createServer().listen({ port: 0, host: '127.0.0.1', backlog: 1024 }, () => {
      const { port } = server.address();
      process.send({ id, port }, server, {}, () => server.close(() => process.send({ id, done: true })));
    });
    server.on('error', (error) => process.send({ id, error: error.code }));
  },
  dial({ id, port }) {
    const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    // Nothing may be read here: it would be missing there.
    socket.pause();
    const onError = (error) => process.send({ id, error: error.code });
    socket.once('error', onError);
    socket.once('connect', () => {
      socket.off('error', onError);
      socket.on('error', () => undefined);
      process.send({ id, done: true }, socket);
    });
  },
};

process.on('message', (message) => ops[message.op](message));
process.on('disconnect', () => process.exit(0));
