/** A fault of this program ends it, in words; and what it carried must not look as if it had come to its end. */
import { TunnelError } from '../error.js';
import { resetLive } from '../tunnel/live-sockets.js';
import { reportFatal } from './base-command.js';
import { exitCode } from './exit-codes.js';

/** What nobody caught, promises included, resets the connections and ends the process with INTERNAL. */
export function endOnFault(argv: readonly string[]): void {
  process.on('uncaughtException', (cause: unknown) => {
    resetLive();
    const message = cause instanceof Error ? cause.message : String(cause);
    const error = new TunnelError('INTERNAL', `a fault of this program ended it: ${message}`, {
      hint: 'start it again; with --log-level debug it says where, for a report',
      cause,
    });
    const debug = argv.includes('--log-level=debug') || argv.join(' ').includes('--log-level debug');
    // When the terminal has been given back: what a dashboard's screen shows goes with it.
    process.once('exit', () => {
      reportFatal(error, argv.includes('--json'));
      if (debug && cause instanceof Error) process.stderr.write(`${cause.stack}\n`);
    });
    process.exit(exitCode(error.code));
  });
}
