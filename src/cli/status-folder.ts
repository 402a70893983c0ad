/** Where the status sockets of this user's processes are: one each, named after its pid. */
import { createHash } from 'node:crypto';
import { chmod, lstat, mkdir, readdir, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { TunnelError } from '../error.js';
import { isAbandonedSocket } from '../tunnel/abandoned-socket.js';

const PIPES = '\\\\.\\pipe\\';

/** A unix socket in the folder, or a named pipe that is told apart by the folder's name. */
export function socketPath(folder: string, pid: number, platform = process.platform): string {
  return platform === 'win32' ? `${PIPES}${pipePrefix(folder)}${pid}` : join(folder, `${pid}.sock`);
}

/** The pids that have a socket; some of them may have died since. */
export async function listSockets(folder: string, platform = process.platform): Promise<readonly number[]> {
  const names = await readdir(platform === 'win32' ? PIPES : folder).catch(() => []);
  const prefix = platform === 'win32' ? pipePrefix(folder) : '';
  const pattern = platform === 'win32' ? /^(\d+)$/ : /^(\d+)\.sock$/;
  return names
    .filter((name) => name.startsWith(prefix))
    .map((name) => Number(pattern.exec(name.slice(prefix.length))?.[1]))
    .filter((pid) => Number.isSafeInteger(pid) && pid > 0)
    .sort((a, b) => a - b);
}

/** Makes the folder, for this user alone. Throws OS_RESOURCE when another user could get in. */
export async function privateFolder(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const uid = process.getuid?.();
  if (uid === undefined) return;
  for (const path of [folder, dirname(folder)]) {
    const stat = await lstat(path);
    // Root owns what it owns anyway; a folder of anyone else could be swapped under us.
    if (stat.isDirectory() && (stat.uid === uid || stat.uid === 0)) continue;
    throw new TunnelError(
      'OS_RESOURCE',
      `${path} belongs to another user, so no status socket is made in it`,
      {
        hint: 'point XDG_RUNTIME_DIR or TUNNEL_HOME at a folder of your own',
      },
    );
  }
  const { mode } = await lstat(folder);
  if ((mode & 0o077) !== 0) await chmod(folder, 0o700);
}

/** Removes the sockets of processes that died without doing so. */
export async function removeStale(folder: string): Promise<void> {
  if (process.platform === 'win32') return;
  for (const pid of await listSockets(folder)) await removeIfStale(folder, pid);
}

async function removeIfStale(folder: string, pid: number): Promise<void> {
  const path = socketPath(folder, pid);
  if (await isAbandonedSocket(path)) await unlink(path).catch(() => undefined);
}

function pipePrefix(folder: string): string {
  return `tunnel-${createHash('sha256').update(folder).digest('hex').slice(0, 16)}-`;
}
