/** The program: runs a command, and is the one place that ends the process. */

import { TunnelError, toTunnelError } from '../error.js';
import { reportFatal } from './base-command.js';
import { endOnFault } from './crash.js';
import { EXIT_USAGE, exitCode } from './exit-codes.js';
import { endWithOutput } from './hang-up.js';
import { Errors, flush, run } from './oclif.js';

export async function main(argv: string[], url: string): Promise<void> {
  endOnFault(argv);
  // Who reads our output may go away: that ends the program, without a complaint.
  endWithOutput();
  const code = await runCommand(argv, url);
  // What a terminal that hangs has not taken by then, it does not get.
  await flush().catch(() => undefined);
  process.exit(code);
}

async function runCommand(argv: string[], url: string): Promise<number> {
  try {
    await run(argv, url);
    return 0;
  } catch (error) {
    if (error instanceof Errors.ExitError) return error.oclif.exit ?? 0;
    const reason = error instanceof Errors.CLIError ? unknownCommand(error) : toTunnelError(error);
    reportFatal(reason, argv.includes('--json'));
    return reason.code === 'USAGE' ? EXIT_USAGE : exitCode(reason.code);
  }
}

function unknownCommand(error: Error): TunnelError {
  return new TunnelError('USAGE', error.message.split('\n')[0] ?? error.message, {
    hint: 'see: tunnel --help',
    cause: error,
  });
}
