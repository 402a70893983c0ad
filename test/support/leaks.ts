/** Shows that a test ended with nothing left open: sockets, servers, pipes, child processes, timers. */
import { readdir, readFile, readlink } from 'node:fs/promises';
import { afterEach, beforeEach, expect } from 'vitest';
import { eventually } from './eventually.js';

export type OpenResources = Readonly<Record<string, number>>;

export interface LeakOptions {
  readonly timeoutMs?: number;
  /** Called before each look. */
  readonly settle?: () => void;
}

/** What keeps the event loop alive now, counted by kind, and the sockets that no event loop knows of. */
export async function openResources(): Promise<OpenResources> {
  const counts: Record<string, number> = {};
  for (const kind of process.getActiveResourcesInfo()) counts[kind] = (counts[kind] ?? 0) + 1;
  // Work of the file system and the resolver ends by itself and says nothing about the code under test.
  for (const kind of ['FSReqPromise', 'FSReqCallback', 'Immediate', 'TickObject', 'CloseReq']) {
    delete counts[kind];
  }
  const sockets = await nativeSockets();
  if (sockets !== undefined) counts['socket descriptors'] = sockets;
  return counts;
}

/** Fails when, within `timeoutMs`, anything is still open that was not in `before`. */
export async function expectNothingLeft(
  before: OpenResources,
  { timeoutMs = 10_000, settle }: LeakOptions = {},
): Promise<void> {
  let left: Record<string, number> = {};
  const clean = await eventually(async () => {
    settle?.();
    left = {};
    for (const [kind, count] of Object.entries(await openResources())) {
      const more = count - (before[kind] ?? 0);
      if (more > 0) left[kind] = more;
    }
    return Object.keys(left).length === 0;
  }, timeoutMs);
  if (!clean) expect(left, 'resources left open').toEqual({});
}

/** Checks every test of the surrounding `describe`, or file. Call it before any other hook. */
export function checkLeaks(options?: LeakOptions): void {
  let before: OpenResources = {};
  beforeEach(async () => {
    before = await openResources();
  });
  afterEach(async () => {
    await expectNothingLeft(before, options);
  });
}

/** The addon's sockets are not Node's: only the system can count them. Undefined where there is no /proc. */
async function nativeSockets(): Promise<number | undefined> {
  if (process.platform !== 'linux') return undefined;
  const names = await readdir('/proc/self/fd').catch(() => undefined);
  if (!names) return undefined;
  const links = await Promise.all(names.map((name) => readlink(`/proc/self/fd/${name}`).catch(() => '')));
  // Those of the addon that are no network's are its runtime's own, made once in a process.
  const local = new Set(
    (await readFile('/proc/net/unix', 'utf8').catch(() => ''))
      .split('\n')
      .map((line) => `socket:[${line.trim().split(/\s+/)[6]}]`),
  );
  return links.filter((link) => link.startsWith('socket:') && !local.has(link)).length;
}
