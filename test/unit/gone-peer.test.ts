import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { describe, expect, it } from 'vitest';
import { peerIsGone, whereToAsk } from '../../src/session/gone-peer.js';
import type { Hello } from '../../src/session/hello.js';
import type { NodeId } from '../../src/session/node-id.js';
import type { PathKind, SessionPath } from '../../src/session/session.js';
import { checkLeaks } from '../support/leaks.js';

checkLeaks();

async function bound() {
  const socket = createSocket('udp4');
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  return { socket, address: `127.0.0.1:${socket.address().port}` };
}

describe('where a peer is asked for', () => {
  const hello = (hosts?: readonly string[]) =>
    ({
      ...{ major: 1, minor: 0, instanceId: '0f'.repeat(16), identity: 'ab'.repeat(32) as NodeId },
      ...{ supported: [], required: [] },
      ...(hosts ? { hosts } : {}),
    }) satisfies Hello;
  const path = (kind: PathKind, remote: string): SessionPath => ({ kind, remote, rttMs: 1 });

  it.each([
    ['its own machine', path('iroh-direct', '10.0.0.7:4433'), ['10.0.0.7'], '10.0.0.7:4433'],
    [
      'its own machine by IPv6',
      path('iroh-direct', '[2001:db8::7]:4433'),
      ['2001:db8::7'],
      '[2001:db8::7]:4433',
    ],
    ['a NAT before it', path('iroh-direct', '192.0.2.1:4433'), ['10.0.0.7'], undefined],
    ['one that does not say', path('iroh-direct', '10.0.0.7:4433'), undefined, undefined],
    ['a relay', path('iroh-relay', 'https://relay.example/'), ['10.0.0.7'], undefined],
  ] as const)('%s', (_what, at, hosts, asked) => {
    expect(whereToAsk(at, hello(hosts))).toBe(asked);
  });
});

describe('a peer that does not answer', () => {
  it('is gone when its machine refuses its port', async () => {
    const { socket, address } = await bound();
    socket.close();
    expect(await peerIsGone(address, new AbortController().signal)).toBe(true);
  });

  it('is not gone while something has the port, silent as it may be', async () => {
    const { socket, address } = await bound();
    const probes = new Promise<void>((resolve) => {
      let count = 0;
      socket.on('message', () => {
        count += 1;
        if (count === 6) resolve();
      });
    });
    const ending = new AbortController();
    const gone = peerIsGone(address, ending.signal);
    await probes;
    ending.abort();
    expect(await gone).toBe(false);
    socket.close();
  });
});
