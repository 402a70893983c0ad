/** The identities there are, and their keys on the way in and out. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { TunnelError, toTunnelError } from '../error.js';
import { Identity, readIdentity, saveIdentity } from '../session/identity.js';
import type { NodeId } from '../session/node-id.js';
import type { Paths } from './paths.js';
import { readStdin } from './read-stdin.js';

export interface ListedIdentity {
  readonly identity: string;
  readonly nodeId?: NodeId;
  /** Why it has none. */
  readonly error?: string;
}

export async function listIdentities(paths: Paths): Promise<readonly ListedIdentity[]> {
  const folder = join(paths.config, 'identities');
  const names = (await readdir(folder).catch(() => [])).filter((name) => name.endsWith('.key')).sort();
  const listed = await Promise.all(
    names.map(async (name): Promise<ListedIdentity | undefined> => {
      const identity = name.slice(0, -'.key'.length);
      try {
        const read = await readIdentity(join(folder, name));
        return read && { identity, nodeId: read.nodeId };
      } catch (error) {
        return { identity, error: toTunnelError(error).message };
      }
    }),
  );
  return listed.filter((one) => one !== undefined);
}

/** Writes the key at `path` to a new file of mode 0600, or to stdout. Throws BAD_IDENTITY, or USAGE. */
export async function exportKey(
  path: string,
  { to, json }: { readonly to: string; readonly json: boolean },
): Promise<NodeId> {
  if (to === '-' && (json || process.stdout.isTTY)) {
    throw new TunnelError('USAGE', json ? 'a key is no JSON' : 'a key is not shown on a terminal', {
      hint: 'pipe it into something, or name a file: tunnel id --export backup.key',
    });
  }
  const identity = await readIdentity(path);
  if (!identity) {
    throw new TunnelError('BAD_IDENTITY', `there is no identity file ${path}`, {
      hint: 'tunnel id --list shows which there are',
    });
  }
  if (to === '-') process.stdout.write(identity.toPem());
  else await saveIdentity(to, identity);
  return identity.nodeId;
}

/** Makes an identity at `path` of the key in a file that nobody else can read, or on stdin. Throws BAD_IDENTITY, or USAGE. */
export async function importKey(path: string, from: string): Promise<NodeId> {
  const identity = from === '-' ? parseKey(await readStdin('a private key')) : await readIdentity(from);
  if (!identity) throw new TunnelError('USAGE', `there is no file ${from}`);
  await saveIdentity(path, identity);
  return identity.nodeId;
}

function parseKey(pem: string): Identity {
  try {
    return Identity.fromPem(pem);
  } catch (cause) {
    // The cause may quote what it was given.
    throw new TunnelError('BAD_IDENTITY', 'what came on stdin is no Ed25519 private key in PEM', {
      hint: 'pipe in what tunnel id --export - writes',
      cause: new Error(cause instanceof Error ? cause.name : 'malformed'),
    });
  }
}
