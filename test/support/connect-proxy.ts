/** An HTTP proxy that knows CONNECT alone, leads nowhere but to this machine, and says who was asked for. */
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';

export class ConnectProxy {
  readonly url: string;
  /** `host:port` of every CONNECT, in order. */
  readonly asked: string[] = [];
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(server: Server) {
    this.#server = server;
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    server.on('connection', (socket) => this.#keep(socket));
    server.on('connect', ({ url = '' }, client: Socket, head: Buffer) => {
      this.asked.push(url);
      const at = url.lastIndexOf(':');
      if (url.slice(0, at) !== '127.0.0.1') {
        client.end('HTTP/1.1 502 Bad Gateway\r\n\r\n');
        return;
      }
      const target = connect(Number(url.slice(at + 1)), '127.0.0.1');
      this.#keep(target);
      target.once('connect', () => {
        client.write('HTTP/1.1 200 Connection established\r\n\r\n');
        target.write(head);
        client.pipe(target).pipe(client);
      });
      target.once('close', () => client.destroy());
      client.once('close', () => target.destroy());
    });
  }

  static async start(): Promise<ConnectProxy> {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new ConnectProxy(server);
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await once(this.#server, 'close');
  }

  #keep(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('close', () => this.#sockets.delete(socket));
  }
}
