/**
 * Networks of a test's own: two hosts with a router between them, each a network namespace, joined by
 * veth links. Needs root, `ip` and `iptables`. Names carry the pid of the test process; a watchdog
 * removes them when that process dies in any way, and a start removes what dead ones left all the same.
 *
 *   near 10.77.2.2 ── 10.77.2.1 router 10.77.1.1 ── 10.77.1.2 far
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import type { Server, Socket } from 'node:net';
import { join } from 'node:path';
import { eventually } from './eventually.js';
import { execute, filesOf, PREFIX, removeNamespace, removeStale, watch } from './netns-cleanup.js';
import { Agent } from './netns-sockets.js';

const DEVICE = 'net0';

/** Why there can be no namespaces here; undefined where there can. */
export const namespacesMissing = findMissing();

function findMissing(): string | undefined {
  if (process.platform !== 'linux') return 'network namespaces are Linux only';
  if (process.getuid?.() !== 0) return 'network namespaces need root';
  if (spawnSync('ip', ['-Version']).status !== 0) return 'there is no `ip` program';
  if (spawnSync('iptables', ['--version']).status !== 0) return 'there is no `iptables` program';
  const probe = `${PREFIX}${process.pid}-probe`;
  if (spawnSync('ip', ['netns', 'add', probe]).status !== 0) return 'namespaces cannot be made here';
  spawnSync('ip', ['netns', 'del', probe]);
  return undefined;
}

/** One machine of a test network. */
export class Host {
  readonly namespace: string;
  readonly #subnet: string;
  #lastByte = 2;
  #agent: Agent | undefined;

  constructor(namespace: string, subnet: string) {
    this.namespace = namespace;
    this.#subnet = subnet;
  }

  get address(): string {
    return `${this.#subnet}.${this.#lastByte}`;
  }

  get gateway(): string {
    return `${this.#subnet}.1`;
  }

  /** Runs a program in the namespace to its end; answers its stdout. */
  run(program: string, args: readonly string[], input?: string): Promise<string> {
    return execute('ip', ['netns', 'exec', this.namespace, program, ...args], input);
  }

  /** Starts a program in the namespace; its pid is the program's own. */
  spawn(program: string, args: readonly string[]): ChildProcess {
    return spawn('ip', ['netns', 'exec', this.namespace, program, ...args], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
  }

  /** A TCP connection to a loopback port of this host, half-open allowed. */
  dial(port: number): Promise<Socket> {
    return this.#startAgent().dial(port);
  }

  /** A listener on a free loopback port of this host. */
  async listen(onConnection: (socket: Socket) => void): Promise<HostListener> {
    const { server, port } = await this.#startAgent().listen();
    return new HostListener(server, port, onConnection);
  }

  /** What its programs find as /etc/hosts, of those started from now on. */
  names(hosts: string): void {
    const folder = filesOf(this.namespace);
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, 'hosts'), hosts);
  }

  async joinNetwork(): Promise<void> {
    await this.run('ip', ['addr', 'add', `${this.address}/24`, 'dev', DEVICE]);
    await this.run('ip', ['link', 'set', DEVICE, 'up']);
    await this.run('ip', ['route', 'replace', 'default', 'via', this.gateway]);
  }

  /** The kernel says up to a second late that a new device has its other end; till then, no program counts its address. */
  async whenUp(): Promise<void> {
    const isUp = async () => (await this.run('cat', [`/sys/class/net/${DEVICE}/operstate`])).trim() === 'up';
    if (!(await eventually(isUp, 5_000, 50)))
      throw new Error(`${DEVICE} of ${this.namespace} does not come up`);
  }

  /** Loses link, address and route: a machine without any network. */
  async leaveNetwork(): Promise<void> {
    await this.run('ip', ['addr', 'flush', 'dev', DEVICE]);
    await this.run('ip', ['link', 'set', DEVICE, 'down']);
  }

  /** A cable pulled out: the machine itself knows. Its address stays. */
  async linkDown(): Promise<void> {
    await this.run('ip', ['link', 'set', DEVICE, 'down']);
  }

  async linkUp(): Promise<void> {
    await this.run('ip', ['link', 'set', DEVICE, 'up']);
    await this.run('ip', ['route', 'replace', 'default', 'via', this.gateway]);
  }

  /** Another address in the same subnet, as after a change of Wi-Fi: the old one is gone first. */
  async changeAddress(): Promise<void> {
    this.#lastByte = this.#lastByte >= 250 ? 2 : this.#lastByte + 1;
    await this.run('ip', ['addr', 'flush', 'dev', DEVICE]);
    await this.run('ip', ['addr', 'add', `${this.address}/24`, 'dev', DEVICE]);
    await this.run('ip', ['route', 'replace', 'default', 'via', this.gateway]);
  }

  async dispose(): Promise<void> {
    await this.#agent?.dispose();
    this.#agent = undefined;
  }

  #startAgent(): Agent {
    this.#agent ??= new Agent(this.namespace);
    return this.#agent;
  }
}

export class HostListener {
  readonly port: number;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  constructor(server: Server, port: number, onConnection: (socket: Socket) => void) {
    this.port = port;
    this.#server = server;
    // The constructor's option, which a server that came over IPC was not made with.
    (server as Server & { allowHalfOpen: boolean }).allowHalfOpen = true;
    server.on('connection', (socket) => {
      this.#sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => this.#sockets.delete(socket));
      onConnection(socket);
    });
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    if (!this.#server.listening) return;
    this.#server.close();
    await once(this.#server, 'close');
  }
}

export class Network {
  /** Where the application is: the forward's side. */
  readonly near: Host;
  /** Where the service is: the expose's side. */
  readonly far: Host;
  readonly router: Host;
  #cut = false;
  #lossPercent = 0;

  private constructor(id: string) {
    this.near = new Host(`${id}-near`, '10.77.2');
    this.far = new Host(`${id}-far`, '10.77.1');
    this.router = new Host(`${id}-router`, '10.77.0');
  }

  /** Two hosts that reach each other; `joined: false` leaves both without any network. */
  static async create(options: { readonly joined?: boolean } = {}): Promise<Network> {
    removeStale();
    watch();
    networks += 1;
    const network = new Network(`${PREFIX}${process.pid}-${networks}`);
    try {
      await network.#setUp(options.joined !== false);
    } catch (error) {
      await network.dispose();
      throw error;
    }
    return network;
  }

  async #setUp(joined: boolean): Promise<void> {
    const { near, far, router } = this;
    for (const { namespace } of [near, far, router]) {
      await execute('ip', ['netns', 'add', namespace]);
      await execute('ip', ['-n', namespace, 'link', 'set', 'lo', 'up']);
    }
    await router.run('sh', ['-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward']);
    for (const [host, port] of [
      [near, 'near'],
      [far, 'far'],
    ] as const) {
      // One address family, so that no other path is there but the one that is cut.
      await host.run('sh', ['-c', 'echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 || true']);
      await execute('ip', [
        ...['-n', host.namespace, 'link', 'add', 'name', DEVICE, 'type', 'veth'],
        ...['peer', 'name', port, 'netns', router.namespace],
      ]);
      await router.run('ip', ['addr', 'add', `${host.gateway}/24`, 'dev', port]);
      await router.run('ip', ['link', 'set', port, 'up']);
      if (joined) await host.joinNetwork();
    }
    if (joined) await Promise.all([near, far].map((host) => host.whenUp()));
  }

  /** Silently: every packet between the two hosts disappears, and nobody is told. */
  async cut(): Promise<void> {
    this.#cut = true;
    await this.#filter();
  }

  /** Undoes `cut`; loss stays as it was set. */
  async mend(): Promise<void> {
    this.#cut = false;
    await this.#filter();
  }

  /** Drops that share of the packets between the two hosts, at random; 0 ends it. */
  async lose(percent: number): Promise<void> {
    this.#lossPercent = percent;
    await this.#filter();
  }

  /** In one step, so that not a packet slips through between two rules. */
  async #filter(): Promise<void> {
    const rules = ['*filter', ':FORWARD ACCEPT [0:0]'];
    if (this.#cut) rules.push('-A FORWARD -j DROP');
    if (this.#lossPercent > 0) {
      const probability = (this.#lossPercent / 100).toFixed(4);
      rules.push(`-A FORWARD -m statistic --mode random --probability ${probability} -j DROP`);
    }
    await this.router.run('iptables-restore', ['-w'], `${rules.join('\n')}\nCOMMIT\n`);
  }

  /** Removes everything, and ends what still runs in there. Idempotent. */
  async dispose(): Promise<void> {
    await Promise.all([this.near, this.far, this.router].map((host) => host.dispose()));
    for (const { namespace } of [this.near, this.far, this.router]) removeNamespace(namespace);
  }
}

let networks = 0;
