/** Secrets come by stdin or a file: arguments are seen by every user of the machine. */
import { TunnelError } from '../error.js';

const MAX_CHARACTERS = 64 * 1024;

/** All of stdin. Throws USAGE when it is a terminal, too long, or empty. `what` is for the sentence: `a ticket`. */
export async function readStdin(what: string, stdin: NodeJS.ReadStream = process.stdin): Promise<string> {
  if (stdin.isTTY) {
    throw new TunnelError('USAGE', `'-' reads ${what} from stdin, which is a terminal`, {
      hint: 'pipe it in, or use < file',
    });
  }
  let text = '';
  stdin.setEncoding('utf8');
  for await (const chunk of stdin) {
    text += chunk;
    if (text.length > MAX_CHARACTERS) throw new TunnelError('USAGE', `stdin is too long for ${what}`);
  }
  if (text.trim() === '') throw new TunnelError('USAGE', `stdin holds nothing, where ${what} belongs`);
  return text;
}
