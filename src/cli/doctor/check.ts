/** One line of `tunnel doctor`, and what it is made of. */
import { toTunnelError } from '../../error.js';
import { printable } from '../../session/frame.js';
import { EXIT_CANNOT_BIND, EXIT_CONFIG, EXIT_OS, EXIT_UNREACHABLE, exitCode } from '../exit-codes.js';

export interface Check {
  /** Fixed: scripts go by it, and docs/networking.md has a row of the same name. */
  readonly name: string;
  readonly ok: boolean;
  /** Where the check does not apply it begins with `skipped: `. */
  readonly detail: string;
  /** What to do; beside `ok` what could be better. */
  readonly fix?: string;
  /** What a problem ends the program with. */
  readonly exit?: number;
}

/** Whose a problem is: it says the exit code. */
export const BLAME = {
  config: EXIT_CONFIG,
  system: EXIT_OS,
  port: EXIT_CANNOT_BIND,
  network: EXIT_UNREACHABLE,
} as const;

const SKIPPED = 'skipped: ';

export function fine(name: string, detail: string, better?: string): Check {
  return { name, ok: true, detail, ...(better === undefined ? {} : { fix: better }) };
}

export function problem(name: string, detail: string, fix: string, blame: keyof typeof BLAME): Check {
  return { name, ok: false, detail, fix, exit: BLAME[blame] };
}

export function skipped(name: string, why: string): Check {
  return { name, ok: true, detail: `${SKIPPED}${why}` };
}

/** What went wrong, by its own sentence, hint and code. */
export function failed(name: string, cause: unknown, fix = 'see docs/networking.md'): Check {
  const { message, hint, code } = toTunnelError(cause);
  return { name, ok: false, detail: message, fix: hint ?? fix, exit: exitCode(code) };
}

/** What scripts get. */
export function checkJson({ name, ok, detail, fix }: Check): { event: 'check' } & Record<string, unknown> {
  return { event: 'check', name, ok, detail, ...(fix === undefined ? {} : { fix }) };
}

const NAME_WIDTH = 16;

/** What people get. A relay's or a peer's own words may be in it. */
export function checkLines({ name, ok, detail, fix }: Check): readonly string[] {
  const isSkipped = ok && detail.startsWith(SKIPPED);
  const word = ok ? (isSkipped ? 'skipped' : 'ok') : 'problem';
  const text = isSkipped ? detail.slice(SKIPPED.length) : detail;
  const indent = ' '.repeat(8 + 1 + NAME_WIDTH + 1);
  return [
    `${word.padEnd(8)} ${name.padEnd(NAME_WIDTH)} ${printable(text)}`,
    ...(fix === undefined ? [] : [`${indent}${ok ? 'better' : 'fix'}: ${printable(fix)}`]),
  ];
}

export function summaryLine(checks: readonly Check[]): string {
  const problems = checks.filter(({ ok }) => !ok).length;
  const count = problems === 0 ? 'no problem' : `${problems} problem${problems === 1 ? '' : 's'}`;
  return `${checks.length} checks, ${count}`;
}

/** That of the first problem; 0 without any. */
export function doctorExitCode(checks: readonly Check[]): number {
  return checks.find(({ ok }) => !ok)?.exit ?? 0;
}
