import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { describe, expect, it } from 'vitest';
import { peerIsGone } from '../../src/session/gone-peer.js';
import { checkLeaks } from '../support/leaks.js';

checkLeaks();

async function bound() {
  const socket = createSocket('udp4');
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  return { socket, address: `127.0.0.1:${socket.address().port}` };
}

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
