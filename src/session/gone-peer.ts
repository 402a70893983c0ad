/**
 * Tells a peer whose process has ended from a network that is cut: a machine that is there, with nothing
 * bound to the port, answers a UDP packet with "port unreachable", which a connected socket hears as
 * ECONNREFUSED. A cut network answers nothing.
 */
import { createSocket, type Socket } from 'node:dgram';
import { isIPv6 } from 'node:net';
import { systemCode } from '../error.js';
import type { Hello } from './hello.js';
import { watchNetwork } from './network-watch.js';
import type { SessionPath } from './session.js';

/**
 * More than a second: Linux answers one packet a second, beside a few at once that whatever was sent to the
 * port before has used up. Asked faster, every fourth would go unanswered, and begin the count anew for ever.
 */
const PROBE_MS = 1100;
/** One could be a process that is being restarted, or a port that moves. */
const REFUSALS = 4;
/** Looks at the same time: each has a socket. */
const MAX_LOOKS = 64;
/** Nothing an endpoint would take for one of its packets. */
const PROBE = Buffer.of(0);

/**
 * Where to ask for the peer at the other end of `path`. Undefined unless its own machine is there: a NAT
 * before it refuses as well, once it has forgotten a peer that only sleeps.
 */
export function whereToAsk({ kind, remote }: SessionPath, { hosts }: Hello): string | undefined {
  if (kind !== 'iroh-direct') return undefined;
  return hosts?.includes(split(remote).host) ? remote : undefined;
}

/**
 * Resolves with true once `address` (`ip:port`, where the peer was last) has refused for some four
 * seconds, with false when the signal fires or this machine's network changes: who refuses then may be
 * another one. False at once where too many are looked for already.
 */
export async function peerIsGone(address: string, signal: AbortSignal): Promise<boolean> {
  if (looks >= MAX_LOOKS) return false;
  looks += 1;
  try {
    return await look(address, signal);
  } finally {
    looks -= 1;
  }
}

let looks = 0;

function look(address: string, signal: AbortSignal): Promise<boolean> {
  const { host, port } = split(address);
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

/** IPv6 comes in brackets, and goes without. */
function split(address: string): { readonly host: string; readonly port: number } {
  const match = /^\[?(.*?)\]?:(\d+)$/.exec(address);
  return { host: match?.[1] ?? '', port: Number(match?.[2]) };
}
