import { availableParallelism } from 'node:os';
import { configDefaults, defineConfig } from 'vitest/config';

// Node reads these at every start, which takes as long as the rest of it, and no test has a use for them.
delete process.env.NODE_EXTRA_CA_CERTS;

export default defineConfig({
  test: {
    testTimeout: 30_000,
    hookTimeout: 30_000,
    pool: 'forks',
    // Half of their time they wait: for a process to start, a packet, a time to pass.
    maxWorkers: availableParallelism() + 1,
    // Projects run in the order of their names: those with long files first, so that none is left alone at the end.
    projects: [
      {
        extends: true,
        test: {
          name: 'faults',
          // The long ones take minutes: `npm run test:faults`.
          include: ['test/fault/**/*.short.test.ts'],
        },
      },
      {
        extends: true,
        test: {
          name: 'programs',
          include: ['test/e2e/**/*.test.ts'],
          // A start takes seconds on a busy machine, and there are up to twenty in a test.
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
      {
        extends: true,
        test: {
          name: 'tests',
          include: ['test/**/*.test.{ts,tsx}'],
          exclude: [...configDefaults.exclude, 'test/e2e/**', 'test/fault/**'],
        },
      },
    ],
  },
});
