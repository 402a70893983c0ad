/** What the system dropped before a socket was read. */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { describe, expect, it } from 'vitest';
import { systemDrops } from '../../src/tunnel/system-drops.js';
import { eventually } from '../support/eventually.js';

describe.skipIf(process.platform !== 'linux')('systemDrops', () => {
  it('counts what found the receive buffer full, and nothing for other sockets', async () => {
    const full = createSocket({ type: 'udp4', recvBufferSize: 8192 });
    const other = createSocket('udp4');
    let received = 0;
    full.on('message', () => {
      received += 1;
    });
    full.bind(0, '127.0.0.1');
    other.bind(0, '127.0.0.1');
    await Promise.all([once(full, 'listening'), once(other, 'listening')]);
    const { port } = full.address();
    expect(systemDrops(port)).toBe(0);
    // In one turn of the event loop, in which nothing is read.
    let sent = 0;
    for (let i = 0; i < 500; i += 1) {
      other.send(Buffer.alloc(1000), port, '127.0.0.1', () => {
        sent += 1;
      });
    }
    expect(await eventually(() => sent === 500 && received + systemDrops(port) === 500)).toBe(true);
    expect(systemDrops(port)).toBeGreaterThan(400);
    expect(systemDrops(other.address().port)).toBe(0);
    full.close();
    other.close();
  });
});
