/** The far end of a UDP flow: a socket of its own towards the target, which outlives sessions. */
import type { Socket } from 'node:dgram';
import { systemCode, TunnelError, type WireCode } from '../error.js';
import type { DatagramSender } from './datagram-sender.js';
import { Flow, type FlowOptions } from './flow.js';
import { formatHostPort, type Service } from './spec.js';
import { systemDrops } from './system-drops.js';
import {
  askForBuffers,
  closeSocket,
  connectSocket,
  type HostAddress,
  isCongested,
  resolveHost,
  udpSocket,
} from './udp-socket.js';

/** Packets held while the target's name is looked up. */
const MAX_WAITING = 1024;
const MAX_WAITING_BYTES = 1024 * 1024;

export interface ExitFlowOptions extends FlowOptions {
  readonly target: Service;
  /** Looks a host up; the system's resolver unless given. */
  readonly resolve?: (host: string) => Promise<readonly HostAddress[]>;
  /** What the system gave, bytes. */
  onBuffers(bytes: number): void;
}

export class ExitFlow extends Flow {
  /** Where answers go: the session on which the flow was opened last. Undefined while that is gone. */
  sender: DatagramSender | undefined;
  readonly #options: ExitFlowOptions;
  #socket: Socket | undefined;
  #waiting: Buffer[] | undefined = [];
  #waitingBytes = 0;
  /** Those not tried yet, in the resolver's order. */
  #addresses: HostAddress[] = [];
  #answered = false;
  #ended = false;

  constructor(options: ExitFlowOptions) {
    super(options);
    this.#options = options;
  }

  /** Throws TARGET_UNRESOLVED, TARGET_UNREACHABLE or LIMIT. */
  async connect(): Promise<void> {
    const { name, target } = this.#options.target;
    if (target.kind === 'unix')
      throw new TunnelError('TARGET_UNREACHABLE', `service '${name}' has no UDP target`);
    const resolve = this.#options.resolve ?? resolveHost;
    try {
      this.#addresses = [...(await resolve(target.host))];
      await this.#connectNext(target.port);
    } catch (error) {
      this.end();
      throw connectError(this.#options.target, error as Error);
    }
  }

  /** To the target. */
  deliver(payload: Buffer): void {
    if (this.#waiting) {
      this.#hold(payload, this.#waiting);
      return;
    }
    const socket = this.#socket;
    if (!socket || isCongested(socket)) this.counters.drop('queue-full');
    else this.#send(socket, payload, true);
  }

  /** Closes the socket and drops what waits. Idempotent. */
  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.release();
    if (this.#waiting) this.counters.drop('refused', this.#waiting.length);
    this.#waiting = undefined;
    if (this.#socket) {
      this.counters.drop('receive-buffer', systemDrops(this.#socket.address().port));
      closeSocket(this.#socket);
    }
    this.#socket = undefined;
  }

  async #connectNext(port: number): Promise<void> {
    const next = this.#addresses.shift();
    if (!next) throw new Error('it has no address');
    const socket = udpSocket(next.family);
    try {
      // Bound by connecting, to the address the route gives.
      await connectSocket(socket, port, next.address);
    } catch (error) {
      closeSocket(socket);
      if (this.#addresses.length === 0) throw error;
      return this.#connectNext(port);
    }
    if (this.#ended) {
      closeSocket(socket);
      return;
    }
    this.#options.onBuffers(askForBuffers(socket));
    socket.on('message', (payload) => this.#onAnswer(payload));
    // ICMP: the target may come up a moment later, and a packet may always be lost.
    socket.on('error', (error) => this.#onRefused(socket, error, port));
    this.#socket = socket;
    const waiting = this.#waiting ?? [];
    this.#waiting = undefined;
    this.#waitingBytes = 0;
    for (const payload of waiting) this.#send(socket, payload, true);
  }

  #hold(payload: Buffer, waiting: Buffer[]): void {
    if (waiting.length >= MAX_WAITING || this.#waitingBytes + payload.length > MAX_WAITING_BYTES) {
      this.counters.drop('queue-full');
      return;
    }
    this.#waitingBytes += payload.length;
    waiting.push(payload);
  }

  #send(socket: Socket, payload: Buffer, again: boolean): void {
    socket.send(payload, (error) => {
      if (!error) {
        this.counters.packetsIn += 1;
        this.counters.bytesIn += payload.length;
        return;
      }
      // The system reports what ICMP said of an earlier packet here, and did not send this one.
      if (again && systemCode(error) === 'ECONNREFUSED' && this.#socket === socket) {
        this.#send(socket, payload, false);
      } else this.counters.drop('socket');
    });
  }

  #onAnswer(payload: Buffer): void {
    this.#answered = true;
    const { sender } = this;
    if (!sender) {
      // Without a path it does not keep the flow alive: its opener may be gone for good.
      this.counters.drop('no-path');
      return;
    }
    this.lastActiveAt = performance.now();
    if (this.mayPass('out', payload.length)) sender.send(this, payload);
  }

  /** `localhost` may be served on either family only: while nobody has answered, the next address is tried. */
  #onRefused(socket: Socket, error: Error, port: number): void {
    if (systemCode(error) !== 'ECONNREFUSED' || this.#answered || this.#socket !== socket) return;
    if (this.#addresses.length === 0) return;
    closeSocket(socket);
    this.#socket = undefined;
    this.#waiting = [];
    this.#connectNext(port).catch(() => this.end());
  }
}

const CODES: Readonly<Record<string, WireCode>> = {
  ENOTFOUND: 'TARGET_UNRESOLVED',
  EAI_AGAIN: 'TARGET_UNRESOLVED',
  EMFILE: 'LIMIT',
  ENFILE: 'LIMIT',
};

const WORDS: Partial<Record<WireCode, string>> = {
  TARGET_UNRESOLVED: 'has a host name that does not resolve',
  TARGET_UNREACHABLE: 'cannot be reached',
  LIMIT: 'got no socket: this process has no file descriptor left',
};

function connectError({ name, target }: Service, error: Error): TunnelError {
  const system = systemCode(error);
  const code = CODES[system ?? ''] ?? 'TARGET_UNREACHABLE';
  const where = target.kind === 'unix' ? target.path : formatHostPort(target.host, target.port);
  return new TunnelError(
    code,
    `UDP target ${where} of service '${name}' ${WORDS[code]} (${system ?? error.message})`,
    {
      hint: code === 'LIMIT' ? 'raise the limit: ulimit -n' : `check the address ${where}`,
      cause: error,
    },
  );
}
