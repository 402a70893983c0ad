#!/usr/bin/env node
import { readFileSync } from 'node:fs';

const argv = process.argv.slice(2);

// A ticket in argv is readable by every user of the machine; the title replaces it in the process list.
if (argv.some((argument) => /token=/i.test(argument))) process.title = 'tunnel';

if (argv.length === 1 && (argv[0] === '--version' || argv[0] === '-v')) {
  // Answered here: loading the command framework takes several times as long.
  const { name, version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
  process.stdout.write(`${name}/${version} ${process.platform}-${process.arch} node-${process.version}\n`);
} else {
  const { main } = await import('../dist/cli/main.js');
  await main(argv, import.meta.url);
}
