/**
 * Builds the native addon from source into `native/local/`, where the loader looks first.
 *
 * `--prebuilt` builds the binary that is committed instead: against glibc 2.17 with cargo-zigbuild,
 * so that it loads on any current Linux.
 */
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, renameSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { patchCrates } from './patch.js';

const root = fileURLToPath(new URL('./', import.meta.url));
const PREBUILT = {
  target: 'x86_64-unknown-linux-gnu',
  glibc: '2.17',
  file: 'prebuilt/tunnel-native.linux-x64-gnu.node',
};

function cargo(...args) {
  const { error, status } = spawnSync('cargo', args, {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, CARGO_TARGET_DIR: `${root}target`, RUSTFLAGS: withoutPaths() },
  });
  if (error?.code === 'ENOENT') {
    console.error('cargo was not found. Install Rust 1.91 or newer: https://rustup.rs');
    process.exit(1);
  }
  if (error) throw error;
  if (status !== 0) process.exit(status ?? 1);
}

/** Panics name source files: the binary must not carry the folders of the machine it was built on. */
function withoutPaths() {
  const home = process.env.CARGO_HOME ?? join(homedir(), '.cargo');
  const remap = (from, to) => `--remap-path-prefix=${from}=${to}`;
  const flags = [
    remap(join(home, 'registry', 'src'), 'crates'),
    remap(home, 'cargo'),
    remap(root, 'native/'),
  ];
  return [process.env.RUSTFLAGS, ...flags].filter(Boolean).join(' ');
}

function library(folder) {
  const name =
    process.platform === 'win32'
      ? 'tunnel_native.dll'
      : process.platform === 'darwin'
        ? 'libtunnel_native.dylib'
        : 'libtunnel_native.so';
  return `${root}target/${folder}/${name}`;
}

/** By way of a rename: a process that has the old file loaded keeps it, and none sees half a file. */
function install(from, to) {
  mkdirSync(new URL('.', new URL(to, import.meta.url)), { recursive: true });
  const file = `${root}${to}`;
  copyFileSync(from, `${file}.new`);
  renameSync(`${file}.new`, file);
  console.log(`native/${to}: ${(statSync(file).size / 1e6).toFixed(1)} MB`);
}

patchCrates();
if (process.argv.includes('--prebuilt')) {
  const { target, glibc, file } = PREBUILT;
  cargo('zigbuild', '--release', '--locked', '--target', `${target}.${glibc}`);
  install(library(`${target}/release`), file);
} else {
  cargo('build', '--release', '--locked');
  install(library('release'), 'local/tunnel-native.node');
}
