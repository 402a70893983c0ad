/**
 * Tells a peer whose process has ended from a network that is cut: a machine that is there, with nothing
 * bound to the port, answers a UDP packet with "port unreachable", which a connected socket hears as
 * ECONNREFUSED. A cut network answers nothing.
 */
import { createSocket, type Socket } from 'node:dgram';
import { isIPv6 } from 'node:net';
import { systemCode } from '../error.js';
import { watchNetwork } from './network-watch.js';

const PROBE_MS = 750;
/** One could be a process that is being restarted, or a port that moves. */
const REFUSALS = 4;
/** Nothing an endpoint would take for one of its packets. */
const PROBE = Buffer.of(0);

/**
 * Resolves with true once `address` (`ip:port`, where the peer was last) has refused for some three
 * seconds, with false when the signal fires or this machine's network changes: who refuses then may be
 * another one.
 */
export function peerIsGone(address: string, signal: AbortSignal): Promise<boolean> {
  const match = /^(.*):(\d+)$/.exec(address);
  const host = match?.[1]?.replace(/^\[(.*)\]$/, '$1') ?? '';
  const port = Number(match?.[2]);
  return new Promise((resolve) => {
    const socket: Socket = createSocket(isIPv6(host) ? 'udp6' : 'udp4');
    let timer: NodeJS.Timeout | undefined;
    let refusals = 0;
    let refused = true;
    const done = (gone: boolean) => {
      clearInterval(timer);
      endWatch();
      signal.removeEventListener('abort', stop);
      socket.close();
      resolve(gone);
    };
    const stop = () => done(false);
    const endWatch = watchNetwork(stop);
    if (signal.aborted) {
      stop();
      return;
    }
    signal.addEventListener('abort', stop, { once: true });
    socket.on('error', (error) => {
      if (systemCode(error) !== 'ECONNREFUSED') return;
      refused = true;
      refusals += 1;
      if (refusals >= REFUSALS) done(true);
    });
    socket.once('connect', () => {
      timer = setInterval(() => {
        // A packet without an answer: the network may be cut after all.
        if (!refused) refusals = 0;
        refused = false;
        socket.send(PROBE, () => undefined);
      }, PROBE_MS);
    });
    socket.connect(port, host);
  });
}
