// Compiles src to dist. Starts from nothing, so that no file of a deleted source stays behind.
import { execFileSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc');
const manifest = `${root}/oclif.manifest.json`;
rmSync(`${root}/dist`, { recursive: true, force: true });
rmSync(manifest, { force: true });
execFileSync(process.execPath, [tsc, '-p', `${root}/tsconfig.json`], { stdio: 'inherit', cwd: root });

// Ink and what it needs are some five hundred modules: as one file they load five times as fast. The
// other files of the view are for those who print the same figures without it.
const { build } = await import('esbuild');
await build({
  entryPoints: [`${root}/dist/tui/dashboard.js`],
  outfile: `${root}/dist/tui/dashboard.js`,
  allowOverwrite: true,
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node20',
  define: { 'process.env.NODE_ENV': '"production"' },
  plugins: [
    {
      name: 'leaner Ink',
      setup({ onResolve, onLoad }) {
        // Its own developer tools bring a WebSocket.
        onResolve({ filter: /^\.\/devtools\.js$/ }, () => ({ path: 'devtools', namespace: 'empty' }));
        onLoad({ filter: /.*/, namespace: 'empty' }, () => ({ contents: 'export {};' }));
      },
    },
  ],
  banner: {
    js: "import { createRequire } from 'node:module';\nconst require = createRequire(import.meta.url);",
  },
  minifySyntax: true,
  minifyWhitespace: true,
  legalComments: 'eof',
  logLevel: 'warning',
});

// What oclif knows of the commands without loading them all, at every start.
const { Plugin } = await import('@oclif/core');
const plugin = new Plugin({ root, type: 'core', ignoreManifest: true, errorOnManifestCreate: true });
await plugin.load();
writeFileSync(manifest, `${JSON.stringify(plugin.manifest)}\n`);
