/** The file that `tunnel up` runs: where it is, and whether it may be trusted. */
import { constants, statSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { systemCode, TunnelError } from '../../error.js';
import { formatMode } from '../../tunnel/safe-file.js';
import type { Paths } from '../paths.js';

const NAME = 'tunnel.toml';
const MAX_BYTES = 1024 * 1024;

export interface ConfigPlace {
  /** As it is named in sentences. */
  readonly path: string;
  /** Somebody named it, and did not only find it. */
  readonly isNamed: boolean;
}

export interface ConfigText {
  readonly path: string;
  readonly text: string;
  /** Nobody else can read it. */
  readonly isPrivate: boolean;
}

/** The one that is named, else the first there is of those in the working folder and in the config folder. Throws BAD_CONFIG. */
export function findConfig(named: string | undefined, { config }: Paths): ConfigPlace {
  if (named !== undefined) return { path: named, isNamed: true };
  const places = [NAME, join(config, NAME)];
  const path = places.find((place) => statSync(place, { throwIfNoEntry: false }) !== undefined);
  if (path !== undefined) return { path, isNamed: false };
  throw new TunnelError(
    'BAD_CONFIG',
    `there is no config file: neither ${resolve(NAME)} nor ${join(config, NAME)}`,
    { hint: 'write one of them, or name another: tunnel up --config /etc/tunnel.toml' },
  );
}

/** Throws BAD_CONFIG for one that is not there, or that others could have written. */
export async function readConfig({ path, isNamed }: ConfigPlace): Promise<ConfigText> {
  const bad = (problem: string, hint: string, cause?: unknown) =>
    new TunnelError('BAD_CONFIG', `the config file ${path} ${problem}`, { hint, cause });
  try {
    // Not to wait for ever where a FIFO lies in its place.
    const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const stat = await file.stat();
      const { mode, uid, size } = stat;
      if (!stat.isFile()) throw bad('is not a file', 'it is read again while it is used');
      if (size > MAX_BYTES) throw bad(`is larger than ${MAX_BYTES} bytes`, 'split it between two processes');
      if (process.platform !== 'win32') {
        // It says who may connect.
        if ((mode & 0o022) !== 0)
          throw bad(`can be written by others (mode ${formatMode(mode)})`, `run: chmod go-w '${path}'`);
        if (!isNamed && uid !== process.getuid?.() && uid !== 0)
          throw bad('belongs to another user', `if you trust it, name it: tunnel up --config '${path}'`);
      }
      return { path, text: await file.readFile('utf8'), isPrivate: (mode & 0o077) === 0 };
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof TunnelError) throw error;
    const code = systemCode(error);
    if (code === 'ENOENT') throw bad('does not exist', 'check its path: tunnel up --config <path>', error);
    throw bad(`cannot be read (${code})`, 'check its owner and mode', error);
  }
}
