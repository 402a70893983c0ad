/** The socket of a UDP flow towards its target. */
import { once } from 'node:events';
import { afterEach, describe, expect, it } from 'vitest';
import { memorySessionPair } from '../../src/session/engines/memory.js';
import { DatagramSender } from '../../src/tunnel/datagram-sender.js';
import { ReassemblyBudget } from '../../src/tunnel/reassembly.js';
import { ExitFlow } from '../../src/tunnel/udp-exit.js';
import { eventually } from '../support/eventually.js';
import { checkLeaks } from '../support/leaks.js';
import { echo, type UdpPeer, udpPeer, udpService } from '../support/udp.js';

checkLeaks();
const open: { close?(): void; end?(): void }[] = [];
afterEach(() => {
  for (const one of open.splice(0)) (one.close ?? one.end)?.call(one);
});

async function target(): Promise<UdpPeer> {
  const made = await udpPeer({ answer: echo });
  open.push(made);
  return made;
}

function exitFlow(port: number, addresses: readonly string[]): ExitFlow {
  const flow = new ExitFlow({
    id: 1,
    service: 'svc',
    idleMs: 60_000,
    budget: new ReassemblyBudget(1 << 20),
    target: udpService('svc', port, 'name.example'),
    resolve: async () => addresses.map((address) => ({ address, family: address.includes(':') ? 6 : 4 })),
    onBuffers: () => undefined,
  });
  open.push(flow);
  return flow;
}

describe('a flow to a name with several addresses', () => {
  it('goes on to the next one while nobody has answered and the system says that nobody is there', async () => {
    const there = await target();
    // Nothing listens on that port on ::1; 127.0.0.1 has the echo.
    const flow = exitFlow(there.port, ['::1', '127.0.0.1']);
    const { dialler, acceptor } = memorySessionPair();
    flow.sender = new DatagramSender(acceptor);
    await flow.connect();
    const timer = setInterval(() => flow.deliver(Buffer.from('hello')), 20);
    await once(there.socket, 'message');
    clearInterval(timer);
    expect(await eventually(() => flow.counters.packetsOut > 0)).toBe(true);
    dialler.close();
    acceptor.close();
  });

  it('fails with a code that names the target when none can be reached', async () => {
    const flow = exitFlow(9, []);
    await expect(flow.connect()).rejects.toMatchObject({ code: 'TARGET_UNREACHABLE' });
    await expect(flow.connect()).rejects.toThrow(/name\.example:9/);
  });
});

describe('packets before the socket is there', () => {
  it('wait for it in order, within bounds, and are counted beyond them', async () => {
    const there = await target();
    const flow = exitFlow(there.port, ['127.0.0.1']);
    const connecting = flow.connect();
    for (let i = 0; i < 1100; i += 1) flow.deliver(Buffer.from(String(i)));
    expect(flow.counters.dropped).toEqual({ 'queue-full': 76 });
    await connecting;
    expect(await eventually(() => there.received.length === 1024)).toBe(true);
    expect(there.received.map(String)).toEqual(Array.from({ length: 1024 }, (_, i) => String(i)));
  });

  it('are counted when the flow ends first', () => {
    const flow = exitFlow(9, ['127.0.0.1']);
    flow.deliver(Buffer.from('x'));
    flow.end();
    flow.deliver(Buffer.from('y'));
    expect(flow.counters.dropped).toEqual({ refused: 1, 'queue-full': 1 });
  });
});
