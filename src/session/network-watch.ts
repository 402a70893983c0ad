/** Tells when the machine's network changed: an address came or went, a link went up or down. */
import { networkInterfaces } from 'node:os';

/** Node has no event for it; asking the kernel costs some 50 µs. */
const POLL_MS = 400;

/** Calls back on each change. Answers what ends it. */
export function watchNetwork(onChange: () => void): () => void {
  let last = fingerprint();
  const timer = setInterval(() => {
    const now = fingerprint();
    if (now === last) return;
    last = now;
    onChange();
  }, POLL_MS);
  timer.unref();
  return () => clearInterval(timer);
}

/** Interfaces without a carrier are not in the list, so a pulled cable changes it too. */
function fingerprint(): string {
  const lines: string[] = [];
  for (const [name, addresses] of Object.entries(networkInterfaces())) {
    for (const { address, internal } of addresses ?? []) {
      if (!internal) lines.push(`${name} ${address}`);
    }
  }
  return lines.sort().join('\n');
}
