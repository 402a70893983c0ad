/**
 * Where a command gets its peer from: argv, which every user of the machine can read, or a file or
 * stdin, which they cannot.
 */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { systemCode, TunnelError } from '../error.js';
import { Flags } from './oclif.js';

/** What stands for stdin on the command line. */
const STDIN = '-';
/** Longer than any ticket, with the line breaks it may have been pasted with. */
const MAX_BYTES = 16 * 1024;

export const ticketFileFlag = {
  'ticket-file': Flags.string({
    description: "read the peer's ticket from this file, '-' for stdin, instead of the command line",
    helpValue: '<path>',
  }),
};

export interface PeerArgumentOptions {
  readonly ticketFile: string | undefined;
  /** What follows `tunnel`, for the sentence that says what is missing. */
  readonly command: string;
  /** The name of the arguments after the peer, if there must be any. */
  readonly rest?: string;
}

/**
 * The text of the peer, and the arguments after it. With a ticket file there is no peer among `argv`.
 * Throws USAGE for what is missing, and for a file that cannot be read.
 */
export async function peerArgument(
  argv: readonly string[],
  { ticketFile, command, rest }: PeerArgumentOptions,
): Promise<{ readonly peer: string; readonly rest: readonly string[] }> {
  const [source, others] = ticketFile === undefined ? [argv[0], argv.slice(1)] : [undefined, argv];
  const missing = [
    ...(ticketFile === undefined && source === undefined ? ['<peer>'] : []),
    ...(rest !== undefined && others.length === 0 ? [rest] : []),
  ];
  if (missing.length > 0) {
    throw new TunnelError('USAGE', `'tunnel ${command}' needs ${missing.join(' ')}`, {
      hint: `see: tunnel ${command} --help`,
    });
  }
  if (ticketFile !== undefined && ticketFile !== STDIN)
    return { peer: await readTicketFile(ticketFile, warn(ticketFile)), rest: others };
  if (ticketFile === STDIN || source === STDIN) return { peer: await readTicketLine(), rest: others };
  return { peer: source as string, rest: others };
}

function warn(path: string): (fix: string) => void {
  return (fix) =>
    process.stderr.write(`warning: the ticket file ${path} can be read by others; run: ${fix}\n`);
}

/** `onOpenToOthers` is told how to mend the mode of a file that others can read, and may throw. Throws USAGE. */
export async function readTicketFile(path: string, onOpenToOthers: (fix: string) => void): Promise<string> {
  const cannot = (why: string, hint: string, cause?: unknown) =>
    new TunnelError('USAGE', `the ticket file ${path} ${why}`, { hint, cause });
  try {
    // A FIFO is as good as a file: it is read to its end.
    const file = await open(path, constants.O_RDONLY);
    try {
      const stat = await file.stat();
      if (process.platform !== 'win32' && stat.isFile() && (stat.mode & 0o077) !== 0) {
        onOpenToOthers(`chmod 600 '${path}'`);
      }
      let text = '';
      for await (const chunk of file.createReadStream({ encoding: 'utf8', autoClose: false })) {
        text += chunk;
        if (text.length > MAX_BYTES)
          throw cannot('is too large for a ticket', 'it holds one ticket, nothing else');
      }
      if (text.trim() === '') throw cannot('is empty', 'put the ticket in it, as tunnel expose printed it');
      return text.trim();
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof TunnelError) throw error;
    throw cannot(`cannot be read (${systemCode(error)})`, 'check its path and mode', error);
  }
}

/** The first line of stdin that says anything: whoever writes it may keep the pipe open. */
async function readTicketLine(): Promise<string> {
  if (process.stdin.isTTY) process.stderr.write('paste the ticket, then press enter: ');
  const lines = createInterface({ input: process.stdin, terminal: false });
  try {
    for await (const line of lines) {
      if (line.length > MAX_BYTES) break;
      if (line.trim() !== '') return line.trim();
    }
  } finally {
    lines.close();
    process.stdin.pause();
    if (!process.stdin.isTTY) process.stdin.destroy();
  }
  throw new TunnelError('USAGE', 'there was no ticket on stdin', {
    hint: 'examples: tunnel forward - 5432 < ticket.txt, tunnel forward --ticket-file ticket.txt 5432',
  });
}
