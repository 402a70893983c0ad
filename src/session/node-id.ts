/** Node IDs: Ed25519 public keys, written as 64 lowercase hex digits as iroh does. */
import { createPublicKey, type KeyObject } from 'node:crypto';
import { TunnelError } from '../error.js';

declare const brand: unique symbol;
export type NodeId = string & { readonly [brand]: 'NodeId' };

const HEX_64 = /^[0-9a-f]{64}$/;
/** DER of a SubjectPublicKeyInfo for Ed25519 up to the key's bytes (RFC 8410). */
const SPKI_PREFIX = Buffer.from('302a300506032b6570032100', 'hex');

/** The field and the constant of the curve of Ed25519 (RFC 8032, 5.1). */
const P = 2n ** 255n - 19n;
const D = 37095705934669439343138083508754565189542113879843219016388785533085940283555n;

/** Written as one; whether it is a key of anybody is another question. */
export function isNodeId(text: string): text is NodeId {
  return HEX_64.test(text);
}

/** Throws BAD_NODE_ID, naming what is wrong with the text. */
export function parseNodeId(text: string): NodeId {
  const lower = text.toLowerCase();
  if (isNodeId(lower) && isOnCurve(lower)) return lower;
  const problem = whatIsWrong(text, lower);
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

function whatIsWrong(text: string, lower: string): string {
  if (isNodeId(lower)) return 'is no public key: a digit is not what it was';
  return /^[0-9a-f]+$/.test(lower) ? `has ${text.length} hex digits instead of 64` : 'is not 64 hex digits';
}

/** Whether the curve has a point with this y (RFC 8032, 5.1.3): of IDs with a wrong digit, half have none. */
function isOnCurve(id: NodeId): boolean {
  const littleEndian = Buffer.from(id, 'hex').reverse();
  const y = BigInt(`0x${littleEndian.toString('hex')}`) & (2n ** 255n - 1n);
  const y2 = (y * y) % P;
  // x² is the quotient of these two; their product has a root where the quotient has one.
  const product = ((y2 - 1n + P) * (D * y2 + 1n)) % P;
  return power(product, (P - 1n) / 2n) <= 1n;
}

function power(base: bigint, exponent: bigint): bigint {
  let result = 1n;
  for (let square = base, left = exponent; left > 0n; left >>= 1n, square = (square * square) % P) {
    if (left & 1n) result = (result * square) % P;
  }
  return result;
}

function shorten(text: string): string {
  return text.length > 80 ? `${text.slice(0, 77)}…` : text;
}
