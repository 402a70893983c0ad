/**
 * Identities: an Ed25519 key pair in a file of its own. The public key is the node ID.
 *
 * The file is PKCS#8 PEM (RFC 8410), so any tool can read it. It is created exclusively with mode
 * 0600 and refused when anyone else can read it: a leaked identity is every right it was given.
 */
import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  hkdfSync,
  type KeyObject,
  randomBytes,
  sign,
  verify,
} from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, mkdir, open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { systemCode, TunnelError } from '../error.js';
import { type NodeId, nodeIdFromPublicKey, publicKeyFromNodeId } from './node-id.js';

const MAX_KEY_FILE_BYTES = 4096;

export class Identity {
  readonly nodeId: NodeId;
  readonly #key: KeyObject;

  private constructor(key: KeyObject) {
    this.#key = key;
    this.nodeId = nodeIdFromPublicKey(createPublicKey(key));
  }

  static generate(): Identity {
    return new Identity(generateKeyPairSync('ed25519').privateKey);
  }

  /** Throws when the text is not a PEM of an Ed25519 private key. */
  static fromPem(pem: string): Identity {
    const key = createPrivateKey(pem);
    if (key.asymmetricKeyType !== 'ed25519') {
      throw new Error(`holds a key of type ${key.asymmetricKeyType}, not ed25519`);
    }
    return new Identity(key);
  }

  toPem(): string {
    return this.#key.export({ format: 'pem', type: 'pkcs8' }) as string;
  }

  /** The 32-byte seed, for an engine that holds its own copy of the key. */
  seed(): Buffer {
    return this.#key.export({ format: 'der', type: 'pkcs8' }).subarray(-32);
  }

  sign(message: Uint8Array): Buffer {
    return sign(null, message, this.#key);
  }

  /** A secret of `length` bytes that only this identity can compute, one per `purpose` (HKDF-SHA256, RFC 5869). */
  derive(purpose: string, length: number): Buffer {
    return Buffer.from(hkdfSync('sha256', this.seed(), 'tunnel/1', purpose, length));
  }
}

/** Whether `signature` is `nodeId`'s over `message`. False, never a throw, for a malformed one. */
export function verifySignature(nodeId: NodeId, message: Uint8Array, signature: Uint8Array): boolean {
  if (SMALL_ORDER.has(nodeId)) return false;
  try {
    return verify(null, message, publicKeyFromNodeId(nodeId), signature);
  } catch {
    return false;
  }
}

/**
 * Encodings of the eight points of small order: anyone can make signatures that verify under them
 * (RFC 8032 leaves the check to the application).
 */
const SMALL_ORDER: ReadonlySet<string> = new Set(
  [
    `01${'00'.repeat(30)}`,
    '00'.repeat(31),
    `ec${'ff'.repeat(30)}`,
    `ed${'ff'.repeat(30)}`,
    `ee${'ff'.repeat(30)}`,
    '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc',
    'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03',
  ].flatMap((head) => ['00', '80', '05', '85', '7a', 'fa', '7f', 'ff'].map((tail) => head + tail)),
);

/**
 * Reads the identity at `path`, or makes it there when there is none.
 *
 * Throws BAD_IDENTITY when the file is readable by others, damaged or unreadable. An existing file
 * is never replaced: a silently new identity would lock its owner out of every peer.
 */
export async function loadIdentity(path: string): Promise<{ identity: Identity; created: boolean }> {
  const existing = await readIdentity(path);
  if (existing) return { identity: existing, created: false };
  const identity = Identity.generate();
  if (await writeExclusively(path, identity.toPem())) return { identity, created: true };
  // Another process made it in the meantime: that one counts.
  const other = await readIdentity(path);
  if (other) return { identity: other, created: false };
  throw badIdentity(path, 'appeared and vanished again', 'run the command once more');
}

/** The identity at `path`, or undefined when there is none. Throws BAD_IDENTITY, as `loadIdentity`. */
export async function readIdentity(path: string): Promise<Identity | undefined> {
  let file: FileHandle;
  try {
    // Not to wait for ever where a FIFO lies in its place.
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw badIdentity(path, `cannot be read (${systemCode(error)})`, 'check its owner and mode', error);
  }
  try {
    const stat = await file.stat();
    if (!stat.isFile()) throw badIdentity(path, 'is not a file', 'move it away');
    if (process.platform !== 'win32' && (stat.mode & 0o077) !== 0) {
      const mode = (stat.mode & 0o777).toString(8).padStart(4, '0');
      throw badIdentity(path, `can be read by others (mode ${mode})`, `run: chmod 600 '${path}'`);
    }
    if (stat.size > MAX_KEY_FILE_BYTES) {
      throw badIdentity(path, 'is too large for a key', 'restore it from a backup');
    }
    return Identity.fromPem(await file.readFile('utf8'));
  } catch (error) {
    if (error instanceof TunnelError) throw error;
    throw badIdentity(
      path,
      'does not hold an Ed25519 private key in PEM',
      'restore it from a backup, or move it away to get a new node ID',
      error,
    );
  } finally {
    await file.close();
  }
}

/**
 * Writes the key of `identity` to a new file at `path`, mode 0600. Throws BAD_IDENTITY when something is
 * there already, which is never replaced, or it cannot be written.
 */
export async function saveIdentity(path: string, identity: Identity): Promise<void> {
  if (await writeExclusively(path, identity.toPem())) return;
  throw badIdentity(path, 'is there already, and a key is never replaced', 'choose another name for it');
}

/**
 * Answers false when the file is there already. A full disk must not leave half a key behind, so the
 * key is written and synced under another name first and linked into place; link(2) is exclusive.
 */
async function writeExclusively(path: string, pem: string): Promise<boolean> {
  const { link, unlink } = await import('node:fs/promises');
  const temporary = `${path}.${randomBytes(6).toString('hex')}.new`;
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    const file = await open(temporary, 'wx', 0o600);
    try {
      await file.writeFile(pem);
      await file.sync();
    } finally {
      await file.close();
    }
    try {
      await link(temporary, path);
      return true;
    } catch (error) {
      if (systemCode(error) === 'EEXIST') return false;
      throw error;
    }
  } catch (error) {
    throw badIdentity(
      path,
      `cannot be created (${systemCode(error) ?? 'unknown error'})`,
      `make ${dirname(path)} writable, or point TUNNEL_HOME elsewhere`,
      error,
    );
  } finally {
    await unlink(temporary).catch(() => undefined);
  }
}

function badIdentity(path: string, problem: string, hint: string, cause?: unknown): TunnelError {
  return new TunnelError('BAD_IDENTITY', `identity file ${path} ${problem}`, { hint, cause });
}
