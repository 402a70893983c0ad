/** What a process does when who reads its output has gone: a pipe's reader, or the whole terminal. */
import { closeSync, openSync } from 'node:fs';
import { devNull } from 'node:os';
import { isatty } from 'node:tty';
import { EXIT_OK, EXIT_SIGHUP } from './exit-codes.js';

const STANDARD = [0, 1, 2];

/** To be called once, before anything is written. */
export function endWithOutput(): void {
  // Before oclif's own listener, which throws everything but EPIPE: a terminal that hangs up says EIO.
  process.stdout.prependListener('error', (error: NodeJS.ErrnoException) => {
    // As the SIGHUP would that is on its way.
    process.exit(error.code === 'EIO' ? EXIT_SIGHUP : EXIT_OK);
  });
  // A log that nobody reads is no reason to end a tunnel.
  process.stderr.on('error', () => undefined);
  const terminals = STANDARD.filter((fd) => isatty(fd));
  process.on('exit', () => terminals.forEach(replaceIfGone));
}

/**
 * SIGHUP of a terminal that has gone ends the process, as `endWithOutput` does; any other one is somebody who
 * asks for the files to be read again. Answers what ends it.
 */
export function onHangUp(reload: () => void): () => void {
  const terminals = STANDARD.filter((fd) => isatty(fd));
  const handle = () => {
    // The system takes the terminal away before it tells. Windows tells of nothing else.
    if (process.platform === 'win32' || terminals.some((fd) => !isatty(fd))) process.exit(EXIT_SIGHUP);
    reload();
  };
  process.on('SIGHUP', handle);
  return () => process.off('SIGHUP', handle);
}

/**
 * At its end Node sets each terminal it was started on to how it was, and before 22.17 and 24.1 it aborts
 * when that fails because the terminal has gone. Descriptors of other files it leaves alone.
 */
function replaceIfGone(fd: number): void {
  if (isatty(fd)) return;
  try {
    closeSync(fd);
    // Takes the number that has just become free, so that a late write does not end up somewhere else.
    openSync(devNull, 'r+');
  } catch {
    // It was closed already, which is as good.
  }
}
