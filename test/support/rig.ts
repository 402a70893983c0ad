/** A network with a tunnel across it: `expose` on the far host, `forward` on the near one, a target behind. */
import type { Socket } from 'node:net';
import { type HostListener, Network } from './netns.js';
import { Party } from './party.js';
import { type JsonEvent, Machine, type MachineOptions, type TunnelProcess } from './tunnel-process.js';

/** Each connection says first which one it is. */
const ID_BYTES = 4;
const SERVICE = 'svc';

export interface RigOptions {
  readonly seed?: string;
  readonly far?: Partial<MachineOptions>;
  readonly near?: Partial<MachineOptions>;
  readonly exposeFlags?: readonly string[];
  readonly forwardFlags?: readonly string[];
  /** Further targets to expose, as `name=port`; each is forwarded too. */
  readonly targets?: (network: Network) => Promise<readonly string[]>;
  /** Rewrites the ticket, to lead the forward another way. */
  readonly ticket?: (ticket: string, network: Network) => Promise<string>;
}

/** For networks that drop UDP: TCP all the way. */
export const OVER_WEBTRANSPORT: RigOptions = {
  exposeFlags: ['--webtransport', '10.77.1.2:4433'],
  forwardFlags: ['--via', 'webtransport'],
};

/** The two applications of one connection. */
export interface Pair {
  readonly id: number;
  readonly near: Party;
  /** Once its connection has reached the target. */
  readonly far: Promise<Party>;
}

export class Rig {
  readonly network: Network;
  readonly far: Machine;
  readonly near: Machine;
  readonly ticket: string;
  readonly target: HostListener;
  expose: TunnelProcess;
  readonly forward: TunnelProcess;
  /** Where the forward listens on the near host. */
  readonly port: number;
  readonly #seed: string;
  readonly #exposeArgs: readonly string[];
  readonly #arrivals: Arrivals;
  #lastId = 0;

  private constructor(parts: {
    network: Network;
    machines: readonly [far: Machine, near: Machine];
    processes: readonly [expose: TunnelProcess, forward: TunnelProcess];
    exposeArgs: readonly string[];
    ticket: string;
    target: HostListener;
    port: number;
    seed: string;
    arrivals: Arrivals;
  }) {
    this.network = parts.network;
    [this.far, this.near] = parts.machines;
    [this.expose, this.forward] = parts.processes;
    this.#exposeArgs = parts.exposeArgs;
    this.ticket = parts.ticket;
    this.target = parts.target;
    this.port = parts.port;
    this.#seed = parts.seed;
    this.#arrivals = parts.arrivals;
  }

  /** Everything up and connected. */
  static async start(options: RigOptions = {}): Promise<Rig> {
    const network = await Network.create();
    const common = { bind: 'any', eventTimeoutMs: 60_000 };
    const far = new Machine({ ...common, namespace: network.far.namespace, ...options.far });
    const near = new Machine({ ...common, namespace: network.near.namespace, ...options.near });
    try {
      const arrivals = new Arrivals();
      const target = await network.far.listen((socket) => arrivals.arrived(socket));
      const targets = [`${SERVICE}=${target.port}`, ...((await options.targets?.(network)) ?? [])];
      const exposeArgs = ['expose', ...targets, ...(options.exposeFlags ?? [])];
      const expose = far.start(...exposeArgs);
      const printed = (await expose.event('ready')).ticket as string;
      const ticket = (await options.ticket?.(printed, network)) ?? printed;
      const forward = near.start(
        ...['forward', ticket, ...targets.map((one) => `0:${one.split('=')[0]}`)],
        ...(options.forwardFlags ?? []),
      );
      const port = await localPort(forward, SERVICE);
      await forward.event('session', { state: 'connected' });
      return new Rig({
        network,
        machines: [far, near],
        processes: [expose, forward],
        exposeArgs,
        ticket,
        target,
        port,
        seed: options.seed ?? 'rig',
        arrivals,
      });
    } catch (error) {
      await disposeAll([near, far], network);
      throw error;
    }
  }

  /** Where the forward listens for one of the further targets. */
  portOf(service: string): Promise<number> {
    return localPort(this.forward, service);
  }

  /** A connection of the near host through the tunnel to the target. */
  async connect(): Promise<Pair> {
    this.#lastId += 1;
    const id = this.#lastId;
    const [up, down] = [`${this.#seed}/${id}/up`, `${this.#seed}/${id}/down`];
    const far = this.#arrivals.wait(id).then((socket) => new Party(socket, down, up));
    const socket = await this.network.near.dial(this.port);
    const label = Buffer.alloc(ID_BYTES);
    label.writeUInt32BE(id);
    socket.write(label);
    return { id, near: new Party(socket, up, down), far };
  }

  /** The target's side of a connection; fails when it is not there in time. */
  async arrival({ near, far }: Pair, timeoutMs: number): Promise<Party> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(
        () => reject(new Error(`did not arrive within ${timeoutMs} ms: ${near}`)),
        timeoutMs,
      );
    });
    try {
      return await Promise.race([far, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** As `connect`, once both sides are there. */
  async connected(timeoutMs = 60_000): Promise<{ near: Party; far: Party }> {
    const pair = await this.connect();
    return { near: pair.near, far: await this.arrival(pair, timeoutMs) };
  }

  /** The expose process dies on the spot. */
  async killExpose(): Promise<void> {
    this.expose.kill('SIGKILL');
    await this.expose.exited;
  }

  /** Starts it again with the same files, so under the same key, and on the same port unless the flags say another. */
  async restartExpose(...flags: string[]): Promise<void> {
    this.expose = this.far.start(...this.#exposeArgs, ...flags);
    await this.expose.event('ready');
  }

  /** The forward's next event of that name from now on: take `mark` before what causes it. */
  get mark(): number {
    return this.forward.events.length;
  }

  session(state: string, from: number): Promise<JsonEvent> {
    return this.forward.event('session', { state }, from);
  }

  async dispose(): Promise<void> {
    await disposeAll([this.near, this.far], this.network);
  }
}

async function localPort(forward: TunnelProcess, service: string): Promise<number> {
  const { local } = await forward.event('listening', { service });
  return Number(String(local).replace(/^.*:/, ''));
}

async function disposeAll(machines: readonly Machine[], network: Network): Promise<void> {
  for (const machine of machines) await machine.dispose();
  await network.dispose();
}

/** Brings the sockets that reach the target together with the connections they belong to. */
class Arrivals {
  readonly #waiting = new Map<number, (socket: Socket) => void>();

  wait(id: number): Promise<Socket> {
    return new Promise((resolve) => this.#waiting.set(id, resolve));
  }

  arrived(socket: Socket): void {
    const look = () => {
      const label = socket.read(ID_BYTES) as Buffer | null;
      if (label === null) return;
      socket.off('readable', look);
      const id = label.readUInt32BE();
      const resolve = this.#waiting.get(id);
      this.#waiting.delete(id);
      resolve?.(socket);
    };
    socket.on('readable', look);
  }
}
