/** Where files live: the XDG folders, `%APPDATA%` on Windows, or all of them under `TUNNEL_HOME`. */
import { homedir, tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { TunnelError } from '../error.js';

const IDENTITY_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

export interface Paths {
  /** What the user may edit: identities, the peers book. */
  readonly config: string;
  /** What the program remembers. */
  readonly state: string;
  /** What only running processes need: locks and sockets. */
  readonly runtime: string;
}

export function resolvePaths(env: NodeJS.ProcessEnv = process.env, platform = process.platform): Paths {
  const home = env.TUNNEL_HOME;
  if (home) {
    return {
      config: join(home, 'config', 'tunnel'),
      state: join(home, 'state', 'tunnel'),
      runtime: join(home, 'runtime', 'tunnel'),
    };
  }
  if (platform === 'win32') {
    const base = join(env.APPDATA ?? join(homedir(), 'AppData', 'Roaming'), 'tunnel');
    return { config: base, state: join(base, 'state'), runtime: join(base, 'runtime') };
  }
  return {
    config: join(env.XDG_CONFIG_HOME || join(homedir(), '.config'), 'tunnel'),
    state: join(env.XDG_STATE_HOME || join(homedir(), '.local', 'state'), 'tunnel'),
    runtime: join(env.XDG_RUNTIME_DIR || join(tmpdir(), `tunnel-${userInfo().uid}`), 'tunnel'),
  };
}

/** Hashes of tickets' tokens, never a token. */
export function ticketStorePath(paths: Paths): string {
  return join(paths.state, 'tokens.json');
}

/** Throws USAGE for a name that could leave the folder. */
export function identityPath(paths: Paths, name: string): string {
  if (!IDENTITY_NAME.test(name)) {
    throw new TunnelError('USAGE', `'${name}' is no name for an identity`, {
      hint: "use letters, digits, '.', '_' and '-': --identity work",
    });
  }
  return join(paths.config, 'identities', `${name}.key`);
}
