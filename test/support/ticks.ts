/** Lets everything that is under way inside this process arrive: turns of the event loop, no time. */
export async function ticks(count = 10): Promise<void> {
  for (let i = 0; i < count; i += 1) await new Promise((resolve) => setImmediate(resolve));
}
