// The main job, for real: a PostgreSQL here, two tunnel processes joined by a ticket, queries through
// them. Needs nothing but this checkout, no network, and ends by itself.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { PGlite } from '@electric-sql/pglite';
import { PGLiteSocketServer } from '@electric-sql/pglite-socket';
import pg from 'pg';

const run = fileURLToPath(new URL('../bin/run.js', import.meta.url));
const home = mkdtempSync(join(tmpdir(), 'tunnel-demo-'));
const children = [];

/** Starts `tunnel …` with files of its own, as if it were on another machine; answers its JSON events. */
function tunnel(machine, args) {
  const child = spawn(process.execPath, [run, ...args, '--json', '--no-relay', '--bind', '127.0.0.1'], {
    env: { ...process.env, TUNNEL_HOME: join(home, machine) },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.push(child);
  const waiting = [];
  const events = [];
  const settle = () => {
    for (const waiter of [...waiting]) {
      const event = events.find(waiter.matches);
      if (event) {
        waiting.splice(waiting.indexOf(waiter), 1);
        waiter.resolve(event);
      }
    }
  };
  createInterface({ input: child.stdout }).on('line', (line) => {
    events.push(JSON.parse(line));
    settle();
  });
  child.once('exit', (code) => {
    for (const waiter of waiting) waiter.reject(new Error(`tunnel ${args[0]} ended early with ${code}`));
  });
  return {
    child,
    event: (matches) =>
      new Promise((resolve, reject) => {
        waiting.push({ matches, resolve, reject });
        settle();
      }),
  };
}

async function main() {
  console.log('1. A PostgreSQL that listens on this machine only (PGlite).');
  const db = await PGlite.create();
  const server = new PGLiteSocketServer({ db, host: '127.0.0.1', port: 0 });
  await server.start();
  const port = server.getServerConn().split(':').pop();
  console.log(`   127.0.0.1:${port}\n`);

  console.log(`2. Machine A offers it:   tunnel expose db=${port}`);
  const a = tunnel('a', ['expose', `db=${port}`]);
  const ready = await a.event((e) => e.event === 'ready');
  console.log(`   node ${ready.nodeId}\n`);

  console.log("3. Machine B forwards it: tunnel forward 'tunnel://…' 0:db");
  const b = tunnel('b', ['forward', ready.ticket, '0:db']);
  const { local } = await b.event((e) => e.event === 'listening');
  const session = await b.event((e) => e.event === 'session' && e.state === 'connected');
  console.log(`   listening on ${local}, connected over ${session.path}, ${session.rttMs} ms\n`);

  console.log(`4. A PostgreSQL client on machine B, through the tunnel at ${local}:`);
  const client = new pg.Client({
    host: '127.0.0.1',
    port: Number(local.split(':').pop()),
    database: 'postgres',
    user: 'postgres',
  });
  client.on('error', () => undefined); // what matters is told by the query that fails
  await client.connect();
  await client.query('create table visits (id serial primary key, place text, at bigint)');
  await client.query(
    "insert into visits (place, at) select 'room ' || n, n::bigint * n from generate_series(1, 50000) n",
  );
  const sum = await client.query('select count(*)::int as rows, sum(at)::text as total from visits');
  console.log('   select count(*), sum(at) from visits   →', JSON.stringify(sum.rows[0]));
  const all = await client.query('select * from visits order by id');
  console.log(
    `   select * from visits                   → ${all.rows.length} rows, last ${JSON.stringify(all.rows.at(-1))}`,
  );
  await client.end();
  const closed = await b.event((e) => e.event === 'channel.close');
  console.log(
    `   the connection ended (${closed.reason}): ${closed.bytesOut} bytes there, ${closed.bytesIn} bytes back\n`,
  );
  if (sum.rows[0].rows !== 50_000 || all.rows.length !== 50_000) throw new Error('rows are missing');

  for (const { child } of [b, a]) {
    child.kill('SIGTERM');
    await once(child, 'exit');
  }
  await server.stop();
  await db.close();
  console.log('Now with a service of your own:');
  console.log('   node bin/run.js expose 8080       here; it prints the line to run on the other machine');
}

try {
  await main();
} catch (error) {
  console.error(`The demo failed: ${error.message}`);
  process.exitCode = 1;
} finally {
  for (const child of children) child.kill('SIGKILL');
  rmSync(home, { recursive: true, force: true });
}
