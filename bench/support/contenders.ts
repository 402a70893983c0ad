/** The programs compared: each as an entry and an exit process on loopback. */
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readFileSync,
  rmdirSync,
  writeFileSync,
} from 'node:fs';
import { homedir, userInfo } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  freePort,
  Helper,
  type Logged,
  onExit,
  run,
  scratchPath,
  start,
  waitForListener,
} from './processes.js';

/** A contender that runs, towards one target port. */
export interface Running {
  /** Connect here to reach the target. */
  readonly port: number;
  /** Entry first, then exit; a relay has one. */
  readonly pids: readonly number[];
  /** Throws when one of its processes has ended. */
  check(): void;
  stop(): Promise<void>;
}

export interface Contender {
  readonly name: string;
  start(targetPort: number): Promise<Running>;
}

export const TUNNEL = fileURLToPath(new URL('../../bin/run.js', import.meta.url));
const LOCAL_ONLY = ['--no-relay', '--bind', '127.0.0.1', '--json'];

function pair(port: number, entry: Logged, exit: Logged): Running {
  return {
    port,
    pids: [entry.pid, exit.pid],
    check() {
      entry.check();
      exit.check();
    },
    async stop() {
      await entry.stop();
      await exit.stop();
    },
  };
}

let homes = 0;
export function freshHome(): { TUNNEL_HOME: string } {
  homes += 1;
  return { TUNNEL_HOME: scratchPath(`home-${homes}`) };
}

/** Starts `expose`; answers when it is ready, and after how long. */
export async function expose(program: string, targets: number | readonly string[]) {
  const began = performance.now();
  const exit = start(
    'expose',
    process.execPath,
    [program, 'expose', ...(typeof targets === 'number' ? [String(targets)] : targets), ...LOCAL_ONLY],
    freshHome(),
  );
  const ready = await exit.waitFor(/"event":"ready".*"ticket":"([^"]+)"/, 15_000, 2);
  return { exit, ticket: ready[1] as string, readyMs: performance.now() - began };
}

/** `program`: the `bin/run.js` of the checkout to measure. */
export function tunnel(name: string, program: string): Contender {
  return {
    name,
    async start(targetPort) {
      const { exit, ticket } = await expose(program, targetPort);
      const entry = start(
        'forward',
        process.execPath,
        [program, 'forward', ticket, `0:${targetPort}`, ...LOCAL_ONLY],
        freshHome(),
      );
      const listening = await entry.waitFor(/"event":"listening".*"local":"127\.0\.0\.1:(\d+)"/);
      await entry.waitFor(/"event":"session".*"state":"connected"/);
      return pair(Number(listening[1]), entry, exit);
    },
  };
}

export function findDumbpipe(): string | undefined {
  return process.env.DUMBPIPE ?? findProgram('dumbpipe', [join(homedir(), '.cargo', 'bin')]);
}

export function dumbpipe(program: string): Contender {
  // Tied to loopback as ours is, so that no other interface becomes a path.
  const bind = ['--ipv4-addr', '127.0.0.1:0', '--ipv6-addr', '[::1]:0'];
  return {
    name: 'dumbpipe',
    async start(targetPort) {
      const exit = start('dumbpipe-listen', program, [
        'listen-tcp',
        '--host',
        `127.0.0.1:${targetPort}`,
        ...bind,
      ]);
      const [, ticket] = await exit.waitFor(/\b(endpoint[a-z0-9]{40,})\b/, 30_000);
      const port = await freePort();
      const entry = start('dumbpipe-connect', program, [
        'connect-tcp',
        '--addr',
        `127.0.0.1:${port}`,
        ...bind,
        ticket as string,
      ]);
      await waitForListener(port);
      return pair(port, entry, exit);
    },
  };
}

export function findSsh(): { ssh: string; sshd: string; keygen: string } | undefined {
  const ssh = findProgram('ssh');
  const sshd = findProgram('sshd', ['/usr/sbin', '/usr/local/sbin']);
  const keygen = findProgram('ssh-keygen');
  return ssh && sshd && keygen ? { ssh, sshd, keygen } : undefined;
}

/** `ssh -L` to an sshd of our own: throwaway keys, a free port, nothing read from the user's or the system's configuration. */
export function ssh(programs: { ssh: string; sshd: string; keygen: string }): Contender {
  return {
    name: 'ssh',
    async start(targetPort) {
      const hostKey = scratchPath('ssh-host-key');
      const userKey = scratchPath('ssh-user-key');
      const authorized = scratchPath('ssh-authorized');
      if (!existsSync(hostKey)) {
        await run(programs.keygen, ['-q', '-t', 'ed25519', '-N', '', '-f', hostKey]);
        await run(programs.keygen, ['-q', '-t', 'ed25519', '-N', '', '-f', userKey]);
        writeFileSync(authorized, readFileSync(`${userKey}.pub`), { mode: 0o600 });
      }
      makePrivsepFolder();
      const sshPort = await freePort();
      const config = scratchPath(`sshd-${sshPort}.conf`);
      writeFileSync(
        config,
        [
          `Port ${sshPort}`,
          'ListenAddress 127.0.0.1',
          `HostKey ${hostKey}`,
          `AuthorizedKeysFile ${authorized}`,
          `PidFile ${scratchPath(`sshd-${sshPort}.pid`)}`,
          'PasswordAuthentication no',
          'KbdInteractiveAuthentication no',
          'PermitRootLogin prohibit-password',
          // The scratch folder lies in a world-writable one.
          'StrictModes no',
          'UsePAM no',
          'LogLevel ERROR',
          '',
        ].join('\n'),
      );
      const exit = start('sshd', programs.sshd, ['-D', '-e', '-f', config]);
      await waitForListener(sshPort);
      const port = await freePort();
      const entry = start('ssh', programs.ssh, [
        ...['-F', 'none', '-N', '-p', String(sshPort), '-i', userKey],
        ...['-L', `127.0.0.1:${port}:127.0.0.1:${targetPort}`],
        ...['-o', 'ExitOnForwardFailure=yes', '-o', 'BatchMode=yes', '-o', 'IdentitiesOnly=yes'],
        ...['-o', 'StrictHostKeyChecking=no', '-o', 'UserKnownHostsFile=/dev/null', '-o', 'LogLevel=ERROR'],
        `${userInfo().username}@127.0.0.1`,
      ]);
      await waitForListener(port).catch((error: unknown) => {
        entry.check();
        throw error;
      });
      return pair(port, entry, exit);
    },
  };
}

/** sshd refuses to run as root without it; Debian makes it when it starts the service. */
function makePrivsepFolder(): void {
  const folder = '/run/sshd';
  if (userInfo().uid !== 0 || existsSync(folder)) return;
  mkdirSync(folder, { mode: 0o755 });
  onExit(() => {
    try {
      rmdirSync(folder);
    } catch {
      // A real sshd put something there meanwhile.
    }
  });
}

export const relay: Contender = {
  name: 'relay',
  async start(targetPort) {
    const helper = new Helper('./relay.ts', [String(targetPort)]);
    const { port } = await helper.next<{ port: number }>();
    return { port, pids: [helper.pid], check: () => undefined, stop: () => helper.stop() };
  },
};

export function findProgram(name: string, more: readonly string[] = []): string | undefined {
  const folders = [...(process.env.PATH ?? '').split(delimiter), ...more];
  return folders
    .filter((folder) => folder !== '')
    .map((folder) => join(folder, name))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}
