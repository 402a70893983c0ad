/** The near end: listens locally and opens a channel for every connection accepted. */
import { lstat, unlink } from 'node:fs/promises';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { systemCode, TunnelError, toTunnelError } from '../error.js';
import { type Channel, INITIAL_WINDOW_BYTES } from '../session/channel.js';
import type { PeerSession } from '../session/handshake.js';
import type { OpenedChannels } from '../session/opened-channels.js';
import { isAbandonedSocket } from './abandoned-socket.js';
import { type Descriptors, descriptorLimit } from './descriptors.js';
import { join, readFrom, resetSocket } from './join.js';
import { listenError } from './listen-error.js';
import { keepLive } from './live-sockets.js';
import { encodeOpen } from './open.js';
import { type Lanes, Pace } from './pace.js';
import { RateLimit } from './rate-limit.js';
import { formatHostPort, formatLocal, type Local } from './spec.js';

/** As many as the system allows (`net.core.somaxconn`): a burst of connections must not be dropped. */
const BACKLOG = 4096;
/** Connections held while there is no session. Their bytes stay in the kernel. */
const MAX_HELD = 1024;
/** Lines about connections there was no descriptor for, a second. */
const SHORTAGES_PER_SECOND = 1;

export interface TcpEntryOptions {
  readonly service: string;
  readonly channels: OpenedChannels;
  /** The limits of bytes a second that a new connection comes under. */
  readonly lanes?: () => Lanes | undefined;
  /** Of the process. */
  readonly descriptors: Descriptors;
  /** The session to open on, now or when there is one again. */
  session(signal: AbortSignal): Promise<PeerSession>;
  track(
    channel: Channel,
    peer: PeerSession,
    client: () => string | undefined,
  ): (error: TunnelError | undefined) => void;
  /** A connection failed for a reason worth telling. */
  onError(error: TunnelError): void;
}

export class TcpEntry {
  /** Where it listens, as bound: `127.0.0.1:15432`, `unix:/path`. */
  readonly local: string;
  readonly #server: Server;
  readonly #options: TcpEntryOptions;
  readonly #held = new Set<Socket>();
  readonly #ending = new AbortController();
  readonly #shortages = new RateLimit(SHORTAGES_PER_SECOND);

  private constructor(server: Server, local: string, options: TcpEntryOptions) {
    this.#server = server;
    this.local = local;
    this.#options = options;
    server.on('connection', (socket) => {
      if (options.descriptors.take()) void this.#serve(socket);
      else this.#shed(socket);
    });
    // The listener lives on and takes the next ones.
    server.on('error', (error) => options.onError(acceptError(local, error)));
  }

  /** Throws PORT_IN_USE or CANNOT_BIND, naming the address. */
  static async listen(local: Local, options: TcpEntryOptions): Promise<TcpEntry> {
    const server = createServer({
      allowHalfOpen: true,
      pauseOnConnect: true,
      noDelay: true,
      keepAlive: true,
    });
    if (local.kind === 'unix') await removeStaleSocket(local.path);
    await new Promise<void>((resolve, reject) => {
      const onError = (error: Error) => reject(listenError(local, error, 'tcp'));
      server.once('error', onError);
      server.listen(
        local.kind === 'unix'
          ? { path: local.path, backlog: BACKLOG }
          : { host: local.host, port: local.port, backlog: BACKLOG },
        () => {
          server.off('error', onError);
          resolve();
        },
      );
    });
    return new TcpEntry(server, boundAddress(server, local), options);
  }

  /** Stops accepting and resets what was held; open channels are not its own any more. */
  async close(): Promise<void> {
    this.#ending.abort();
    for (const socket of this.#held) resetSocket(socket);
    if (!this.#server.listening) return;
    this.#server.close();
  }

  /** Before another one is accepted, so that there is a descriptor for that one. */
  #shed(socket: Socket): void {
    resetSocket(socket);
    const skipped = this.#shortages.take();
    if (skipped !== undefined) this.#options.onError(shortage(this.local, skipped));
  }

  async #serve(socket: Socket): Promise<void> {
    keepLive(socket);
    // A socket that fails while it is held has nobody else to tell.
    const onEarlyError = () => undefined;
    socket.on('error', onEarlyError);
    let channel: Channel;
    let peer: PeerSession;
    try {
      ({ channel, peer } = await this.#open(socket));
    } catch (error) {
      const reason = toTunnelError(error);
      resetSocket(socket);
      if (reason.code !== 'ABORTED') this.#options.onError(reason);
      return;
    }
    const onClosed = this.#options.track(channel, peer, () => remoteAddress(socket));
    const lanes = this.#options.lanes?.();
    const pace = lanes && new Pace(lanes);
    channel.start(
      join(socket, channel, {
        pace,
        onClosed: (error) => {
          if (error && error.code !== 'RESET') this.#options.onError(error);
          onClosed(error);
        },
      }),
    );
    if (socket.destroyed) {
      channel.abort(new TunnelError('RESET', 'the local connection was closed'));
      return;
    }
    socket.off('error', onEarlyError);
    readFrom(socket, channel, pace);
    socket.resume();
  }

  /** On the session there is, or the next one. */
  async #open(socket: Socket): Promise<{ channel: Channel; peer: PeerSession }> {
    const { service, channels } = this.#options;
    for (;;) {
      const peer = await this.#hold(socket);
      try {
        const channel = await channels.open(peer, (channelId) =>
          encodeOpen({ channelId, epoch: 0, service, limit: INITIAL_WINDOW_BYTES }),
        );
        return { channel, peer };
      } catch (error) {
        if (toTunnelError(error).code !== 'SESSION_LOST') throw error;
        // The session has died and the link does not know yet: let its event come.
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
  }

  /** How many connections wait for a session. */
  get held(): number {
    return this.#held.size;
  }

  async #hold(socket: Socket): Promise<PeerSession> {
    if (this.#held.size >= MAX_HELD) {
      throw new TunnelError(
        'LIMIT',
        `${this.local} holds ${MAX_HELD} connections already while there is no session`,
      );
    }
    this.#held.add(socket);
    try {
      return await this.#options.session(this.#ending.signal);
    } finally {
      this.#held.delete(socket);
    }
  }
}

/** A socket file that nobody listens behind is left from a process that died; anything else is left for `listen` to refuse. */
async function removeStaleSocket(path: string): Promise<void> {
  const stat = await lstat(path).catch(() => undefined);
  if (!stat?.isSocket()) return;
  if (await isAbandonedSocket(path)) await unlink(path).catch(() => undefined);
}

/** Undefined for unix sockets, and for one that is closed already. */
function remoteAddress({ remoteAddress: host, remotePort: port }: Socket): string | undefined {
  return host === undefined || port === undefined ? undefined : formatHostPort(host, port);
}

const RAISE_LIMIT = 'raise the limit of open files before it is started: ulimit -n 65536';

function boundAddress(server: Server, local: Local): string {
  if (local.kind === 'unix') return formatLocal(local);
  const { address, port } = server.address() as AddressInfo;
  return formatHostPort(address, port);
}

function shortage(local: string, skipped: number): TunnelError {
  const limit = descriptorLimit();
  const all = limit === undefined ? 'all file descriptors' : `the ${limit} file descriptors`;
  const more = skipped > 0 ? `, and ${skipped} before it` : '';
  return new TunnelError(
    'OS_RESOURCE',
    `${local} reset a new connection${more}: ${all} this process may have are in use`,
    { hint: RAISE_LIMIT },
  );
}

function acceptError(local: string, error: Error): TunnelError {
  return new TunnelError(
    'OS_RESOURCE',
    `${local} could not take a connection (${systemCode(error) ?? error.message})`,
    {
      hint: RAISE_LIMIT,
      cause: error,
    },
  );
}
