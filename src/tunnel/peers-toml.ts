/**
 * The peers book as TOML, which people edit too: a change rewrites only the tables of the peers it is
 * about, and leaves comments and everything else as they are.
 */
import { parse, TomlDate } from 'smol-toml';
import { isNodeId, type NodeId } from '../session/node-id.js';
import { isSocketAddress } from '../session/ticket.js';
import { EVERY_SERVICE, isPeerName, type PeerEntry, type PeersBook } from './peers-book.js';
import { isServiceRight } from './spec.js';

const TOKEN = /^[A-Za-z0-9_-]{22}$/;
const HEADER = `# Peers by name, and what each may reach on this machine. 'tunnel peers' changes it, and so may you:
# a running 'tunnel expose' follows at once. It may hold tokens, so it is for your eyes only.
`;

/** Throws a plain error whose message completes `the peers book …`. */
export function parsePeersBook(text: string): PeersBook {
  let root: Record<string, unknown>;
  try {
    root = parse(text);
  } catch (error) {
    const { line, message } = error as { readonly line?: number; readonly message: string };
    // The rest of the message quotes the file, which may hold tokens.
    const what = message.split('\n')[0]?.replace(/^Invalid TOML document: /, '');
    throw new Error(`is no TOML${line === undefined ? '' : ` at line ${line}`}: ${what}`);
  }
  const { peers = {}, ...others } = root;
  const [other] = Object.keys(others);
  if (other !== undefined)
    throw new Error(`has '${other}', which is not known; it holds [peers.<name>] tables`);
  if (!isTable(peers)) throw new Error("has 'peers' that is no table");
  const book = new Map<string, PeerEntry>();
  const names = new Map<NodeId, string>();
  for (const [name, value] of Object.entries(peers)) {
    if (!isPeerName(name)) throw new Error(`has the name '${name}', which cannot be one`);
    if (!isTable(value)) throw new Error(`has 'peers.${name}' that is no table`);
    const entry = parseEntry(value, (problem) => new Error(`has [peers.${name}] with ${problem}`));
    const twin = names.get(entry.nodeId);
    if (twin !== undefined) throw new Error(`has '${twin}' and '${name}' with one node ID`);
    names.set(entry.nodeId, name);
    book.set(name, entry);
  }
  return book;
}

/** The text of `after`, keeping of `text`, which is `before`, all that is not about a peer that changed. */
export function editPeersBook(text: string, before: PeersBook, after: PeersBook): string {
  const edited = editBlocks(text, before, after);
  // Written in another style than this program's, its tables cannot be told apart line by line.
  return isSameBook(edited, after) ? edited : formatPeersBook(after);
}

export function formatPeersBook(book: PeersBook): string {
  return `${HEADER}${[...book].map(([name, entry]) => `\n${formatEntry(name, entry)}`).join('')}`;
}

function isSameBook(text: string, book: PeersBook): boolean {
  try {
    return canonical(parsePeersBook(text)) === canonical(book);
  } catch {
    return false;
  }
}

function canonical(book: PeersBook): string {
  return [...book]
    .map(([name, entry]) => formatEntry(name, entry))
    .sort()
    .join('');
}

interface Block {
  /** Of whom it is; undefined for what is before the first table. */
  readonly name: string | undefined;
  /** Comments and blank lines before its header. */
  readonly above: readonly string[];
  readonly lines: readonly string[];
}

function editBlocks(text: string, before: PeersBook, after: PeersBook): string {
  const done = new Set<string>();
  const changed = (name: string) => {
    const [old, entry] = [before.get(name), after.get(name)];
    return !old || !entry || formatEntry(name, old) !== formatEntry(name, entry);
  };
  const parts = splitBlocks(text === '' ? HEADER : text).flatMap(({ name, above, lines }) => {
    if (name === undefined || !changed(name)) {
      if (name !== undefined) done.add(name);
      return [...above, ...lines];
    }
    const entry = after.get(name);
    if (!entry || done.has(name)) return [];
    done.add(name);
    return [...above, ...formatEntry(name, entry).trimEnd().split('\n'), ...trailingBlanks(lines)];
  });
  let edited = parts.join('\n').replace(/\n*$/, '\n');
  for (const [name, entry] of after) if (!done.has(name)) edited += `\n${formatEntry(name, entry)}`;
  return edited;
}

function splitBlocks(text: string): readonly Block[] {
  const blocks: { name: string | undefined; above: string[]; lines: string[] }[] = [
    { name: undefined, above: [], lines: [] },
  ];
  for (const line of text.split('\n')) {
    const last = blocks.at(-1) as (typeof blocks)[number];
    if (!/^\s*\[/.test(line)) {
      last.lines.push(line);
      continue;
    }
    const name = peerOfHeader(line);
    if (name !== undefined && name === last.name) {
      last.lines.push(line);
      continue;
    }
    // Comments right above a header are about what follows; those after the values before it as well.
    let from = last.lines.length;
    while (from > 0 && /^\s*#/.test(last.lines[from - 1] as string)) from -= 1;
    if (last.name === undefined) from = last.lines.length;
    blocks.push({ name, above: last.lines.splice(from), lines: [line] });
  }
  return blocks;
}

function peerOfHeader(line: string): string | undefined {
  try {
    const { peers } = parse(line) as { readonly peers?: unknown };
    return isTable(peers) ? Object.keys(peers)[0] : undefined;
  } catch {
    return undefined;
  }
}

function trailingBlanks(lines: readonly string[]): readonly string[] {
  let from = lines.length;
  while (from > 0 && (lines[from - 1] as string).trim() === '') from -= 1;
  return lines.slice(from);
}

function formatEntry(name: string, entry: PeerEntry): string {
  const key = (text: string) => (/^[A-Za-z0-9_-]+$/.test(text) ? text : JSON.stringify(text));
  const list = (texts: Iterable<string>) => `[${[...texts].map((text) => JSON.stringify(text)).join(', ')}]`;
  const until = [...entry.allow].filter((pair): pair is [string, number] => pair[1] !== undefined);
  const lines = [
    `[peers.${key(name)}]`,
    `id = "${entry.nodeId}"`,
    ...(entry.addresses.length > 0 ? [`addresses = ${list(entry.addresses)}`] : []),
    ...(entry.relays.length > 0 ? [`relays = ${list(entry.relays)}`] : []),
    ...(entry.webtransport.length > 0
      ? [
          `webtransport = ${list(entry.webtransport.map(({ address, certificateHash }) => `${address},${certificateHash}`))}`,
        ]
      : []),
    ...(entry.token === undefined ? [] : [`token = "${entry.token}"`]),
    ...(entry.allow.size > 0 ? [`allow = ${list(entry.allow.keys())}`] : []),
    ...(until.length > 0
      ? [`until = { ${until.map(([one, ms]) => `${key(one)} = ${new Date(ms).toISOString()}`).join(', ')} }`]
      : []),
    ...(entry.deny.size > 0 ? [`deny = ${list(entry.deny)}`] : []),
  ];
  return `${lines.join('\n')}\n`;
}

function parseEntry(table: Record<string, unknown>, bad: (problem: string) => Error): PeerEntry {
  const { id, addresses, relays, webtransport, token, allow, until, deny, ...others } = table;
  const [other] = Object.keys(others);
  // A mistyped `deny` must not be taken for nothing.
  if (other !== undefined) throw bad(`'${other}', which is not known`);
  if (typeof id !== 'string' || !isNodeId(id)) throw bad("an 'id' that is not 64 lowercase hex digits");
  const texts = (value: unknown, key: string, isGood: (text: string) => boolean): readonly string[] => {
    if (value === undefined) return [];
    if (!Array.isArray(value)) throw bad(`'${key}' that is no list`);
    const wrong = value.findIndex((item) => typeof item !== 'string' || !isGood(item));
    if (wrong >= 0) throw bad(`'${key}' whose item ${wrong + 1} makes no sense`);
    return [...new Set(value as string[])];
  };
  const isRight = (text: string) => text === EVERY_SERVICE || isServiceRight(text);
  if (token !== undefined && (typeof token !== 'string' || !TOKEN.test(token)))
    throw bad("a 'token' that is none");
  const times = parseUntil(until, bad);
  const allowed = texts(allow, 'allow', isRight);
  for (const service of times.keys()) {
    if (!allowed.includes(service)) throw bad(`'until' for '${service}', which is not in 'allow'`);
  }
  return {
    nodeId: id,
    addresses: texts(addresses, 'addresses', isSocketAddress),
    relays: texts(relays, 'relays', (url) => /^https?:\/\/[^/]/.test(url) && URL.canParse(url)),
    webtransport: texts(webtransport, 'webtransport', (text) => /^[^,]+,[0-9a-f]{64}$/.test(text)).map(
      (text) => {
        const [address = '', certificateHash = ''] = text.split(',');
        if (!isSocketAddress(address)) throw bad("'webtransport' with an address that is no ip:port");
        return { address, certificateHash };
      },
    ),
    token,
    allow: new Map(allowed.map((service) => [service, times.get(service)])),
    deny: new Set(texts(deny, 'deny', isRight)),
  };
}

function parseUntil(value: unknown, bad: (problem: string) => Error): ReadonlyMap<string, number> {
  if (value === undefined) return new Map();
  if (!isTable(value)) throw bad("'until' that is no table of services and times");
  return new Map(
    Object.entries(value).map(([service, time]) => {
      const ms = time instanceof TomlDate && !time.isLocal() ? time.getTime() : Number.NaN;
      if (!Number.isFinite(ms))
        throw bad(`'until.${service}' that is no time with a zone, as 2026-12-31T18:00:00Z`);
      return [service, ms];
    }),
  );
}

function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date);
}
