/** Packets that the system dropped because a socket's receive buffer was full. Linux tells; elsewhere it is 0. */
import { readFileSync } from 'node:fs';

/** The tables list every socket of the machine, so what they said is used again for a moment. */
const KEEP_MS = 100;
/** At most this share of the time goes into reading them. */
const MAX_SHARE = 0.02;

let readAt = Number.NEGATIVE_INFINITY;
let keepMs = KEEP_MS;
let byPort: ReadonlyMap<number, number> = new Map();

/** Of the sockets on this local port that are open now. */
export function systemDrops(port: number): number {
  if (process.platform !== 'linux') return 0;
  const now = performance.now();
  if (now - readAt > keepMs) {
    byPort = readTables();
    readAt = performance.now();
    keepMs = Math.max(KEEP_MS, (readAt - now) / MAX_SHARE);
  }
  return byPort.get(port) ?? 0;
}

function readTables(): ReadonlyMap<number, number> {
  const drops = new Map<number, number>();
  for (const file of ['/proc/net/udp', '/proc/net/udp6']) {
    let text: string;
    try {
      text = readFileSync(file, 'utf8');
    } catch {
      continue;
    }
    for (const line of text.split('\n')) {
      // `slot: address:PORT …`, with the number of drops at the end.
      const fields = /^\s*\d+: [0-9A-F]+:([0-9A-F]{4}) .* (\d+)\s*$/.exec(line);
      if (!fields || fields[2] === '0') continue;
      const port = Number.parseInt(fields[1] as string, 16);
      drops.set(port, (drops.get(port) ?? 0) + Number(fields[2]));
    }
  }
  return drops;
}
