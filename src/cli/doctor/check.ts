/** One line of `tunnel doctor`, and what it is made of. */
import { toTunnelError } from '../../error.js';
import { printable } from '../../session/frame.js';
import { EXIT_CANNOT_BIND, EXIT_CONFIG, EXIT_OS, EXIT_UNREACHABLE, exitCode } from '../exit-codes.js';

/** Every line there is, in the order in which they are told. Scripts go by the names; docs/networking.md has a row for each. */
export const CHECK_NAMES = [
  'node',
  'addon',
  'webtransport',
  'keys',
  'peers-book',
  'tickets',
  'identity-lock',
  'runtime',
  'processes',
  'open-files',
  'socket-buffers',
  'clock',
  'proxy',
  'port',
  'udp-loopback',
  'udp-lan',
  'ipv4',
  'ipv6',
  'mdns',
  'endpoint',
  'dns',
  'relay',
  'udp-out',
  'nat',
  'captive-portal',
  'peer-id',
  'peer-addresses',
  'peer-udp',
  'peer-connection',
  'peer-admission',
  'peer-services',
  'peer-ping',
  'peer-path',
] as const;

export type CheckName = (typeof CHECK_NAMES)[number];

export interface Check {
  readonly name: CheckName;
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

export function fine(name: CheckName, detail: string, better?: string): Check {
  return { name, ok: true, detail, ...(better === undefined ? {} : { fix: better }) };
}

export function problem(name: CheckName, detail: string, fix: string, blame: keyof typeof BLAME): Check {
  return { name, ok: false, detail, fix, exit: BLAME[blame] };
}

export function skipped(name: CheckName, why: string): Check {
  return { name, ok: true, detail: `${SKIPPED}${why}` };
}

/** What went wrong, by its own sentence, hint and code. */
export function failed(name: CheckName, cause: unknown, fix = 'see docs/networking.md'): Check {
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
