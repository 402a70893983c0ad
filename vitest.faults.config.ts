import { defineConfig } from 'vitest/config';

/** The fault suite: all of it, the short ones first. */
export default defineConfig({
  test: {
    include: ['test/fault/**/*.test.ts'],
    fileParallelism: false,
    testTimeout: 120_000,
    hookTimeout: 120_000,
    pool: 'forks',
  },
});
