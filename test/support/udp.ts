/** UDP sockets for tests, and a tunnel for UDP inside this process. */
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { type MemoryOptions, type MemoryPair, memorySessionPair } from '../../src/session/engines/memory.js';
import { acceptHandshake, dialHandshake } from '../../src/session/handshake.js';
import { Identity } from '../../src/session/identity.js';
import type { TunnelEvent } from '../../src/tunnel/events.js';
import type { Rates } from '../../src/tunnel/rates.js';
import type { Service } from '../../src/tunnel/spec.js';
import { UdpEntries } from '../../src/tunnel/udp-entries.js';
import { UdpExits } from '../../src/tunnel/udp-exits.js';
import { eventually } from './eventually.js';

export interface UdpPeer {
  readonly socket: Socket;
  readonly port: number;
  /** Everything it received, in order. */
  readonly received: Buffer[];
  /** Where that came from: ports, in order. */
  readonly sources: number[];
  send(payload: Uint8Array): Promise<void>;
  close(): void;
}

/** A bound socket. `connectTo`: only to and from that port on loopback. */
export async function udpPeer({
  connectTo,
  answer,
  address = '127.0.0.1',
}: {
  readonly connectTo?: number;
  readonly answer?: (payload: Buffer) => Uint8Array | undefined;
  readonly address?: string;
} = {}): Promise<UdpPeer> {
  const type = address.includes(':') ? 'udp6' : 'udp4';
  const socket = createSocket({ type, recvBufferSize: 4 << 20, sendBufferSize: 4 << 20 });
  const received: Buffer[] = [];
  const sources: number[] = [];
  socket.on('message', (payload, source) => {
    received.push(payload);
    sources.push(source.port);
    const reply = answer?.(payload);
    if (reply) socket.send(reply, source.port, source.address);
  });
  // What ICMP says of a target that is gone.
  socket.on('error', () => undefined);
  socket.bind(0, address);
  await once(socket, 'listening');
  if (connectTo !== undefined) {
    socket.connect(connectTo, address);
    await once(socket, 'connect');
  }
  return {
    socket,
    port: socket.address().port,
    received,
    sources,
    send: (payload) =>
      new Promise((resolve, reject) => socket.send(payload, (error) => (error ? reject(error) : resolve()))),
    close: () => socket.close(),
  };
}

export const echo = (payload: Buffer) => payload;

type EventName = TunnelEvent['event'];
type EventOf<N extends EventName> = Extract<TunnelEvent, { event: N }>;

/** Events of one side, found by name. */
export class Reported {
  readonly events: TunnelEvent[] = [];
  readonly report = (event: TunnelEvent) => {
    this.events.push(event);
  };

  all<N extends EventName>(name: N): EventOf<N>[] {
    return this.events.filter((event): event is EventOf<N> => event.event === name);
  }

  async one<N extends EventName>(name: N): Promise<EventOf<N>> {
    if (!(await eventually(() => this.all(name).length > 0))) throw new Error(`no event ${name}`);
    return this.all(name)[0] as EventOf<N>;
  }
}

export interface UdpTunnelOptions {
  readonly services: readonly Service[];
  readonly memory?: MemoryOptions;
  readonly idleMs?: number;
  readonly maxFlows?: number;
  readonly authorise?: (name: string) => Service | undefined;
  readonly nearRates?: Rates;
}

/** Entries and exits joined by sessions in memory, which can be cut and made again. */
export class UdpTunnel {
  readonly near = new Reported();
  readonly far = new Reported();
  readonly errors: string[] = [];
  readonly entries: UdpEntries;
  exits: UdpExits;
  readonly #options: UdpTunnelOptions;
  readonly #client = Identity.generate();
  readonly #server = Identity.generate();
  pair: MemoryPair | undefined;
  #ids = 0;

  constructor(options: UdpTunnelOptions) {
    this.#options = options;
    this.entries = new UdpEntries({
      peer: this.#server.nodeId,
      report: this.near.report,
      flows: { begin: () => ++this.#ids, end: () => undefined },
      onError: (error) => this.errors.push(error.code),
      lanes: (service) => options.nearRates?.lanes(this.#server.nodeId, service),
      ...(options.idleMs === undefined ? {} : { idleMs: options.idleMs }),
      ...(options.maxFlows === undefined ? {} : { maxFlows: options.maxFlows }),
    });
    this.exits = this.#makeExits();
  }

  /** A session, as after each dial. `instanceId` of the far process, where it is to be another one. */
  async connect(memory: MemoryOptions = this.#options.memory ?? {}, instanceId?: string): Promise<void> {
    const ids = [Identity.generate().nodeId, this.#server.nodeId] as const;
    this.pair = memorySessionPair({ ...memory, ids });
    const authorise =
      this.#options.authorise ?? ((name) => this.#options.services.find((service) => service.name === name));
    let attach: ((peer: Awaited<ReturnType<typeof acceptHandshake>>['peer']) => void) | undefined;
    const [near, far] = await Promise.all([
      dialHandshake(this.pair.dialler, {
        identity: this.#client,
        tokens: [],
        dispatcher: this.entries.dispatcher,
      }),
      acceptHandshake(this.pair.acceptor, {
        identity: this.#server,
        admit: () => ({}),
        services: () => [],
        dispatcher: (_grant, peer, { instanceId }) => {
          const connection = this.exits.connection({ peer, instanceId }, authorise);
          attach = (peer) => connection.attach(peer);
          return connection.dispatcher;
        },
      }),
    ]);
    attach?.(far.peer);
    this.entries.session(
      instanceId === undefined ? near : { ...near, remote: { ...near.remote, instanceId } },
    );
  }

  /** The far process is another one from now on: it knows no flow. */
  restartFar(): void {
    this.exits.close();
    this.exits = this.#makeExits();
  }

  async close(): Promise<void> {
    await this.entries.close();
    this.exits.close();
    this.pair?.dialler.close();
    this.pair?.acceptor.close();
  }

  #makeExits(): UdpExits {
    const { maxFlows } = this.#options;
    return new UdpExits({
      report: this.far.report,
      flows: { begin: () => ++this.#ids, end: () => undefined },
      ...(maxFlows === undefined ? {} : { maxFlows }),
    });
  }
}

export function udpService(name: string, port: number, host = '127.0.0.1'): Service {
  return { name, target: { kind: 'socket', protocol: 'udp', host, port } };
}
