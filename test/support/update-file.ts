/** A process of its own that adds `count` lines to a safe file, or holds its lock until it is killed. */
import { withFileLock } from '../../src/tunnel/file-lock.js';
import { updateSafeFile } from '../../src/tunnel/safe-file.js';

const [path = '', name = '', count = '0'] = process.argv.slice(2);
if (count === 'hold') {
  await withFileLock(path, async () => {
    process.stdout.write('held\n');
    await new Promise((resolve) => setTimeout(resolve, 60_000));
  });
} else {
  for (let line = 0; line < Number(count); line += 1) {
    // Pauses of many lengths: the lock is made, waited for and taken away at every point of another's way.
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 20));
    await updateSafeFile({ path, what: 'test file', maxBytes: 1 << 20 }, (text = '') => ({
      text: `${text}${name} ${line}\n`,
      result: undefined,
    }));
  }
}
