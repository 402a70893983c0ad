/** Packets that are sent to learn something of the network, each with a bound. */
import type { Socket } from 'node:dgram';
import { once } from 'node:events';
import { get } from 'node:http';
import { get as getSecure } from 'node:https';
import { systemCode } from '../../error.js';
import { bindSocket, closeSocket, udpSocket } from '../../tunnel/udp-socket.js';
import { within } from '../within.js';
import { boundedLookup } from './resolve.js';

const PACKET_MS = 1000;
const AGAIN_MS = 200;
const MDNS_GROUP = { 4: '224.0.0.251', 6: 'ff02::fb' } as const;

/** Undefined when a packet came back to where it was sent from; else why not. */
export type ProbeError = string | undefined;

/** From a socket on this address to another on it, and back. Never rejects. */
export async function udpRoundTrip(address: string): Promise<ProbeError> {
  const family = address.includes(':') ? 6 : 4;
  const [near, far] = [udpSocket(family), udpSocket(family)];
  far.on('message', (message, from) => far.send(message, from.port, from.address));
  try {
    await bindSocket(far, 0, address);
    await bindSocket(near, 0, address);
    const { port } = far.address();
    return await answered(near, () => near.send('tunnel doctor', port, address));
  } catch (error) {
    return systemCode(error) ?? (error as Error).message;
  } finally {
    closeSocket(near);
    closeSocket(far);
  }
}

/** To the group that mDNS uses, out of the interface that the system chooses, as mDNS does; the system hands it back. Never rejects. */
export async function multicastRoundTrip(family: 4 | 6): Promise<ProbeError> {
  const group = MDNS_GROUP[family];
  const socket = udpSocket(family);
  try {
    // A port of its own: 5353 is shared by all, and what comes there need not come here.
    await bindSocket(socket, 0, family === 6 ? '::' : '0.0.0.0');
    socket.addMembership(group);
    socket.setMulticastLoopback(true);
    socket.setMulticastTTL(1);
    const { port } = socket.address();
    return await answered(socket, () => socket.send('tunnel doctor', port, group));
  } catch (error) {
    return systemCode(error) ?? (error as Error).message;
  } finally {
    closeSocket(socket);
  }
}

/** Sends until something comes. */
async function answered(socket: Socket, send: () => void): Promise<ProbeError> {
  const coming = once(socket, 'message').then(
    () => undefined,
    (error: unknown) => systemCode(error) ?? 'error',
  );
  send();
  const timer = setInterval(send, AGAIN_MS);
  try {
    return await within(coming, PACKET_MS, 'no packet came back');
  } finally {
    clearInterval(timer);
  }
}

export interface RelayProbe {
  readonly url: string;
  /** Milliseconds until the answer, the connection made anew. */
  readonly rttMs?: number;
  /** Its clock, as of the middle of the round trip, minus this one's. */
  readonly aheadMs?: number;
  /** Why there was no answer that a relay gives. */
  readonly error?: string;
}

/** Asks a relay for its ping page, without any proxy. Never rejects. */
export async function probeRelay(url: string, timeoutMs: number): Promise<RelayProbe> {
  const startedAt = performance.now();
  const ending = new AbortController();
  const asking = new Promise<RelayProbe>((resolve) => {
    const target = new URL('/ping', url);
    const request = (target.protocol === 'https:' ? getSecure : get)(target, {
      agent: false,
      lookup: boundedLookup(timeoutMs),
      signal: ending.signal,
    });
    request.once('error', (error) => resolve({ url, error: systemCode(error) ?? error.message }));
    request.once('response', (response) => {
      const rttMs = performance.now() - startedAt;
      const { date } = response.headers;
      const at = date === undefined ? Number.NaN : Date.parse(date);
      // The header has no fractions: on average it is half a second late.
      const aheadMs = Number.isNaN(at) ? {} : { aheadMs: at + 500 - (Date.now() - rttMs / 2) };
      response.destroy();
      const error =
        response.statusCode === 200
          ? {}
          : { error: `it answers as no relay does (HTTP ${response.statusCode})` };
      resolve({ url, rttMs, ...aheadMs, ...error });
    });
  });
  try {
    return await within(asking, timeoutMs, { url, error: `no answer within ${timeoutMs / 1000} s` });
  } finally {
    ending.abort();
  }
}
