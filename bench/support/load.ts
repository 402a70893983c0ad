/**
 * Load generators and the servers behind them, each run as a process of its own:
 * `load.ts <role> <options as JSON>`. It answers with one message to its parent.
 */
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';

const [role, json] = process.argv.slice(2);
const options = JSON.parse(json ?? '{}') as Record<string, number | boolean>;
const number = (key: string): number => Number(options[key]);

/** Fails the whole benchmark: what comes back must be what was sent. */
function broken(what: string): never {
  console.error(`broken: ${what}`);
  process.exit(1);
}

function answer(message: object): void {
  process.send?.(message);
}

async function listen(server: Server): Promise<void> {
  server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 });
  await once(server, 'listening');
  const address = server.address();
  if (address !== null && typeof address === 'object') answer({ port: address.port });
}

function open(port: number): Socket {
  return connect({ port, host: '127.0.0.1', noDelay: true });
}

// ---- servers

async function echoServer(): Promise<void> {
  await listen(
    createServer({ noDelay: true }, (socket) => {
      socket.on('error', () => undefined);
      socket.pipe(socket);
    }),
  );
}

/** First byte `d`: pours until the other side goes away; `u`: counts until its end and answers with the count. */
async function bulkServer(): Promise<void> {
  const block = Buffer.alloc(256 * 1024, 0x5a);
  await listen(
    createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
      socket.on('error', () => undefined);
      let received = -1;
      socket.on('data', (chunk: Buffer) => {
        if (received < 0 && chunk[0] === 0x64) {
          const pour = () => {
            while (socket.writable && socket.write(block));
          };
          socket.on('drain', pour);
          pour();
        }
        received += chunk.length;
      });
      socket.on('end', () => {
        const count = Buffer.alloc(8);
        count.writeDoubleBE(received);
        socket.end(count);
      });
    }),
  );
}

// ---- clients

/** One connection: a byte there, the same byte back, closed by both sides. */
function connectAndEcho(port: number, byte: number): Promise<void> {
  return new Promise((resolve) => {
    const socket = open(port);
    let echoed = false;
    socket.on('error', (error) => broken(`a connection failed: ${error.message}`));
    socket.on('data', (chunk: Buffer) => {
      if (echoed || chunk.length !== 1 || chunk[0] !== byte) broken('the wrong byte came back');
      echoed = true;
      socket.end();
    });
    socket.on('close', () => {
      if (!echoed) broken('a connection ended without its byte');
      resolve();
    });
    socket.write(Buffer.from([byte]));
  });
}

/** For so many seconds, or so many connections. */
async function connections(): Promise<void> {
  const seconds = number('seconds') || Number.POSITIVE_INFINITY;
  const count = number('count') || Number.POSITIVE_INFINITY;
  const began = performance.now();
  const deadline = began + seconds * 1000;
  let started = 0;
  let done = 0;
  const worker = async () => {
    while (started < count && performance.now() < deadline) {
      started += 1;
      await connectAndEcho(number('port'), started & 0xff);
      done += 1;
    }
  };
  await Promise.all(Array.from({ length: number('parallel') }, worker));
  answer({ perSecond: done / ((performance.now() - began) / 1000) });
}

/** One byte back and forth on an open connection. */
async function pingPong(): Promise<void> {
  const rounds = number('rounds');
  const warmUp = Math.ceil(rounds / 10);
  const socket = open(number('port'));
  await once(socket, 'connect');
  const times: number[] = [];
  await new Promise<void>((resolve) => {
    let sent = 0;
    let at = 0;
    const next = () => {
      sent += 1;
      at = performance.now();
      socket.write(Buffer.from([sent & 0xff]));
    };
    socket.on('error', (error) => broken(`the connection failed: ${error.message}`));
    socket.on('data', (chunk: Buffer) => {
      if (chunk.length !== 1 || chunk[0] !== (sent & 0xff)) broken('the wrong byte came back');
      times.push(performance.now() - at);
      if (times.length < rounds + warmUp) next();
      else resolve();
    });
    next();
  });
  socket.destroy();
  const sorted = times.slice(warmUp).sort((a, b) => a - b);
  const quantile = (q: number) => (sorted[Math.floor(q * (sorted.length - 1))] as number) * 1000;
  answer({ p50: quantile(0.5), p99: quantile(0.99) });
}

/** Opens so many connections, proves each of them, and keeps them until it is killed. */
async function hold(): Promise<void> {
  const count = number('count');
  let opened = 0;
  const worker = async () => {
    while (opened < count) {
      opened += 1;
      const socket = open(number('port'));
      socket.on('error', (error) => broken(`a held connection failed: ${error.message}`));
      socket.write(Buffer.from([7]));
      const [chunk] = (await once(socket, 'data')) as [Buffer];
      if (chunk.length !== 1 || chunk[0] !== 7) broken('the wrong byte came back');
      socket.on('close', () => broken('a held connection was closed'));
    }
  };
  await Promise.all(Array.from({ length: 20 }, worker));
  answer({ held: opened });
}

/** Bytes that differ from one another go there and back; every one is compared. */
async function verify(): Promise<void> {
  const total = number('bytes');
  // A prime length: no block boundary anywhere falls in step with the pattern.
  const pattern = Buffer.from(Array.from({ length: 65_521 }, (_, i) => (i * 2_654_435_761) >>> 24));
  const twice = Buffer.concat([pattern, pattern]);
  const socket = open(number('port'));
  socket.on('error', (error) => broken(`the connection failed: ${error.message}`));
  let sent = 0;
  let received = 0;
  const pour = () => {
    while (sent < total) {
      const from = sent % pattern.length;
      const block = twice.subarray(from, from + Math.min(total - sent, pattern.length));
      sent += block.length;
      if (!socket.write(block)) return;
    }
    if (!socket.writableEnded) socket.end();
  };
  socket.on('drain', pour);
  socket.on('data', (chunk: Buffer) => {
    for (let at = 0; at < chunk.length; ) {
      const from = received % pattern.length;
      const length = Math.min(chunk.length - at, pattern.length);
      if (chunk.compare(twice, from, from + length, at, at + length) !== 0) {
        broken(`the bytes behind offset ${received} are not what was sent`);
      }
      at += length;
      received += length;
    }
  });
  pour();
  await once(socket, 'close');
  if (received !== total) broken(`${received} bytes of ${total} came back`);
  answer({ bytes: received });
}

/** Stands in for iperf3 where there is none. */
async function bulk(): Promise<void> {
  const reverse = options.reverse === true;
  const seconds = number('seconds') || Number.POSITIVE_INFINITY;
  const limit = number('bytes') || Number.POSITIVE_INFINITY;
  const block = Buffer.alloc(256 * 1024, 0x5a);
  const began = performance.now();
  const isOver = (bytes: number) => bytes >= limit || performance.now() - began >= seconds * 1000;
  const one = async (): Promise<number> => {
    const socket = open(number('port'));
    await once(socket, 'connect');
    socket.on('error', (error) => broken(`a transfer failed: ${error.message}`));
    if (reverse) {
      let received = 0;
      socket.write('d');
      await new Promise<void>((resolve) => {
        socket.on('data', (chunk: Buffer) => {
          received += chunk.length;
          if (isOver(received)) resolve();
        });
      });
      socket.destroy();
      return received;
    }
    let sent = 0;
    socket.write('u');
    const pour = () => {
      while (!isOver(sent)) {
        sent += block.length;
        if (!socket.write(block)) return;
      }
      if (!socket.writableEnded) socket.end();
    };
    socket.on('drain', pour);
    pour();
    const [count] = (await once(socket, 'data')) as [Buffer];
    if (count.readDoubleBE() !== sent) broken(`${count.readDoubleBE()} bytes of ${sent} arrived`);
    return sent;
  };
  const bytes = (await Promise.all(Array.from({ length: number('streams') }, one))).reduce(
    (a, b) => a + b,
    0,
  );
  answer({ bytes, seconds: (performance.now() - began) / 1000 });
}

const roles: Readonly<Record<string, () => Promise<void>>> = {
  'echo-server': echoServer,
  'bulk-server': bulkServer,
  connections,
  'ping-pong': pingPong,
  hold,
  verify,
  bulk,
};
process.on('disconnect', () => process.exit(0));
await (roles[role ?? ''] ?? broken)(`unknown role ${role}`);
