/**
 * Two hosts with a long line between them (`wan-link.js`), made without netem: each has a VXLAN device
 * whose packets, UDP in the kernel's eyes, go to a program in the middle. Needs root and `ip`.
 *
 *   near 10.81.0.1 ══ vxlan ══ program ══ vxlan ══ 10.81.0.2 far
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface, type Interface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { Host } from './netns.js';
import { execute, PREFIX, removeNamespace, removeStale, watch } from './netns-cleanup.js';

const PROGRAM = fileURLToPath(new URL('./wan-link.js', import.meta.url));

export interface LineProperties {
  /** Each way. */
  readonly bytesPerSecond: number;
  /** One way. */
  readonly delayMs: number;
  readonly lossRatio: number;
  /** What waits at most; what comes beyond that is dropped. */
  readonly queueBytes: number;
}

/** Packets since the line was last changed. */
export interface LineCounts {
  readonly carried: number;
  readonly lost: number;
  /** At a full queue. */
  readonly dropped: number;
  /** How late the worst one left: how well the machine kept up. */
  readonly lateMs: number;
}

export class Wan {
  static readonly NEAR = '10.81.0.1';
  static readonly FAR = '10.81.0.2';
  readonly near: Host;
  readonly far: Host;
  readonly #middle: Host;
  #program: ChildProcess | undefined;
  #lines: Interface | undefined;
  readonly #waiting: ((line: string) => void)[] = [];

  private constructor(id: string) {
    this.near = new Host(`${id}-near`, '10.80.1');
    this.far = new Host(`${id}-far`, '10.80.2');
    this.#middle = new Host(`${id}-mid`, '10.80.0');
  }

  static async create(): Promise<Wan> {
    removeStale();
    watch();
    wans += 1;
    const wan = new Wan(`${PREFIX}${process.pid}-w${wans}`);
    try {
      await wan.#setUp();
    } catch (error) {
      await wan.dispose();
      throw error;
    }
    return wan;
  }

  /** Changes the line; answers what it carried before. */
  async set(properties: LineProperties): Promise<LineCounts> {
    const answer = this.#nextLine();
    this.#program?.stdin?.write(`${JSON.stringify(properties)}\n`);
    return JSON.parse(await answer) as LineCounts;
  }

  /** Idempotent. */
  async dispose(): Promise<void> {
    this.#lines?.close();
    this.#program?.kill('SIGKILL');
    await Promise.all([this.near, this.far].map((host) => host.dispose()));
    for (const { namespace } of [this.near, this.far, this.#middle]) removeNamespace(namespace);
  }

  async #setUp(): Promise<void> {
    const middle = this.#middle;
    await addNamespace(middle);
    const near = { host: this.near, inner: Wan.NEAR, port: 'near', hardware: '02:00:00:81:00:01' };
    const far = { host: this.far, inner: Wan.FAR, port: 'far', hardware: '02:00:00:81:00:02' };
    for (const [{ host, inner, port, hardware }, other] of [
      [near, far],
      [far, near],
    ] as const) {
      await addNamespace(host);
      await execute('ip', [
        ...['-n', host.namespace, 'link', 'add', 'name', 'net0', 'type', 'veth'],
        ...['peer', 'name', port, 'netns', middle.namespace],
      ]);
      await middle.run('ip', ['addr', 'add', `${host.gateway}/24`, 'dev', port]);
      await middle.run('ip', ['link', 'set', port, 'up']);
      await host.joinNetwork();
      await host.run('ip', [
        ...['link', 'add', 'wan0', 'address', hardware],
        ...['type', 'vxlan', 'id', '7', 'dev', 'net0', 'dstport', '4789'],
        ...['local', host.address, 'remote', host.gateway, 'nolearning'],
      ]);
      // Packets as a real line carries them: none that the kernel has joined to a larger one.
      await host.run('ip', ['link', 'set', 'wan0', 'gso_max_segs', '1', 'up']);
      await host.run('ip', ['addr', 'add', `${inner}/24`, 'dev', 'wan0']);
      // Known from the start: no packet waits for an answer to who has the address, or is lost with it.
      await host.run('ip', [
        ...['neigh', 'replace', other.inner, 'lladdr', other.hardware, 'dev', 'wan0', 'nud', 'permanent'],
      ]);
    }
    this.#program = spawn(
      'ip',
      [
        ...['netns', 'exec', middle.namespace, process.execPath, PROGRAM],
        ...[this.near.gateway, this.near.address, this.far.gateway, this.far.address],
      ],
      { stdio: ['pipe', 'pipe', 'inherit'] },
    );
    this.#lines = createInterface({ input: this.#program.stdout as NodeJS.ReadableStream });
    this.#lines.on('line', (text) => this.#waiting.shift()?.(text));
    await this.#nextLine();
  }

  #nextLine(): Promise<string> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }
}

let wans = 0;

async function addNamespace(host: Host): Promise<void> {
  await execute('ip', ['netns', 'add', host.namespace]);
  await host.run('sh', [
    '-c',
    'ip link set lo up; echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 || true',
  ]);
}
