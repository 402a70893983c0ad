/** What a dashboard shows of a path that is cut, between two machines with a router between them. */
import { afterEach, beforeEach, describe, it } from 'vitest';
import { type Host, Network, namespacesMissing } from '../support/netns.js';
import { NO_TMUX, Terminal } from '../support/terminal.js';
import { Machine, RUN } from '../support/tunnel-process.js';

let network: Network;
let far: Machine;
let near: Machine;
let terminals: Terminal[];

beforeEach(async () => {
  network = await Network.create();
  far = new Machine({ namespace: network.far.namespace, bind: 'any' });
  near = new Machine({ namespace: network.near.namespace, bind: 'any' });
  terminals = [];
});

afterEach(async () => {
  for (const terminal of terminals) terminal.close();
  await near.dispose();
  await far.dispose();
  await network.dispose();
});

function show(host: Host, { home }: Machine, args: string): Terminal {
  const command = `ip netns exec ${host.namespace} node ${RUN} ${args}`;
  const terminal = new Terminal(command, { columns: 120, env: { TUNNEL_HOME: home } });
  terminals.push(terminal);
  return terminal;
}

describe.skipIf(namespacesMissing ?? NO_TMUX)('a path that is cut', () => {
  it('is shown as reconnecting within 5 s, with its reason, at both ends, until it is mended', async () => {
    const service = await network.far.listen((socket) => socket.pipe(socket));
    const { ticket } = await far.expose(`echo=${service.port}`);
    const forward = show(network.near, near, `forward '${ticket}' 7000:echo --no-relay`);
    // As it is seen from outside.
    const outside = show(network.near, near, 'dashboard');
    const other = show(network.far, far, 'dashboard');
    const screens = [forward, outside, other];
    await Promise.all(screens.map((screen) => screen.until(/connected over iroh-direct/)));
    const socket = await network.near.dial(7000);
    socket.write('x');
    await Promise.all(screens.map((screen) => screen.until(/CHANNELS 1[\s\S]*▼ 1 B/)));
    await network.cut();
    const down = /◌ {2}[0-9a-f]{4}….* {2}reconnecting \d+s: (no answer for \d s|.* does not answer)/;
    await Promise.all([
      forward.until(down, 5000),
      outside.until(down, 5000),
      // The side that is dialled only listens, and is sure later.
      other.until(down),
    ]);
    // When the session is given up, that is in the log.
    await Promise.all(screens.map((screen) => screen.until(/detached[\s\S]*no session: .*; 1 waiting/)));
    await network.mend();
    await Promise.all(screens.map((screen) => screen.until(/● .*iroh-direct/)));
    await forward.until(/back after .* 1 resumed, 0 lost/);
    socket.destroy();
    await service.close();
  });
});
