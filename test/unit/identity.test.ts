import { execFile } from 'node:child_process';
import { createPublicKey, generateKeyPairSync } from 'node:crypto';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Identity, loadIdentity, verifySignature } from '../../src/session/identity.js';
import { type NodeId, publicKeyFromNodeId } from '../../src/session/node-id.js';
import { rejected } from '../support/errors.js';

const run = promisify(execFile);
const POSIX = process.platform !== 'win32';

let folder: string;
let path: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tunnel-identity-'));
  path = join(folder, 'identities', 'default.key');
});

afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

describe('an identity file that is not there', () => {
  it('is made, with its folder, and is the same the next time', async () => {
    const made = await loadIdentity(path);
    expect(made.created).toBe(true);
    const again = await loadIdentity(path);
    expect(again.created).toBe(false);
    expect(again.identity.nodeId).toBe(made.identity.nodeId);
  });

  it.runIf(POSIX)('is made for its owner alone, in a folder for its owner alone', async () => {
    const before = process.umask(0);
    try {
      await loadIdentity(path);
    } finally {
      process.umask(before);
    }
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    expect((await stat(dirname(path))).mode & 0o777).toBe(0o700);
  });

  it('leaves nothing else in the folder', async () => {
    await loadIdentity(path);
    expect(await readdir(dirname(path))).toEqual(['default.key']);
  });

  it('is one identity for everyone in this process who asks at once', async () => {
    const all = await Promise.all(Array.from({ length: 16 }, () => loadIdentity(path)));
    expect(new Set(all.map(({ identity }) => identity.nodeId)).size).toBe(1);
    expect(all.filter(({ created }) => created)).toHaveLength(1);
    expect(await readdir(dirname(path))).toEqual(['default.key']);
  });

  it('is one identity for several processes that start at once', async () => {
    const script = new URL('../support/load-identity.ts', import.meta.url).pathname;
    const starts = Array.from({ length: 4 }, () =>
      run(process.execPath, ['--import', 'tsx', script, path], { timeout: 25_000 }),
    );
    const nodeIds = (await Promise.all(starts)).map(({ stdout }) => stdout.trim());
    expect(new Set(nodeIds).size).toBe(1);
    expect(nodeIds[0]).toBe((await loadIdentity(path)).identity.nodeId);
  });

  it('is made although a process of this pid died in the middle of making one', async () => {
    await mkdir(dirname(path), { recursive: true });
    await writeFile(`${path}.${process.pid}.new`, 'half a k', { mode: 0o600 });
    expect((await loadIdentity(path)).created).toBe(true);
  });

  it.runIf(POSIX && process.getuid?.() !== 0)('cannot be made in a folder that is read-only', async () => {
    await chmod(folder, 0o500);
    try {
      const error = await rejected(loadIdentity(path));
      expect(error.code).toBe('BAD_IDENTITY');
      expect(error.message).toContain(path);
    } finally {
      await chmod(folder, 0o700);
    }
  });

  it('cannot be made where a file stands for its folder', async () => {
    await writeFile(join(folder, 'identities'), '');
    const error = await rejected(loadIdentity(path));
    expect(error.code).toBe('BAD_IDENTITY');
    expect(error.message).toContain(path);
    expect(error.hint).toBeDefined();
  });
});

describe('an identity file that is there', () => {
  const write = async (text: string | Buffer, mode = 0o600) => {
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, text, { mode });
    await chmod(path, mode);
  };
  const pemOf = (key: ReturnType<typeof generateKeyPairSync>['privateKey']) =>
    key.export({ format: 'pem', type: 'pkcs8' }) as string;

  it.runIf(POSIX).each([0o644, 0o640, 0o604, 0o660, 0o620, 0o602, 0o610, 0o777])(
    'is refused with mode %o, and the hint is the chmod to run',
    async (mode) => {
      await write(Identity.generate().toPem(), mode);
      const error = await rejected(loadIdentity(path));
      expect(error.code).toBe('BAD_IDENTITY');
      expect(error.message).toContain(path);
      expect(error.hint).toContain(`chmod 600 '${path}'`);
      await chmod(path, 0o600);
      await expect(loadIdentity(path)).resolves.toMatchObject({ created: false });
    },
  );

  it.runIf(POSIX).each([0o600, 0o400, 0o700])('is taken with mode %o', async (mode) => {
    await write(Identity.generate().toPem(), mode);
    await expect(loadIdentity(path)).resolves.toMatchObject({ created: false });
  });

  const whole = Identity.generate().toPem();
  it.each<[string, string | Buffer]>([
    ['empty', ''],
    ['one line of text', 'not a key\n'],
    ['bytes', Buffer.from([0, 255, 1, 254, 0, 0])],
    ['cut short', whole.slice(0, 60)],
    ['without its last line', whole.split('\n').slice(0, -2).join('\n')],
    ['damaged inside', whole.replace('MC4', 'XXX')],
    ['a public key', createPublicKey(whole).export({ format: 'pem', type: 'spki' }) as string],
    ['an EC key', pemOf(generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey)],
    ['an X25519 key', pemOf(generateKeyPairSync('x25519').privateKey)],
    ['an Ed448 key', pemOf(generateKeyPairSync('ed448').privateKey)],
    ['larger than any key', `${whole}${'#'.repeat(10_000)}`],
  ])('is refused and left alone when it is %s', async (_what, content) => {
    await write(content);
    const error = await rejected(loadIdentity(path));
    expect(error.code).toBe('BAD_IDENTITY');
    expect(error.message).toContain(path);
    expect(error.hint).toBeDefined();
    expect(await readFile(path)).toEqual(Buffer.from(content));
  });

  it('is refused when it is a folder', async () => {
    await mkdir(path, { recursive: true });
    expect((await rejected(loadIdentity(path))).code).toBe('BAD_IDENTITY');
    expect((await stat(path)).isDirectory()).toBe(true);
  });

  it.runIf(POSIX)('is refused when it is a link to nothing, and nothing is made behind it', async () => {
    await mkdir(dirname(path), { recursive: true });
    await symlink(join(folder, 'nowhere'), path);
    expect((await rejected(loadIdentity(path))).code).toBe('BAD_IDENTITY');
    expect(await readdir(folder)).toEqual(['identities']);
  });

  it.runIf(POSIX)('is looked at through a link: what it leads to must be private', async () => {
    await mkdir(dirname(path), { recursive: true });
    const elsewhere = join(folder, 'elsewhere.pem');
    await writeFile(elsewhere, Identity.generate().toPem(), { mode: 0o644 });
    await symlink(elsewhere, path);
    expect((await rejected(loadIdentity(path))).code).toBe('BAD_IDENTITY');
    await chmod(elsewhere, 0o600);
    await expect(loadIdentity(path)).resolves.toMatchObject({ created: false });
  });

  it.runIf(POSIX)('never hangs when it is a pipe', async () => {
    await mkdir(dirname(path), { recursive: true });
    await run('mkfifo', ['-m', '600', path]);
    const answer = loadIdentity(path).then(
      () => 'loaded',
      (error) => error.code,
    );
    const late = new Promise((resolve) => setTimeout(resolve, 2000, 'hangs').unref());
    const first = await Promise.race([answer, late]);
    // Lets a reader that waits in open(2) go, so that the process can end.
    if (first === 'hangs') await writeFile(path, '');
    expect(first).toBe('BAD_IDENTITY');
  });

  it('is never replaced', async () => {
    const pem = Identity.generate().toPem();
    await write(pem);
    await Promise.all([loadIdentity(path), loadIdentity(path)]);
    expect(await readFile(path, 'utf8')).toBe(pem);
  });
});

describe('an identity', () => {
  it('is its node ID, its seed and its PEM, each the same after a round trip', () => {
    const identity = Identity.generate();
    const again = Identity.fromPem(identity.toPem());
    expect(again.nodeId).toBe(identity.nodeId);
    expect(again.seed()).toEqual(identity.seed());
    expect(identity.seed()).toHaveLength(32);
    expect(identity.nodeId).toMatch(/^[0-9a-f]{64}$/);
    expect(identity.seed().toString('hex')).not.toBe(identity.nodeId);
  });

  it('shows no key when it is printed', () => {
    const identity = Identity.generate();
    const seed = identity.seed();
    expect(JSON.stringify(identity)).not.toContain(seed.toString('base64'));
    expect(JSON.stringify(identity)).toBe(JSON.stringify({ nodeId: identity.nodeId }));
  });

  it('signs so that its node ID alone verifies', () => {
    const identity = Identity.generate();
    const other = Identity.generate();
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat(), (message, at) => {
        const signature = identity.sign(message);
        expect(verifySignature(identity.nodeId, message, signature)).toBe(true);
        expect(verifySignature(other.nodeId, message, signature)).toBe(false);
        expect(verifySignature(identity.nodeId, Buffer.concat([message, Buffer.of(0)]), signature)).toBe(
          false,
        );
        const changed = Buffer.from(signature);
        changed[at % changed.length] = (changed[at % changed.length] as number) ^ 1;
        expect(verifySignature(identity.nodeId, message, changed)).toBe(false);
      }),
    );
  });

  it.each([
    ['an empty signature', Identity.generate().nodeId, Buffer.alloc(0)],
    ['a short signature', Identity.generate().nodeId, Buffer.alloc(63)],
    ['a long signature', Identity.generate().nodeId, Buffer.alloc(65)],
    ['a node ID that is no point', 'ff'.repeat(32) as NodeId, Buffer.alloc(64)],
    ['a node ID that is no key', 'nonsense' as NodeId, Buffer.alloc(64)],
    // The neutral element as a key, with the neutral element and zero as a signature over anything.
    ['a key of small order', `01${'00'.repeat(31)}` as NodeId, Buffer.from(`01${'00'.repeat(63)}`, 'hex')],
  ])('does not verify by %s, and nothing is thrown', (_what, nodeId, signature) => {
    expect(verifySignature(nodeId, Buffer.from('message'), signature)).toBe(false);
  });

  it('derives one secret for each purpose, which no other identity derives', () => {
    const identity = Identity.generate();
    const again = Identity.fromPem(identity.toPem());
    expect(again.derive('ticket a', 16)).toEqual(identity.derive('ticket a', 16));
    expect(identity.derive('ticket b', 16)).not.toEqual(identity.derive('ticket a', 16));
    expect(Identity.generate().derive('ticket a', 16)).not.toEqual(identity.derive('ticket a', 16));
    expect(identity.derive('ticket a', 24)).toHaveLength(24);
  });

  it('is a PEM that openssl reads as the same Ed25519 key', async (context) => {
    if (!(await run('openssl', ['version']).catch(() => undefined))) context.skip();
    const { identity } = await loadIdentity(path);
    const { stdout } = await run('openssl', ['pkey', '-in', path, '-pubout']);
    expect(stdout).toBe(publicKeyFromNodeId(identity.nodeId).export({ format: 'pem', type: 'spki' }));
  });
});
