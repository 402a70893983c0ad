// Packs the project as npm would publish it and checks what is in, and what is not.
import { execFileSync } from 'node:child_process';

const MAX_PACKED_BYTES = 12 * 1024 * 1024;
const REQUIRED = [
  'package.json',
  'README.md',
  'LICENSE',
  'bin/run.js',
  'dist/cli/main.js',
  'dist/commands/expose.js',
  'dist/commands/forward.js',
  'dist/commands/id.js',
  'dist/commands/dashboard.js',
  'dist/commands/status.js',
  'dist/tui/dashboard.js',
  'oclif.manifest.json',
  'docs/dashboard.svg',
  'native/index.js',
  'native/prebuilt/tunnel-native.linux-x64-gnu.node',
];
const FORBIDDEN = /^(src|test|bench|demo|\.ci|native\/(src|target|local|Cargo))|\.key$|\.map$/;

const [pack] = JSON.parse(
  execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  }),
);
const paths = pack.files.map(({ path }) => path);
const problems = [
  ...REQUIRED.filter((path) => !paths.includes(path)).map((path) => `missing: ${path}`),
  ...paths.filter((path) => FORBIDDEN.test(path)).map((path) => `must not be packed: ${path}`),
  ...(pack.size > MAX_PACKED_BYTES ? [`${pack.size} bytes packed; at most ${MAX_PACKED_BYTES}`] : []),
];
console.log(`${paths.length} files, ${(pack.size / 1e6).toFixed(1)} MB packed`);
for (const problem of problems) console.error(problem);
process.exitCode = problems.length > 0 ? 1 : 0;
