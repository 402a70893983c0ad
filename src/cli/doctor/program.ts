/** The program itself: Node and the addon. */
import { readFile } from 'node:fs/promises';
import { type AddonBuild, addonBuild } from '../../session/engines/iroh-library.js';
import { loadLibrary } from '../../session/engines/webtransport-library.js';
import { type Check, failed, fine, problem } from './check.js';

export async function programChecks(): Promise<readonly Check[]> {
  const text = await readFile(new URL('../../../package.json', import.meta.url), 'utf8');
  const { engines } = JSON.parse(text) as { readonly engines: { readonly node: string } };
  return [
    checkNode(process.versions.node, engines.node),
    await checkAddon(addonBuild),
    await checkWebTransport(loadLibrary),
  ];
}

/** `range` as in package.json: `^20.20.0 || >=24`. */
export function checkNode(version: string, range: string): Check {
  const supported = `supported: ${range}`;
  if (range.split('||').some((part) => satisfies(version, part.trim())))
    return fine('node', `${version} (${supported})`);
  return problem('node', `${version} is not ${supported}`, 'install Node 24, or 22.12 or later', 'system');
}

function satisfies(version: string, comparator: string): boolean {
  const match = /^(\^|>=)(\d+)(?:\.(\d+))?(?:\.(\d+))?$/.exec(comparator);
  if (!match) return false;
  const [major = 0, minor = 0, patch = 0] = version.split(/[.-]/).map(Number);
  const least = match.slice(2).map((part) => Number(part ?? 0)) as [number, number, number];
  if (match[1] === '^' && major !== least[0]) return false;
  const difference = major - least[0] || minor - least[1] || patch - least[2];
  return difference >= 0;
}

export async function checkAddon(build: () => Promise<AddonBuild>): Promise<Check> {
  try {
    const { version, iroh, target } = await build();
    return fine('addon', `${version} with iroh ${iroh}, built for ${target}`);
  } catch (error) {
    return failed('addon', error, 'run: npm run build:native');
  }
}

/** The other engine, for networks that drop UDP. */
export async function checkWebTransport(load: () => Promise<{ readonly http3: boolean }>): Promise<Check> {
  try {
    const { http3 } = await load();
    return fine('webtransport', http3 ? 'by HTTP/3 and HTTP/2' : 'by HTTP/2');
  } catch (error) {
    return failed('webtransport', error, 'run: npm ci');
  }
}
