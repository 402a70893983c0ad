/** Tells when the machine's network changed: an address came or went, a link went up or down. */
import { interfaceAddresses } from './interfaces.js';

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

/** A pulled cable changes it too. Undefined where the system does not tell. */
function fingerprint(): string | undefined {
  const own = interfaceAddresses()?.filter(({ internal }) => !internal);
  return own
    ?.map(({ name, address }) => `${name} ${address}`)
    .sort()
    .join('\n');
}
