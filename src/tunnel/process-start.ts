/** Processes told apart from others that got their number since: by when they began. */
import { readFile } from 'node:fs/promises';
import { systemCode } from '../error.js';

/** Clock ticks since boot at which the process began; empty where the system does not tell. */
export async function startTime(pid: number): Promise<string> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  // The command's name, in parentheses, may hold anything; what follows it is regular.
  const ticks = text.slice(text.lastIndexOf(')') + 2).split(' ')[19] ?? '';
  return /^\d+$/.test(ticks) ? ticks : '';
}

/** Whether the process that began at `started` lives; where the system does not tell, whether any of that number does. */
export async function isAlive(pid: number, started: string): Promise<boolean> {
  try {
    process.kill(pid, 0);
  } catch (error) {
    // EPERM: it lives, under another user.
    return systemCode(error) === 'EPERM';
  }
  const now = await startTime(pid);
  return started === '' || now === '' || now === started;
}
