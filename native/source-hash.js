/**
 * The hash that `build.rs` embeds, computed from the sources at hand: where the two differ, the
 * binary was built from something else. A change to one is a change to the other.
 */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = new URL('./', import.meta.url);

export function sourceHash() {
  const names = ['src', 'patches']
    .flatMap((folder) => filesIn(folder))
    .concat('build.rs', 'patch.js', 'Cargo.toml', 'Cargo.lock')
    .sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  const hash = createHash('sha256');
  for (const name of names) {
    const text = readFileSync(new URL(name, root), 'utf8').replaceAll('\r\n', '\n');
    hash.update(`${name}\0${Buffer.byteLength(text)}\0`);
    hash.update(text);
  }
  return hash.digest('hex');
}

function filesIn(folder) {
  return readdirSync(new URL(`${folder}/`, root), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, entry));
}

/** With `/` on every system. Node before 20.12 calls the folder of an entry `path`. */
function relative(top, entry) {
  const folder = (entry.parentPath ?? entry.path).replaceAll('\\', '/');
  const start = fileURLToPath(new URL(top, root)).replaceAll('\\', '/');
  return `${top}${folder.slice(start.length)}/${entry.name}`.replace(`${top}//`, `${top}/`);
}
