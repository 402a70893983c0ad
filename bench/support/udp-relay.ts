/** A plain one-hop UDP relay in Node: a socket for every source, no tunnel at all. What a hop costs. */
import { createSocket, type Socket } from 'node:dgram';

const target = Number(process.argv[2]);
const buffers = { recvBufferSize: 4 << 20, sendBufferSize: 4 << 20 };
const literal = (address: string, _: unknown, done: (error: null, address: string, family: number) => void) =>
  done(null, address, 4);

const near = createSocket({ type: 'udp4', lookup: literal, ...buffers });
const flows = new Map<number, { socket: Socket; early: Buffer[] | undefined }>();
near.on('message', (payload, source) => {
  const known = flows.get(source.port);
  if (known) {
    if (known.early) known.early.push(payload);
    else known.socket.send(payload);
    return;
  }
  const flow = {
    socket: createSocket({ type: 'udp4', lookup: literal, ...buffers }),
    early: [payload] as Buffer[] | undefined,
  };
  flows.set(source.port, flow);
  flow.socket.on('message', (answer) => near.send(answer, source.port, source.address));
  flow.socket.connect(target, '127.0.0.1', () => {
    for (const early of flow.early ?? []) flow.socket.send(early);
    flow.early = undefined;
  });
});
near.bind(0, '127.0.0.1', () => process.send?.({ port: near.address().port }));
process.on('disconnect', () => process.exit(0));
