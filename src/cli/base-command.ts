/** What every command shares: flags, files, output, and the one place where errors become exit codes. */

import { TunnelError, toTunnelError } from '../error.js';
import { type Identity, loadIdentity } from '../session/identity.js';
import { redactTicket } from '../session/ticket.js';
import { EXIT_USAGE, exitCode } from './exit-codes.js';
import { createLog, LOG_LEVELS, type LogLevel } from './log.js';
import { Command, Errors, Flags } from './oclif.js';
import { describeError, jsonOutput, type Output, plainOutput } from './output.js';
import { identityPath, type Paths, resolvePaths } from './paths.js';
import { PeerNames } from './peer-names.js';

export interface CommonFlags {
  readonly identity: string;
  readonly json: boolean;
  readonly plain: boolean;
  readonly 'log-level': string;
  readonly 'log-file'?: string | undefined;
}

export abstract class BaseCommand extends Command {
  static override baseFlags = {
    identity: Flags.string({
      description: 'identity to act as',
      default: 'default',
      helpGroup: 'GLOBAL',
      helpValue: '<name>',
    }),
    json: Flags.boolean({
      description: 'print one JSON object a line, and nothing else, on stdout',
      helpGroup: 'GLOBAL',
    }),
    plain: Flags.boolean({ description: 'print plain lines', helpGroup: 'GLOBAL' }),
    'log-level': Flags.string({
      description: 'how much to log',
      options: [...LOG_LEVELS],
      default: 'warn',
      helpGroup: 'GLOBAL',
    }),
    'log-file': Flags.string({
      description: 'log to this file instead of stderr',
      helpGroup: 'GLOBAL',
      helpValue: '<path>',
    }),
  };

  readonly paths: Paths = resolvePaths();
  /** What lines call peers. */
  readonly names = new PeerNames();
  #output: Output | undefined;

  protected output(flags: CommonFlags): Output {
    const log = createLog(flags['log-level'] as LogLevel, flags['log-file']);
    this.#output = flags.json ? jsonOutput(log) : plainOutput(log, this.names);
    return this.#output;
  }

  protected loadIdentity(flags: CommonFlags): Promise<{ identity: Identity; created: boolean }> {
    return loadIdentity(identityPath(this.paths, flags.identity));
  }

  protected override async finally(): Promise<void> {
    this.#output?.close();
  }

  protected override async catch(error: unknown): Promise<void> {
    if (error instanceof Errors.ExitError) throw error;
    this.#output?.close();
    const reason = isUsageError(error)
      ? usageError(error as Error, (this.id ?? '').replaceAll(':', ' '))
      : toTunnelError(error);
    reportFatal(reason, this.argv.includes('--json'));
    if (this.argv.join(' ').includes('--log-level debug') || this.argv.includes('--log-level=debug')) {
      process.stderr.write(`${redactTicket(reason.stack ?? '')}\n`);
    }
    this.exit(reason.code === 'USAGE' ? EXIT_USAGE : exitCode(reason.code));
  }
}

/** The error that ends the program: a sentence on stderr, and an `error` event on stdout where JSON is asked for. */
export function reportFatal(error: TunnelError, json: boolean): void {
  if (json) {
    const { code, message, hint } = error;
    const event = {
      event: 'error',
      time: new Date().toISOString(),
      code,
      message,
      ...(hint ? { hint } : {}),
    };
    process.stdout.write(`${redactTicket(JSON.stringify(event))}\n`);
  }
  process.stderr.write(`tunnel: ${describeError(error)}\n`);
}

function isUsageError(error: unknown): boolean {
  return error instanceof Errors.CLIError && !(error instanceof TunnelError);
}

/** oclif's parse errors carry several lines; the first is the sentence, or announces it. */
function usageError(error: Error, command: string): TunnelError {
  const hint = `see: tunnel ${command} --help`;
  const missing = (error as { args?: readonly { name: string }[] }).args;
  if (missing && /^Missing/.test(error.message)) {
    const names = missing.map(({ name }) => `<${name}>`).join(' ');
    return new TunnelError('USAGE', `'tunnel ${command}' needs ${names}`, { hint, cause: error });
  }
  const [first = error.message, second] = error.message.split('\n');
  const text = first.endsWith(':') && second !== undefined ? second.trim() : first;
  return new TunnelError('USAGE', text, { hint, cause: error });
}
