/** One table of a config file: reads its keys, and says where in the file something is wrong with one. */
import { TunnelError, toTunnelError } from '../../error.js';
import { printable } from '../../session/frame.js';

/** A value as it is written, for each key there is. */
export type Examples = Readonly<Record<string, string>>;

export interface SectionPlace {
  readonly path: string;
  readonly text: string;
  /** `expose`, `forward`; empty for what stands before all tables. */
  readonly table: string;
  /** Which of several of that name, from 0. */
  readonly index?: number;
}

const MAX_TOKEN = 80;

export class Section {
  readonly #values: Readonly<Record<string, unknown>>;
  readonly #examples: Examples;
  readonly #place: SectionPlace;

  /** Throws BAD_CONFIG for a key that is not among those of the examples. */
  constructor(values: Readonly<Record<string, unknown>>, examples: Examples, place: SectionPlace) {
    this.#values = values;
    this.#examples = examples;
    this.#place = place;
    const unknown = Object.keys(values).find((key) => !Object.hasOwn(examples, key));
    if (unknown !== undefined) throw this.#unknown(unknown);
  }

  has(key: string): boolean {
    return this.#values[key] !== undefined;
  }

  text(key: string): string | undefined {
    const value = this.#values[key];
    if (value === undefined) return undefined;
    if (typeof value === 'string' && value !== '') return value;
    throw this.fail(key, 'is no text');
  }

  flag(key: string): boolean | undefined {
    const value = this.#values[key];
    if (value === undefined || typeof value === 'boolean') return value;
    throw this.fail(key, 'is neither true nor false');
  }

  choice<T extends string>(key: string, options: readonly T[]): T | undefined {
    const value = this.text(key);
    const found = options.find((option) => option === value);
    if (value === undefined || found !== undefined) return found;
    throw this.fail(key, `is '${token(value)}'; it can be ${options.join(', ')}`, { token: value });
  }

  /** A list, or the one thing that would be in it. Ports may be numbers. */
  texts(key: string): readonly string[] | undefined {
    const value = this.#values[key];
    if (value === undefined) return undefined;
    const list = Array.isArray(value) ? value : [value];
    const wrong = list.find((one) => !isWord(one));
    if (wrong !== undefined) throw this.fail(key, `has ${kindOf(wrong)} where a text belongs`);
    return list.map(String);
  }

  /** A text, or a number that is as good. */
  word(key: string): string | undefined {
    const value = this.#values[key];
    if (value === undefined) return undefined;
    if (isWord(value)) return String(value);
    throw this.fail(key, `is ${kindOf(value)} where a text belongs`);
  }

  /** What `read` answers. What it throws is told as being wrong with `key`, and with `written` if that is all of it. */
  as<T>(key: string, written: string | undefined, read: () => T): T {
    try {
      return read();
    } catch (cause) {
      const { message, code, hint } = toTunnelError(cause);
      // Flags are what these sentences are about elsewhere.
      const said = message.replace(/(?<=^|[\s'(])--(?=[a-z])/g, '');
      const isAboutPeer = code === 'BAD_NODE_ID' || code === 'BAD_TICKET';
      throw this.fail(key, `: ${said}`, { token: written, hint: isAboutPeer ? hint : undefined, cause });
    }
  }

  /** BAD_CONFIG about a key: `problem` completes the sentence. */
  fail(key: string, problem: string, { token, hint, cause }: FailOptions = {}): TunnelError {
    const line = lineOf(this.#place, key, token);
    const { path } = this.#place;
    const where = `${path}${line === undefined ? '' : `:${line}`}`;
    const said = problem.startsWith(':') ? problem : ` ${problem}`;
    return new TunnelError('BAD_CONFIG', `${where}: '${printable(key)}'${this.#title()}${said}`, {
      hint: hint ?? this.#example(key),
      cause,
    });
  }

  #example(key: string): string | undefined {
    const example = this.#examples[key];
    return example === undefined ? undefined : `example: ${key} = ${example}`;
  }

  #title(): string {
    const { table, index } = this.#place;
    if (table === '') return '';
    return index === undefined ? ` in [${table}]` : ` in [[${table}]]${index > 0 ? ` ${index + 1}` : ''}`;
  }

  #unknown(key: string): TunnelError {
    const near = this.#near(key);
    const known = Object.keys(this.#examples).join(', ');
    const hint = near === undefined ? `known are: ${known}` : `example: ${near}`;
    return this.fail(key, 'is not known', { hint });
  }

  /** What was probably meant. */
  #near(key: string): string | undefined {
    const dashed = key.replaceAll('_', '-').toLowerCase();
    const positive = dashed.replace(/^no-/, '');
    const isNegated = positive !== dashed && !Object.hasOwn(this.#examples, dashed);
    if (isNegated && /^(?:true|false)$/.test(this.#examples[positive] ?? '')) return `${positive} = false`;
    const found = Object.keys(this.#examples).find((known) => distance(known, dashed) <= 2);
    return found === undefined ? undefined : `${found} = ${this.#examples[found]}`;
  }
}

interface FailOptions {
  /** What is wrong, as it is written: its line is named, which may not be that of the key. */
  readonly token?: string | undefined;
  /** Instead of the example. */
  readonly hint?: string | undefined;
  readonly cause?: unknown;
}

function isWord(value: unknown): boolean {
  return (typeof value === 'string' && value !== '') || Number.isInteger(value);
}

function kindOf(value: unknown): string {
  if (value === '') return 'an empty text';
  if (Array.isArray(value)) return 'a list';
  return typeof value === 'object' ? 'a table' : `${typeof value === 'number' ? '' : 'a '}${String(value)}`;
}

function token(text: string): string {
  return printable(text.slice(0, MAX_TOKEN));
}

/** Insertions, deletions and changes of a letter from one to the other. */
function distance(from: string, to: string): number {
  let row = [...Array(to.length + 1).keys()];
  for (const [i, letter] of [...from].entries()) {
    const next = [i + 1];
    for (let j = 0; j < to.length; j += 1) {
      const [left, above, corner] = [next[j] as number, row[j + 1] as number, row[j] as number];
      next.push(Math.min(left + 1, above + 1, corner + (letter === to[j] ? 0 : 1)));
    }
    row = next;
  }
  return row[to.length] as number;
}

/**
 * The line of a key, or of a token in its value. The parser does not tell, so tables and keys are looked for
 * as people write them; undefined for what is written in another way.
 */
function lineOf({ text, table, index = 0 }: SectionPlace, key: string, token?: string): number | undefined {
  const lines = text.split('\n');
  const header = (line: string) => /^\s*\[\[?\s*"?([\w-]+)"?\s*\]\]?/.exec(line)?.[1];
  let [seen, from] = [-1, table === '' ? 0 : undefined];
  for (let at = 0; from === undefined && at < lines.length; at += 1) {
    if (header(lines[at] as string) === table) seen += 1;
    if (seen === index) from = at + 1;
  }
  if (from === undefined) return undefined;
  const rest = lines.slice(from);
  const end = rest.findIndex((line) => header(line) !== undefined);
  const own = end < 0 ? rest : rest.slice(0, end);
  const at = own.findIndex((line) => keyOf(line) === key);
  if (at < 0) return undefined;
  const next = own.findIndex((line, i) => i > at && keyOf(line) !== undefined);
  const value = own.slice(at, next < 0 ? undefined : next);
  const inside = token === undefined ? -1 : value.findIndex((line) => line.includes(token));
  return from + at + Math.max(0, inside) + 1;
}

function keyOf(line: string): string | undefined {
  const match = /^\s*(?:"([\w-]+)"|([\w-]+))\s*=/.exec(line);
  return match?.[1] ?? match?.[2];
}
