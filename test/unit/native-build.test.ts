/** The committed addon was built from the sources beside it. */
import { createRequire } from 'node:module';
import { describe, expect, it } from 'vitest';
import { sourceHash } from '../../native/source-hash.js';

const PREBUILT = '../../native/prebuilt/tunnel-native.linux-x64-gnu.node';
const loads = process.platform === 'linux' && process.arch === 'x64';

describe('the prebuilt addon', () => {
  it.skipIf(!loads)('carries the hash of the sources in the tree', () => {
    const addon = createRequire(import.meta.url)(PREBUILT) as { buildInfo(): { sourceHash: string } };
    expect(addon.buildInfo().sourceHash, 'run: npm run build:native -- --prebuilt').toBe(sourceHash());
  });
});
