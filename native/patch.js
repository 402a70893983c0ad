/**
 * What this crate changes in the crates it is built from: published sources with a few lines replaced and
 * the files of `patches/` added, made anew on every machine that builds, never stored here. `Cargo.toml`
 * points at what this writes.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** `added` is by path in the crate, from a file of `patches/`; what is replaced must be there exactly once. */
const PATCHES = [
  {
    crate: 'noq',
    version: '1.4.0',
    checksum: '6249a065adc1edbc1704a95436f38dd60476064dbc3b7c47cf279e02d1590eb5',
    added: { 'src/here.rs': 'here.rs' },
    replaced: [
      /**
       * iroh 1.4.1 drops a transmit of up to 20 datagrams whenever the socket says "not now", and tokio makes
       * it say so to a task that has handled 128 things in one go: a connection with that many packets to read
       * drops its own acknowledgements. So the connection's driver is polled outside tokio's budget; what
       * bounds a turn is noq's own limit. To be deleted when iroh waits instead of dropping, or noq polls its
       * driver this way. `here.rs` says why the drivers are movable.
       */
      [
        'src/connection.rs',
        'if let Err(e) = driver.await {',
        'if let Err(e) = crate::here::movable(tokio::task::unconstrained(driver)).await {',
      ],
      [
        'src/endpoint.rs',
        'if let Err(e) = driver.await {',
        'if let Err(e) = crate::here::movable(driver).await {',
      ],
      [
        'src/endpoint.rs',
        'self.recv_limiter.record_work(msgs);',
        'self.recv_limiter.record_work(msgs);\n                    crate::here::count(&metas[..msgs]);',
      ],
      ['src/lib.rs', 'mod event_stream;', 'mod event_stream;\npub mod here;'],
      // For who would rather have a lock that is free than wait for it.
      [
        'src/mutex.rs',
        'guard: self.inner.lock().unwrap(),\n            }\n        }\n',
        `guard: self.inner.lock().unwrap(),
            }
        }

        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            Some(MutexGuard {
                guard: self.inner.try_lock().ok()?,
            })
        }
`,
      ],
      [
        'src/send_stream.rs',
        '    fn execute_poll<F, R>(',
        `    /// Whether the connection's lock is free and its driver waits for something to do.
    pub fn is_quiet(&self) -> bool {
        self.conn.is_quiet()
    }

    fn execute_poll<F, R>(`,
      ],
      [
        'src/connection.rs',
        'impl ConnectionInner {',
        `impl ConnectionInner {
    pub(crate) fn is_quiet(&self) -> bool {
        self.state
            .try_lock()
            .is_some_and(|state| state.driver.is_some())
    }
`,
      ],
    ],
  },
  {
    crate: 'noq-proto',
    version: '1.4.0',
    checksum: 'c01a35be3ed37558c8db69554419f24eff8a63599b54f711bbe3863ec727c47d',
    added: {},
    replaced: [
      /**
       * A packet sent before anything of the path was measured (the first of a handshake, a path's first
       * challenge, often into a NAT that is not open yet) says nothing of a window that nothing has filled.
       * noq ends slow start for it: at 200 ms, 0.4 Mbit/s of 50 for as long as a transfer takes. TCP keeps its
       * slow start when a SYN is lost (RFC 5681, 3.1). To be deleted when noq does too.
       */
      [
        'src/connection/mod.rs',
        '            if lost_ack_eliciting {\n',
        `            let is_measured = self
                .path_data(path_id)
                .first_packet_after_rtt_sample
                .is_some_and(|first| first <= (pn_space.kind(), largest_lost));
            if lost_ack_eliciting && is_measured {
`,
      ],
    ],
  },
  {
    crate: 'netwatch',
    version: '0.19.3',
    checksum: '39da9cad5f23aa43401f09497d3b280e51b5feba115d9ffbf38ca35d6ff95e96',
    added: { 'src/waiting.rs': 'waiting.rs' },
    replaced: [
      ['Cargo.toml', '[dependencies.ipnet]', '[dependencies.libc]\nversion = "0.2"\n\n[dependencies.ipnet]'],
      [
        'src/lib.rs',
        '#[cfg(not(wasm_browser))]\nmod udp;',
        `#[cfg(unix)]
pub mod waiting;
/// Where the runtime always waits.
#[cfg(windows)]
#[allow(missing_docs)]
pub mod waiting {
    pub(crate) use tokio::net::UdpSocket;
    pub fn lend() {}
    pub fn take_back() {}
    pub fn is_lent() -> bool {
        false
    }
    pub fn is_readable(_: i32) -> bool {
        false
    }
    pub fn arrived() {}
}
// As for every crate that is not a path's.
#[allow(deprecated)]
#[cfg(not(wasm_browser))]
mod udp;`,
      ],
      ['src/udp.rs', 'socket: tokio::net::UdpSocket,', 'socket: crate::waiting::UdpSocket,'],
      [
        'src/udp.rs',
        'io::Result<(&tokio::net::UdpSocket, &noq_udp',
        'io::Result<(&crate::waiting::UdpSocket, &noq_udp',
      ],
      [
        'src/udp.rs',
        'tokio::net::UdpSocket::from_std(socket)?',
        'crate::waiting::UdpSocket::from_std(socket)?',
      ],
      ['src/udp.rs', 'Option<(tokio::net::UdpSocket, noq_udp', 'Option<(crate::waiting::UdpSocket, noq_udp'],
    ],
  },
];

const root = fileURLToPath(new URL('./', import.meta.url));
const folder = join(root, 'target', 'patched');

/** Answers at once where the sources are there already. Throws with one sentence that says what failed. */
export function patchCrates() {
  for (const patch of PATCHES) patchCrate(patch);
}

function patchCrate(patch) {
  const { crate, version, checksum, added, replaced } = patch;
  const name = `${crate}-${version}`;
  const made = join(folder, crate);
  const additions = Object.entries(added).map(([path, from]) => [path, join(root, 'patches', from)]);
  const id = createHash('sha256').update(JSON.stringify(patch));
  for (const [, from] of additions) id.update(readFileSync(from));
  /** Which patch the folder was made with. */
  const stamp = id.digest('hex');
  if (existsSync(join(made, '.patched')) && readFileSync(join(made, '.patched'), 'utf8') === stamp) return;
  const archive = published(name) ?? download(crate, version);
  if (createHash('sha256').update(readFileSync(archive)).digest('hex') !== checksum) {
    throw new Error(`${name}.crate is not the one that was published: its SHA-256 differs`);
  }
  const fresh = join(folder, `new-${process.pid}`);
  mkdirSync(fresh, { recursive: true });
  run('tar', ['xzf', archive, '-C', fresh]);
  for (const [file, from, to] of replaced) {
    const source = join(fresh, name, file);
    const parts = readFileSync(source, 'utf8').split(from);
    if (parts.length !== 2) {
      throw new Error(`${name}: ${file} has ${parts.length - 1} places to change, not 1: ${from}`);
    }
    writeFileSync(source, parts.join(to));
  }
  for (const [path, from] of additions) {
    mkdirSync(dirname(join(fresh, name, path)), { recursive: true });
    copyFileSync(from, join(fresh, name, path));
  }
  writeFileSync(join(fresh, name, '.patched'), stamp);
  rmSync(made, { recursive: true, force: true });
  renameSync(join(fresh, name), made);
  rmSync(fresh, { recursive: true });
}

function published(name) {
  const cache = join(process.env.CARGO_HOME ?? join(homedir(), '.cargo'), 'registry', 'cache');
  if (!existsSync(cache)) return undefined;
  return readdirSync(cache)
    .map((registry) => join(cache, registry, `${name}.crate`))
    .find((path) => existsSync(path));
}

/** `cargo info` fetches the one crate that it is asked about. Elsewhere, so that it minds no manifest of ours. */
function download(crate, version) {
  run('cargo', ['info', '--quiet', '--registry', 'crates-io', `${crate}@${version}`], { cwd: tmpdir() });
  const archive = published(`${crate}-${version}`);
  if (archive === undefined) throw new Error(`cargo did not download ${crate}-${version}`);
  return archive;
}

function run(command, args, options = {}) {
  const { error, status } = spawnSync(command, args, { ...options, stdio: ['ignore', 'ignore', 'inherit'] });
  if (error) throw error;
  if (status !== 0) throw new Error(`${command} ${args[0]} ended with ${status}`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) patchCrates();
