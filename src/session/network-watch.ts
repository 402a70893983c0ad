/** Tells when the machine's network changed: an address came or went, a link went up or down. */
import { networkInterfaces } from 'node:os';

/** Node has no event for it; asking the kernel costs some 50 µs. */
const POLL_MS = 400;

/** Calls back on each change. Answers what ends it. */
export function watchNetwork(onChange: () => void): () => void {
  let last = fingerprint();
  const timer = setInterval(() => {
    const now = fingerprint();
    if (now === undefined || now === last) return;
    last = now;
    onChange();
  }, POLL_MS);
  timer.unref();
  return () => clearInterval(timer);
}

/** Interfaces without a carrier are not in the list, so a pulled cable changes it too. Undefined where the system does not tell. */
function fingerprint(): string | undefined {
  const lines: string[] = [];
  let interfaces: ReturnType<typeof networkInterfaces>;
  try {
    interfaces = networkInterfaces();
  } catch {
    // It needs a file descriptor. That there is none left says nothing about the network.
    return undefined;
  }
  for (const [name, addresses] of Object.entries(interfaces)) {
    for (const { address, internal } of addresses ?? []) {
      if (!internal) lines.push(`${name} ${address}`);
    }
  }
  return lines.sort().join('\n');
}
