/** Pebble, Let's Encrypt's certificate authority for tests, on a host of a test network. */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Host } from './netns.js';

const MODULE = 'github.com/letsencrypt/pebble/v2/cmd/pebble@v2.10.3';
const ACME_PORT = 14000;
const MANAGEMENT_PORT = 15000;

/** The program: one that is installed, else built by Go where that is there. Undefined for neither. */
export function findPebble(): string | undefined {
  const installed = spawnSync('sh', ['-c', 'command -v pebble'], { encoding: 'utf8' }).stdout.trim();
  if (installed !== '') return installed;
  const folder = join(tmpdir(), 'tunnel-test-pebble');
  const built = join(folder, 'pebble');
  if (existsSync(built)) return built;
  const env = { ...process.env, GOBIN: folder };
  const { status } = spawnSync('go', ['install', MODULE], { env, stdio: 'ignore', timeout: 240_000 });
  return status === 0 ? built : undefined;
}

export interface PebbleOptions {
  readonly program: string;
  readonly host: Host;
  /** Of the host, where it listens. */
  readonly address: string;
  /** For its files. */
  readonly folder: string;
}

/** It asks for challenges at port 443 of what /etc/hosts of its host says. */
export class Pebble {
  readonly directory: string;
  /** The certificate of its directory, to be trusted by who asks it. */
  readonly certificate: string;
  readonly #host: Host;
  readonly #roots: string;
  readonly #child: ChildProcess;

  private constructor({ host, address }: PebbleOptions, certificate: string, child: ChildProcess) {
    this.directory = `https://${address}:${ACME_PORT}/dir`;
    this.certificate = certificate;
    this.#roots = `https://${address}:${MANAGEMENT_PORT}/roots/0`;
    this.#host = host;
    this.#child = child;
  }

  static async start(options: PebbleOptions): Promise<Pebble> {
    const { program, host, address, folder } = options;
    const [certificate, privateKey, config] = ['pebble.pem', 'pebble.key', 'pebble.json'].map((name) =>
      join(folder, name),
    ) as [string, string, string];
    execFileSync(
      'openssl',
      [
        ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'],
        ...['-keyout', privateKey, '-out', certificate, '-days', '2', '-subj', '/CN=pebble.test'],
        ...['-addext', `subjectAltName=IP:${address}`, '-addext', 'basicConstraints=critical,CA:FALSE'],
      ],
      { stdio: 'ignore' },
    );
    const pebble = {
      listenAddress: `${address}:${ACME_PORT}`,
      managementListenAddress: `${address}:${MANAGEMENT_PORT}`,
      ...{ certificate, privateKey, httpPort: 80, tlsPort: 443 },
      profiles: { default: { description: 'for tests', validityPeriod: 86_400 } },
    };
    writeFileSync(config, JSON.stringify({ pebble }));
    const child = spawn('ip', ['netns', 'exec', host.namespace, program, '-config', config], {
      // Without them it dawdles, and refuses some requests, to see how clients take it.
      env: { ...process.env, PEBBLE_VA_NOSLEEP: '1', PEBBLE_WFE_NONCEREJECT: '0' },
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    for await (const line of createInterface({ input: child.stdout as NodeJS.ReadableStream })) {
      if (line.includes('ACME directory available')) break;
    }
    child.stdout?.resume();
    return new Pebble(options, certificate, child);
  }

  /** The certificate, PEM, that all it issues goes back to. */
  root(): Promise<string> {
    const script = `require('node:https').get('${this.#roots}', { ca: require('node:fs').readFileSync('${this.certificate}') },
      (answer) => answer.pipe(process.stdout));`;
    return this.#host.run(process.execPath, ['-e', script]);
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    this.#child.kill('SIGKILL');
    await once(this.#child, 'close');
  }
}
