// Runs `node …` on this terminal, outlives the terminal, and tells a file how it ended:
//   node outlive-terminal.js <file> foreground|detached …
// The first line of the file is the pid, the second the exit code or the signal. A detached one is not
// signalled when the terminal hangs up.
import { spawn } from 'node:child_process';
import { appendFileSync } from 'node:fs';

const [file, how, ...args] = process.argv.slice(2);
process.on('SIGHUP', () => undefined);
process.on('SIGINT', () => undefined);
const child = spawn(process.execPath, args, { stdio: 'inherit', detached: how === 'detached' });
appendFileSync(file, `${child.pid}\n`);
child.on('exit', (code, signal) => {
  appendFileSync(file, `${signal ?? code}\n`);
  // Not by an exit, which fails in Node where a terminal has gone.
  process.kill(process.pid, 'SIGKILL');
});
