/**
 * The status socket of a process: answers whoever may open it, which is this user. It never waits for
 * a reader: one that does not keep up misses snapshots, and one that has stopped reading is dropped.
 */
import { chmod } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { TunnelError, toTunnelError } from '../error.js';
import type { ChannelQuery, StatusActions } from '../tunnel/status.js';
import type { StatusModel } from '../tunnel/status-model.js';
import { privateFolder, removeStale, socketPath } from './status-folder.js';
import {
  LineReader,
  MAX_REQUEST_BYTES,
  parseRequest,
  queryOf,
  STATUS_VERSION,
  type StatusMessage,
} from './status-wire.js';

const MAX_CLIENTS = 16;
/** A reader that has taken nothing of a snapshot for this long is not reading. */
const STALL_MS = 2000;

export interface StatusServer {
  close(): Promise<void>;
}

/** Throws OS_RESOURCE when the socket cannot be made. */
export async function serveStatus(
  folder: string,
  model: StatusModel,
  actions: StatusActions,
): Promise<StatusServer> {
  const path = socketPath(folder, process.pid);
  const clients = new Set<Client>();
  const server = createServer((socket) => {
    if (clients.size >= MAX_CLIENTS) {
      socket.destroy();
      return;
    }
    const client = new Client(socket, model, actions);
    clients.add(client);
    socket.once('close', () => clients.delete(client));
  });
  try {
    await privateFolder(folder);
    await removeStale(folder);
    await listen(server, path);
    if (process.platform !== 'win32') await chmod(path, 0o600);
  } catch (error) {
    server.close();
    throw error instanceof TunnelError
      ? error
      : new TunnelError('OS_RESOURCE', `no status socket at ${path} (${(error as Error).message})`, {
          hint: 'set XDG_RUNTIME_DIR or TUNNEL_HOME to a writable folder with a short path',
          cause: error,
        });
  }
  // Neither the socket nor its readers keep the process alive.
  server.unref();
  return {
    async close() {
      for (const client of clients) client.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

class Client {
  readonly #socket: Socket;
  readonly #model: StatusModel;
  readonly #actions: StatusActions;
  readonly #lines = new LineReader(MAX_REQUEST_BYTES);
  #query: ChannelQuery | undefined;
  #unsubscribe: (() => void) | undefined;
  #stall: NodeJS.Timeout | undefined;

  constructor(socket: Socket, model: StatusModel, actions: StatusActions) {
    this.#socket = socket;
    this.#model = model;
    this.#actions = actions;
    socket.unref();
    socket.setEncoding('utf8');
    socket.on('error', () => undefined);
    socket.on('data', (text: string) => this.#onText(text));
    socket.on('drain', () => this.#endStall());
    socket.once('close', () => {
      this.#endStall();
      this.#unsubscribe?.();
    });
    this.#send({ type: 'hello', version: STATUS_VERSION, pid: process.pid });
  }

  destroy(): void {
    this.#socket.destroy();
  }

  #onText(text: string): void {
    try {
      for (const line of this.#lines.push(text)) void this.#answer(line);
    } catch (error) {
      this.#fail(error);
      this.#socket.destroySoon();
    }
  }

  async #answer(line: string): Promise<void> {
    let id: number | undefined;
    try {
      const request = parseRequest(line);
      id = request.id;
      switch (request.method) {
        case 'snapshot':
          this.#model.sample();
          this.#send({ type: 'snapshot', id, snapshot: this.#model.snapshot(queryOf(request.query)) });
          break;
        case 'watch':
          this.#query = queryOf(request.query);
          this.#unsubscribe ??= this.#model.subscribe(() => this.#show());
          this.#model.hasten();
          break;
        case 'reset': {
          const ok = await this.#actions.resetChannel(process.pid, request.channel);
          this.#send({ type: 'done', id, ok });
          break;
        }
        case 'decide': {
          const ok = await this.#actions.decide(process.pid, request.decision);
          this.#send({ type: 'done', id, ok });
        }
      }
    } catch (error) {
      this.#fail(error, id);
    }
  }

  #show(): void {
    // What the last one left over is not waited for, nor added to.
    if (this.#query === undefined || this.#socket.writableNeedDrain) return;
    this.#send({ type: 'snapshot', snapshot: this.#model.snapshot(this.#query) });
  }

  #fail(error: unknown, id?: number): void {
    const { code, message } = toTunnelError(error);
    this.#send({ type: 'error', ...(id === undefined ? {} : { id }), code, message });
  }

  #send(message: StatusMessage): void {
    if (this.#socket.destroyed || this.#socket.write(`${JSON.stringify(message)}\n`)) return;
    this.#stall ??= setTimeout(() => this.#socket.destroy(), STALL_MS).unref();
  }

  #endStall(): void {
    clearTimeout(this.#stall);
    this.#stall = undefined;
  }
}
