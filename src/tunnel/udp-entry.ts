/** The near end of UDP: one local socket, and a flow for every address that sends to it. */
import type { Socket } from 'node:dgram';
import { systemCode, TunnelError } from '../error.js';
import { Flow, type FlowOptions } from './flow.js';
import { listenError } from './listen-error.js';
import { formatHostPort, type Local } from './spec.js';
import { systemDrops } from './system-drops.js';
import { askForBuffers, bindSocket, closeSocket, isCongested, resolveHost, udpSocket } from './udp-socket.js';

/** `new`: to be asked for. `opening`: asked for, packets go already. `refused`: packets are dropped until `retryAt`. */
type FlowState = 'new' | 'opening' | 'open' | 'refused';

export interface EntryFlowOptions extends FlowOptions {
  readonly entry: UdpEntry;
  readonly address: string;
  readonly port: number;
}

/** Packets of a flow that waits for its turn to be asked for. */
const MAX_HELD = 16;

/** What one local address sends to one service. */
export class EntryFlow extends Flow {
  readonly entry: UdpEntry;
  readonly key: string;
  readonly #address: string;
  readonly #port: number;
  readonly #held: Buffer[] = [];
  state: FlowState = 'new';
  /** The peer has had it: a session that comes later goes on with it, and makes no new one. */
  wasOpen = false;
  retryAt = 0;
  refusal: 'denied' | 'refused' = 'refused';

  constructor(options: EntryFlowOptions) {
    super(options);
    this.entry = options.entry;
    this.#address = options.address;
    this.#port = options.port;
    this.key = sourceKey(options.address, options.port);
  }

  /** Keeps a packet until the flow has been asked for. */
  hold(payload: Buffer): void {
    if (this.#held.length < MAX_HELD) this.#held.push(payload);
    else this.counters.drop('queue-full');
  }

  takeHeld(): readonly Buffer[] {
    return this.#held.splice(0);
  }

  override release(): void {
    super.release();
    this.counters.drop('queue-full', this.takeHeld().length);
  }

  /** To the application. */
  deliver(payload: Buffer): void {
    this.entry.send(this, payload, this.#port, this.#address);
  }
}

export interface UdpEntryHandler {
  /** A packet from a local address. */
  packet(entry: UdpEntry, payload: Buffer, source: { readonly address: string; readonly port: number }): void;
  /** The socket cannot go on receiving for a reason worth telling. */
  failed(error: TunnelError): void;
  /** What the system gave, bytes. */
  buffers(bytes: number): void;
}

export class UdpEntry {
  readonly service: string;
  /** Where it listens, as bound: `127.0.0.1:5353`. */
  readonly local: string;
  readonly flows = new Map<string, EntryFlow>();
  readonly #socket: Socket;
  readonly #port: number;

  private constructor(socket: Socket, service: string, handler: UdpEntryHandler) {
    const { address, port } = socket.address();
    this.#socket = socket;
    this.#port = port;
    this.service = service;
    this.local = formatHostPort(address, port);
    socket.on('message', (payload, source) => handler.packet(this, payload, source));
    // Some systems report here that an application is gone; the socket goes on.
    socket.on('error', (error) => {
      if (!SOFT.has(systemCode(error) ?? '')) handler.failed(receiveError(this.local, error));
    });
    handler.buffers(askForBuffers(socket));
  }

  /** Throws PORT_IN_USE or CANNOT_BIND, naming the address. */
  static async listen(local: Local, service: string, handler: UdpEntryHandler): Promise<UdpEntry> {
    if (local.kind === 'unix') throw new TunnelError('USAGE', 'a unix socket carries no UDP');
    let socket: Socket | undefined;
    try {
      const [host] = await resolveHost(local.host);
      if (!host) throw new Error(`no address for ${local.host}`);
      socket = udpSocket(host.family);
      await bindSocket(socket, local.port, host.address);
      return new UdpEntry(socket, service, handler);
    } catch (error) {
      if (socket) closeSocket(socket);
      throw listenError(local, error as Error, 'udp');
    }
  }

  send(flow: Flow, payload: Buffer, port: number, address: string): void {
    const { counters } = flow;
    if (isCongested(this.#socket)) {
      counters.drop('queue-full');
      return;
    }
    this.#socket.send(payload, port, address, (error) => {
      if (error) {
        counters.drop('socket');
        return;
      }
      counters.packetsIn += 1;
      counters.bytesIn += payload.length;
    });
  }

  /** Packets that came faster than they were read, up to now. */
  get systemDrops(): number {
    return systemDrops(this.#port);
  }

  close(): void {
    closeSocket(this.#socket);
  }
}

export function sourceKey(address: string, port: number): string {
  return `${address} ${port}`;
}

/** Answers to what was sent before, not faults of the socket. */
const SOFT: ReadonlySet<string> = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'EMSGSIZE',
]);

function receiveError(local: string, error: Error): TunnelError {
  const reason = systemCode(error) ?? error.message;
  return new TunnelError('OS_RESOURCE', `${local} could not receive (${reason})`, { cause: error });
}
