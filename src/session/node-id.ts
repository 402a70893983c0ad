/** Node IDs: Ed25519 public keys, written as 64 lowercase hex digits as iroh does. */
import { createPublicKey, type KeyObject } from 'node:crypto';
import { TunnelError } from '../error.js';

declare const brand: unique symbol;
export type NodeId = string & { readonly [brand]: 'NodeId' };

const HEX_64 = /^[0-9a-f]{64}$/;
/** DER of a SubjectPublicKeyInfo for Ed25519 up to the key's bytes (RFC 8410). */
const SPKI_PREFIX = Buffer.from('302a300506032b6570032100', 'hex');

export function isNodeId(text: string): text is NodeId {
  return HEX_64.test(text);
}

/** Throws BAD_NODE_ID, naming what is wrong with the text. */
export function parseNodeId(text: string): NodeId {
  if (isNodeId(text)) return text;
  const lower = text.toLowerCase();
  if (isNodeId(lower)) return lower;
  const problem = /^[0-9a-f]+$/i.test(text)
    ? `has ${text.length} hex digits instead of 64`
    : 'is not 64 hex digits';
  throw new TunnelError('BAD_NODE_ID', `node ID '${shorten(text)}' ${problem}`, {
    hint: "'tunnel id' on the other machine prints its node ID",
  });
}

/** `3f9a…c21e`: for people, never for comparing. */
export function shortNodeId(id: string): string {
  return `${id.slice(0, 4)}…${id.slice(-4)}`;
}

export function nodeIdFromPublicKey(key: KeyObject): NodeId {
  return key.export({ format: 'der', type: 'spki' }).subarray(-32).toString('hex') as NodeId;
}

export function publicKeyFromNodeId(id: NodeId): KeyObject {
  const key = Buffer.concat([SPKI_PREFIX, Buffer.from(id, 'hex')]);
  return createPublicKey({ key, format: 'der', type: 'spki' });
}

function shorten(text: string): string {
  return text.length > 80 ? `${text.slice(0, 77)}…` : text;
}
