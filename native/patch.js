/**
 * What this crate changes in the crates it is built from: published sources with one line replaced, made
 * anew on every machine that builds, never stored here. `Cargo.toml` points at what this writes.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/**
 * iroh 1.4.1 drops a transmit of up to 20 datagrams whenever the socket says "not now", and tokio makes it
 * say so to a task that has handled 128 things in one go: a connection with that many packets to read drops
 * its own acknowledgements. So the connection's driver is polled outside tokio's budget; what bounds a turn
 * is noq's own limit. To be deleted when iroh waits instead of dropping, or noq polls its driver this way.
 */
const PATCH = {
  crate: 'noq',
  version: '1.4.0',
  checksum: '6249a065adc1edbc1704a95436f38dd60476064dbc3b7c47cf279e02d1590eb5',
  file: 'src/connection.rs',
  from: 'if let Err(e) = driver.await {',
  to: 'if let Err(e) = tokio::task::unconstrained(driver).await {',
};

const { crate, version, checksum, file, from, to } = PATCH;
const root = fileURLToPath(new URL('./', import.meta.url));
const name = `${crate}-${version}`;
const folder = join(root, 'target', 'patched');
const made = join(folder, crate);
/** Which patch the folder was made with. */
const stamp = join(made, '.patched');
const id = createHash('sha256').update(JSON.stringify(PATCH)).digest('hex');

/** Answers at once where the sources are there already. Throws with one sentence that says what failed. */
export function patchCrates() {
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === id) return;
  const archive = published() ?? download();
  if (createHash('sha256').update(readFileSync(archive)).digest('hex') !== checksum) {
    throw new Error(`${name}.crate is not the one that was published: its SHA-256 differs`);
  }
  const fresh = join(folder, `new-${process.pid}`);
  mkdirSync(fresh, { recursive: true });
  run('tar', ['xzf', archive, '-C', fresh]);
  const source = join(fresh, name, file);
  const parts = readFileSync(source, 'utf8').split(from);
  if (parts.length !== 2) throw new Error(`${name}: ${file} has ${parts.length - 1} places to change, not 1`);
  writeFileSync(source, parts.join(to));
  writeFileSync(join(fresh, name, '.patched'), id);
  rmSync(made, { recursive: true, force: true });
  renameSync(join(fresh, name), made);
  rmSync(fresh, { recursive: true });
}

function published() {
  const cache = join(process.env.CARGO_HOME ?? join(homedir(), '.cargo'), 'registry', 'cache');
  if (!existsSync(cache)) return undefined;
  return readdirSync(cache)
    .map((registry) => join(cache, registry, `${name}.crate`))
    .find((path) => existsSync(path));
}

/** `cargo info` fetches the one crate that it is asked about. Elsewhere, so that it minds no manifest of ours. */
function download() {
  run('cargo', ['info', '--quiet', '--registry', 'crates-io', `${crate}@${version}`], { cwd: tmpdir() });
  const archive = published();
  if (archive === undefined) throw new Error(`cargo did not download ${name}`);
  return archive;
}

function run(command, args, options = {}) {
  const { error, status } = spawnSync(command, args, { ...options, stdio: ['ignore', 'ignore', 'inherit'] });
  if (error) throw error;
  if (status !== 0) throw new Error(`${command} ${args[0]} ended with ${status}`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) patchCrates();
