/**
 * Loads the native addon: a local build first, then the prebuilt one of this platform.
 */

import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const require = createRequire(import.meta.url);

/** Which C library this Linux has; other systems have no such choice. */
function libc() {
  if (process.platform !== 'linux') return '';
  // A report resolves the names of open sockets, which can take seconds where DNS does not answer.
  const { excludeNetwork } = process.report;
  process.report.excludeNetwork = true;
  try {
    return process.report.getReport().header.glibcVersionRuntime ? '-gnu' : '-musl';
  } finally {
    process.report.excludeNetwork = excludeNetwork;
  }
}

function load() {
  const platform = `${process.platform}-${process.arch}${libc()}`;
  const candidates = ['local/tunnel-native.node', `prebuilt/tunnel-native.${platform}.node`];
  const file = candidates
    .map((name) => fileURLToPath(new URL(name, import.meta.url)))
    .find((path) => existsSync(path));
  const advice = `Install Rust 1.91 or newer and run \`npm run build:native\` to use it.`;
  if (file === undefined) {
    const error = new Error(`There is no prebuilt iroh engine for ${platform}. ${advice}`);
    throw Object.assign(error, { code: 'ENGINE_UNAVAILABLE' });
  }
  try {
    return require(file);
  } catch (cause) {
    const error = new Error(`The iroh engine for ${platform} does not load. ${advice}`, { cause });
    throw Object.assign(error, { code: 'ENGINE_UNAVAILABLE' });
  }
}

export const { Endpoint, Connection, Stream, RelayServer, buildInfo } = load();

/** The kinds of event; see `index.d.ts`. */
export const EventKind = Object.freeze({
  CONNECTION: 1,
  BIDI: 2,
  UNI: 3,
  DATA: 4,
  END: 5,
  RESET: 6,
  STOPPED: 7,
  DRAIN: 8,
  DATAGRAMS: 9,
  PATH: 10,
  CLOSED: 11,
  PATH_NOTICE: 12,
  NEARBY: 13,
  RELAYS: 14,
  RELAY_ENDED: 15,
});
