/**
 * Whether this process may open more files. At its limit libuv takes a connection with a descriptor it
 * keeps for that, and closes it at once: a clean end for a client that nobody served, and no event. Nor
 * can a Node server stop accepting and keep its backlog. So connections are refused a little earlier,
 * while there are still descriptors for that, and for everything else that must go on.
 */
import { closeSync, openSync, readFileSync } from 'node:fs';
import { devNull } from 'node:os';
import { systemCode } from '../error.js';

/** So many must be left. */
const RESERVE = 16;
/** How many connections one look is good for: less than the reserve, since others take descriptors too. */
const GOOD_FOR = 8;
const GOOD_FOR_MS = 20;

export class Descriptors {
  #left = 0;
  #until = Number.NEGATIVE_INFINITY;

  /** Whether one more connection may stay. To be asked once for each. */
  take(): boolean {
    const now = performance.now();
    if (this.#left === 0 || now >= this.#until) {
      if (!reserveIsFree()) return false;
      this.#left = GOOD_FOR;
      this.#until = now + GOOD_FOR_MS;
    }
    this.#left -= 1;
    return true;
  }
}

/** Counting would take a look at every open file; opening as many as must be left costs 50 µs. */
function reserveIsFree(): boolean {
  // Sockets are no files there, and have no such limit.
  if (process.platform === 'win32') return true;
  const files: number[] = [];
  try {
    while (files.length < RESERVE) files.push(openSync(devNull, 'r'));
    return true;
  } catch (error) {
    const code = systemCode(error);
    return code !== 'EMFILE' && code !== 'ENFILE';
  } finally {
    for (const file of files) closeSync(file);
  }
}

/** How many files this process may have open, where the system tells. Needs a free descriptor. */
export function descriptorLimit(): number | undefined {
  try {
    const line = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'));
    return line ? Number(line[1]) : undefined;
  } catch {
    return undefined;
  }
}
