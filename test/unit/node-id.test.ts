import { describe, expect, it } from 'vitest';
import { Identity } from '../../src/session/identity.js';
import { parseNodeId } from '../../src/session/node-id.js';

/** RFC 8032, 7.1, the first two tests. */
const KEYS = [
  'd75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a',
  '3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c',
] as const;
/** What iroh refuses: no point of the curve. */
const NO_KEYS = [`02${'00'.repeat(31)}`, KEYS[0].replace('d75a', 'd753'), KEYS[1].replace('3d40', '3d42')];

describe('a node ID', () => {
  it('is a public key', () => {
    for (const key of KEYS) expect(parseNodeId(key)).toBe(key);
    for (let i = 0; i < 50; i += 1) {
      const { nodeId } = Identity.generate();
      expect(parseNodeId(nodeId.toUpperCase())).toBe(nodeId);
    }
  });

  it.each(NO_KEYS)('that is none is told of before anybody is dialled: %s', (text) => {
    expect(() => parseNodeId(text)).toThrowError(
      expect.objectContaining({
        code: 'BAD_NODE_ID',
        message: `node ID '${text}' is no public key: a digit is not what it was`,
      }),
    );
  });

  it('has 64 hex digits', () => {
    expect(() => parseNodeId(KEYS[0].slice(1))).toThrowError(/has 63 hex digits instead of 64/);
    expect(() => parseNodeId('nobody')).toThrowError(/is not 64 hex digits/);
  });
});
