/** A relay that gets its certificate by ACME, from a real authority of the test's own. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { describeFaults, say } from '../support/describe-faults.js';
import { eventually } from '../support/eventually.js';
import { namespacesMissing } from '../support/netns.js';
import { findPebble, Pebble } from '../support/pebble.js';
import { RELAY_ADDRESSES, RELAY_NAME, Topology } from '../support/topology.js';
import { Machine } from '../support/tunnel-process.js';

const [RELAY, AUTHORITY] = RELAY_ADDRESSES;
const URL = `https://${RELAY_NAME}/`;
const pebbleProgram = namespacesMissing === undefined ? findPebble() : undefined;
if (pebbleProgram === undefined) say('ACME is not tested: there is neither pebble nor Go to build it');

describeFaults('ACME', { timeout: 120_000 }, () => {
  const machines: Machine[] = [];
  let folder: string;
  let topology: Topology;
  let pebble: Pebble | undefined;

  const machine = (options: ConstructorParameters<typeof Machine>[0]) => {
    const made = new Machine({ bind: 'any', eventTimeoutMs: 60_000, ...options });
    machines.push(made);
    return made;
  };

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'tunnel-acme-'));
    topology = await Topology.create();
    const { internet, left, right } = topology;
    for (const host of [internet, left.host, right.host]) host.names(`${RELAY} ${RELAY_NAME}\n`);
    // What is left is the relay.
    await left.dropUdp(true);
  });

  afterEach(async () => {
    for (const one of machines.splice(0).reverse()) await one.dispose();
    await pebble?.stop();
    await topology.dispose();
    rmSync(folder, { recursive: true, force: true });
  });

  it.skipIf(pebbleProgram === undefined)(
    'gives a relay a certificate that clients accept, and that a restart finds again without the authority',
    async () => {
      const { internet, left, right } = topology;
      const program = pebbleProgram as string;
      pebble = await Pebble.start({ program, host: internet, address: AUTHORITY, folder });
      const host = machine({
        namespace: internet.namespace,
        env: { NODE_EXTRA_CA_CERTS: pebble.certificate },
      });
      const args = [
        ...['relay', '--listen', `${RELAY}:443`, '--acme', RELAY_NAME, '--acme-email', 'admin@relay.test'],
        ...['--acme-directory', pebble.directory, '--json'],
      ];
      const relay = host.startAs(...args);
      expect(await relay.event('ready')).toMatchObject({ url: URL });

      const root = join(folder, 'root.pem');
      writeFileSync(root, await pebble.root());
      const verify = `openssl s_client -verify_return_error -CAfile ${root} -connect ${RELAY}:443 -servername ${RELAY_NAME}`;
      const isIssued = () =>
        left.host.run('sh', ['-c', `${verify} </dev/null`]).then(
          () => true,
          () => false,
        );
      expect(await eventually(isIssued, 30_000)).toBe(true);

      const env = { NODE_EXTRA_CA_CERTS: root };
      const far = machine({ namespace: right.host.namespace, env });
      const flags = ['--no-lan', '--relay', URL, '--json'];
      const expose = far.startAs('expose', '9', ...flags);
      const ticket = (await expose.event('ready')).ticket as string;
      const ping = async () => {
        const near = machine({ namespace: left.host.namespace, env });
        const pinging = near.startAs('ping', ticket, ...flags, '--count', '2', '--timeout', '30s');
        expect(await pinging.exited, pinging.stderr).toBe(0);
        return pinging.events.filter(({ event }) => event === 'ping');
      };
      for (const event of await ping()) expect(event).toMatchObject({ path: 'iroh-relay', remote: URL });

      relay.kill('SIGTERM');
      expect(await relay.exited).toBe(0);
      await pebble.stop();
      await host.startAs(...args).event('ready');
      for (const event of await ping()) expect(event).toMatchObject({ path: 'iroh-relay', remote: URL });
    },
  );
});
