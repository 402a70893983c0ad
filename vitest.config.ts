import { configDefaults, defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.{ts,tsx}'],
    // They take minutes: `npm run test:faults`.
    exclude: [...configDefaults.exclude, 'test/fault/**/*.long.test.ts'],
    // Real processes and sockets on two cores: files one after another, so that each test has the machine.
    fileParallelism: false,
    testTimeout: 30_000,
    hookTimeout: 30_000,
    pool: 'forks',
  },
});
