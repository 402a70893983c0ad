/**
 * What a node shows of itself to everybody on its local network when it is told to: a name, and what it
 * offers, as the specs of a forward. One text, since that is what mDNS carries: the name, a tab, specs
 * with spaces between them.
 */
import { hostname } from 'node:os';
import { TunnelError } from '../error.js';
import type { NearbyNode } from '../session/engines/iroh-network.js';
import { printable } from '../session/frame.js';
import type { NodeId } from '../session/node-id.js';
import { parseTarget } from '../tunnel/spec.js';

/** What fits beside the rest in one entry of a TXT record. */
const MAX_BYTES = 245;
const MAX_NAME = 48;
const NAME = /^[\p{L}\p{N}][\p{L}\p{M}\p{N} ._'-]*$/u;
/** Nothing that a shell, or the reader's own network, would take for more than a service. */
const SPEC = /^(?:\d{1,5}:)?[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?:\/udp)?$/;

/**
 * `--announce` takes a name or none, which the parser of flags does not know: the word after it is one
 * unless it is a target or a flag. Without one it is the machine's.
 */
export function withAnnouncedName(argv: readonly string[], machine: string = hostname()): string[] {
  const result: string[] = [];
  for (let i = 0; i < argv.length; i += 1) {
    const word = argv[i] as string;
    if (word === '--') return [...result, ...argv.slice(i)];
    if (word !== '--announce') {
      result.push(word);
      continue;
    }
    const next = argv[i + 1];
    const isName = next !== undefined && isAnnounceable(next) && !isTarget(next);
    if (isName) i += 1;
    result.push(`--announce=${isName ? next : machineName(machine)}`);
  }
  return result;
}

/** Throws USAGE. */
export function checkAnnouncedName(name: string): string {
  if (isAnnounceable(name)) return name;
  throw new TunnelError('USAGE', `'${printable(name).slice(0, MAX_NAME)}' is no name to be announced under`, {
    hint: `up to ${MAX_NAME} letters, digits, spaces, '.', '_' and '-', a letter or digit first: --announce workshop`,
  });
}

function isAnnounceable(name: string): boolean {
  return name.length <= MAX_NAME && NAME.test(name);
}

function isTarget(text: string): boolean {
  try {
    parseTarget(text);
    return true;
  } catch {
    return false;
  }
}

function machineName(machine: string): string {
  const [label = ''] = machine.split('.');
  return isAnnounceable(label) ? label : 'unnamed';
}

/** As many of the specs as fit. */
export function encodeAnnouncement(name: string, specs: readonly string[]): string {
  for (let count = specs.length; ; count -= 1) {
    const text = count === 0 ? name : `${name}\t${specs.slice(0, count).join(' ')}`;
    if (count === 0 || Buffer.byteLength(text) <= MAX_BYTES) return text;
  }
}

/** A node that chose to be seen. Nothing in it is proven before a session is made. */
export interface AnnouncedNode {
  readonly name: string;
  readonly nodeId: NodeId;
  readonly addresses: readonly string[];
  /** For a forward. Those that could mean anything else are left out. */
  readonly specs: readonly string[];
}

/** Those of the nodes that show a name, by name. */
export function announcedNodes(nodes: readonly NearbyNode[]): readonly AnnouncedNode[] {
  return nodes
    .flatMap(({ nodeId, name: text = '', hints }) => {
      const tab = text.indexOf('\t');
      const name = printable(tab < 0 ? text : text.slice(0, tab)).slice(0, MAX_NAME);
      const specs =
        tab < 0
          ? []
          : text
              .slice(tab + 1)
              .split(' ')
              .filter((spec) => SPEC.test(spec));
      return name.trim() === '' ? [] : [{ name, nodeId, addresses: hints.direct, specs }];
    })
    .sort((a, b) => a.name.localeCompare(b.name) || a.nodeId.localeCompare(b.nodeId));
}
