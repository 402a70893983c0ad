/**
 * Whether this process may open more files. At its limit libuv takes a connection with a descriptor it
 * keeps for that, and closes it at once: a clean end for a client that nobody served, and no event. Nor
 * can a Node server stop accepting and keep its backlog. So connections are refused a little earlier,
 * while there are still descriptors for that, and for everything else that must go on.
 */
import { closeSync, openSync, readFileSync, statSync } from 'node:fs';
import { devNull } from 'node:os';
import { systemCode } from '../error.js';

/** So many must be left. */
const RESERVE = 16;
/** Of this many that are free nobody takes three quarters within `PLENTY_FOR_MS`. */
const PLENTY = 4096;
const PLENTY_FOR_MS = 250;
/** How many connections a look is good for where there are fewer: less than the reserve, since others take descriptors too. */
const FEW_FOR = 8;
const FEW_FOR_MS = 20;

export class Descriptors {
  readonly #limit = descriptorLimit();
  #left = 0;
  #until = Number.NEGATIVE_INFINITY;

  /** Whether one more connection may stay. To be asked once for each. */
  take(): boolean {
    const now = performance.now();
    if ((this.#left === 0 || now >= this.#until) && !this.#look(now)) return false;
    this.#left -= 1;
    return true;
  }

  #look(now: number): boolean {
    const free = (this.#limit ?? 0) - (openFiles() ?? Number.POSITIVE_INFINITY);
    const plenty = free >= PLENTY;
    if (!plenty && !reserveIsFree()) return false;
    this.#left = plenty ? Math.floor(free / 4) : FEW_FOR;
    this.#until = now + (plenty ? PLENTY_FOR_MS : FEW_FOR_MS);
    return true;
  }
}

/** As many as must be left, opened and closed again: 50 µs. */
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

/** How many files are open. Linux tells since 6.2, without a look at each of them. */
function openFiles(): number | undefined {
  try {
    return statSync('/proc/self/fd').size || undefined;
  } catch {
    return undefined;
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
