/** The log: what goes to stderr or a file beside what a command prints. Secrets are taken out here, last. */
import { appendFileSync } from 'node:fs';
import { TunnelError } from '../error.js';
import { redactTicket } from '../session/ticket.js';

export const LOG_LEVELS = ['error', 'warn', 'info', 'debug'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface Log {
  /** It does not go to the terminal. */
  readonly toFile: boolean;
  write(level: LogLevel, message: string): void;
}

/** To `file`, opened for appending at once, or to stderr. Throws USAGE when the file cannot be written. */
export function createLog(level: LogLevel, file: string | undefined): Log {
  const most = LOG_LEVELS.indexOf(level);
  const append = (text: string) => {
    if (file === undefined) process.stderr.write(text);
    // Synchronous, so that the last lines before a crash are there. Logs are rare lines, not data.
    else appendFileSync(file, text, { mode: 0o600 });
  };
  if (file !== undefined) {
    try {
      append('');
    } catch (error) {
      throw new TunnelError(
        'USAGE',
        `cannot write the log file ${file} (${(error as NodeJS.ErrnoException).code})`,
        {
          hint: 'choose a path in a writable folder',
          cause: error,
        },
      );
    }
  }
  return {
    toFile: file !== undefined || !process.stderr.isTTY,
    write(wanted, message) {
      if (LOG_LEVELS.indexOf(wanted) > most) return;
      const stamp = file === undefined ? '' : `${new Date().toISOString()} `;
      append(`${stamp}${wanted} ${redactTicket(message)}\n`);
    },
  };
}
