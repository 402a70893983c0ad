/** The user's files, and what running processes keep in theirs. */
import { access, constants, lstat, readdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { systemCode } from '../../error.js';
import { readIdentity } from '../../session/identity.js';
import { shortNodeId } from '../../session/node-id.js';
import { isAbandonedSocket } from '../../tunnel/abandoned-socket.js';
import { formatMode } from '../../tunnel/safe-file.js';
import { EVERY_CHANNEL } from '../../tunnel/status-model.js';
import { TicketStore } from '../../tunnel/ticket-store.js';
import { lockHolder } from '../identity-lock.js';
import { type Paths, ticketStorePath } from '../paths.js';
import { peersFile } from '../peer-names.js';
import { askProcesses } from '../status-client.js';
import { listSockets, socketPath } from '../status-folder.js';
import { type Check, failed, fine, problem, skipped } from './check.js';

const isWindows = process.platform === 'win32';
/** What the systems have room for in a socket's address, with the byte that ends it. */
const MAX_SOCKET_PATH = process.platform === 'linux' ? 107 : 103;

/** In the order in which they are told. None of them rejects. */
export function fileChecks(paths: Paths, identity: string): readonly Promise<Check>[] {
  return [
    checkKeys(paths),
    checkBook(paths),
    checkTickets(paths),
    checkLock(paths.runtime, identity),
    checkRuntime(paths.runtime),
    checkProcesses(paths.runtime),
  ];
}

/** Every identity, not only the one that is asked for: what others can read is everybody's problem. */
export async function checkKeys(paths: Paths): Promise<Check> {
  const folder = join(paths.config, 'identities');
  const names = (await readdir(folder).catch(() => [])).filter((name) => name.endsWith('.key')).sort();
  if (names.length === 0) return fine('keys', 'no identity yet; the first use makes one');
  const open = await openToOthers(folder);
  if (open !== undefined) {
    const detail = `others can put other keys into ${folder} (mode ${open})`;
    return problem('keys', detail, `chmod 700 '${folder}'`, 'config');
  }
  const read: string[] = [];
  for (const name of names) {
    try {
      const identity = await readIdentity(join(folder, name));
      if (identity) read.push(`${name.slice(0, -'.key'.length)} (${shortNodeId(identity.nodeId)})`);
    } catch (error) {
      return failed('keys', error);
    }
  }
  return fine('keys', `${read.join(', ')}; for this user alone`);
}

/** The mode of a folder that others may write to. */
async function openToOthers(folder: string): Promise<string | undefined> {
  const stat = isWindows ? undefined : await lstat(folder).catch(() => undefined);
  if (!stat || (stat.mode & 0o022) === 0) return undefined;
  return (stat.mode & 0o7777).toString(8).padStart(4, '0');
}

export async function checkBook(paths: Paths): Promise<Check> {
  try {
    const { size } = await peersFile(paths).read();
    return fine('peers-book', size === 0 ? 'empty' : `${size} peer${size === 1 ? '' : 's'}`);
  } catch (error) {
    return failed('peers-book', error);
  }
}

export async function checkTickets(paths: Paths): Promise<Check> {
  try {
    const { length } = await new TicketStore(ticketStorePath(paths)).load();
    return fine('tickets', length === 0 ? 'none' : `${length} on record`);
  } catch (error) {
    return failed('tickets', error);
  }
}

export async function checkLock(runtime: string, identity: string): Promise<Check> {
  const holder = await lockHolder(runtime, identity);
  if (holder === undefined) return fine('identity-lock', `'${identity}' is free`);
  if (holder === 'stale') {
    return fine(
      'identity-lock',
      `'${identity}' is free; a process that died left its lock, the next takes it over`,
    );
  }
  return fine('identity-lock', `'${identity}' is in use by the process ${holder}, which exposes under it`);
}

export async function checkRuntime(folder: string): Promise<Check> {
  if (isWindows) return skipped('runtime', 'named pipes need no folder');
  const name = 'runtime';
  const length = Buffer.byteLength(socketPath(folder, 4_194_304));
  if (length > MAX_SOCKET_PATH) {
    const detail = `${folder} is too long for the sockets in it: ${length} bytes of ${MAX_SOCKET_PATH}`;
    return problem(name, detail, 'point XDG_RUNTIME_DIR or TUNNEL_HOME at a shorter path', 'config');
  }
  const stat = await lstat(folder).catch((error: unknown) => systemCode(error) ?? 'unknown');
  if (stat === 'ENOENT') return fine(name, `${folder} is made when it is needed`);
  if (typeof stat === 'string') {
    return problem(
      name,
      `${folder} cannot be read (${stat})`,
      `check the mode of ${dirname(folder)}`,
      'config',
    );
  }
  const uid = process.getuid?.();
  if (!stat.isDirectory() || (uid !== undefined && stat.uid !== uid && stat.uid !== 0)) {
    const detail = `${folder} is no folder of this user, so there is no status in it`;
    return problem(name, detail, 'point XDG_RUNTIME_DIR or TUNNEL_HOME at a folder of your own', 'config');
  }
  if ((stat.mode & 0o077) !== 0) {
    return problem(
      name,
      `${folder} is open to others (mode ${formatMode(stat.mode)})`,
      `chmod 700 '${folder}'`,
      'config',
    );
  }
  try {
    await access(folder, constants.W_OK);
  } catch {
    return problem(name, `${folder} cannot be written to`, `chmod 700 '${folder}'`, 'config');
  }
  const left = await abandoned(folder);
  const stale = left.length === 0 ? 'no stale sockets' : `stale sockets of ${left.join(', ')}, which died`;
  return fine(name, `${folder}; ${stale}`, left.length === 0 ? undefined : 'tunnel status removes them');
}

async function abandoned(folder: string): Promise<readonly number[]> {
  const pids = await listSockets(folder);
  const dead = await Promise.all(pids.map((pid) => isAbandonedSocket(socketPath(folder, pid))));
  return pids.filter((_pid, index) => dead[index]);
}

export async function checkProcesses(folder: string): Promise<Check> {
  const name = 'processes';
  const pids = await listSockets(folder);
  const dead = new Set(isWindows ? [] : await abandoned(folder));
  const living = pids.filter((pid) => !dead.has(pid));
  if (living.length === 0) return fine(name, 'no other tunnel process of this user');
  const answers = await askProcesses(folder, living, { ...EVERY_CHANNEL, limit: 0 });
  const silent = living.filter((pid) => !answers.some((answer) => answer.pid === pid));
  if (silent.length > 0) {
    const hang = silent.length === 1 ? `process ${silent[0]} does` : `processes ${silent.join(', ')} do`;
    return problem(name, `the ${hang} not answer`, `end what hangs: kill ${silent.join(' ')}`, 'system');
  }
  const told = answers.map(({ pid, command, identity }) => `${pid} ${command} (${identity})`);
  return fine(name, told.join(', '));
}
