/** An exposing side under attack: real endpoints on loopback, one honest peer, and what was reported. */
import { randomBytes } from 'node:crypto';
import type { Socket } from 'node:net';
import { bindIroh } from '../../src/session/engines/iroh.js';
import { FrameType } from '../../src/session/frame.js';
import { Identity } from '../../src/session/identity.js';
import type { Endpoint } from '../../src/session/session.js';
import { TOKEN_BYTES } from '../../src/session/ticket.js';
import type { TunnelEvent } from '../../src/tunnel/events.js';
import { Expose } from '../../src/tunnel/expose.js';
import type { Limits } from '../../src/tunnel/limits.js';
import type { RightsSource } from '../../src/tunnel/policy.js';
import { Attacker, codeOf, type RawSession, type Victim } from './attacker.js';
import { listen } from './sockets.js';
import { tokenSource } from './token-source.js';
import { udpPeer } from './udp.js';

export interface SiegeOptions {
  readonly limits?: Partial<Limits>;
  readonly rights?: readonly RightsSource[];
}

export class Besieged {
  readonly expose: Expose;
  readonly events: TunnelEvent[];
  readonly victim: Victim;
  readonly token: string;
  /** Connections the target has now. */
  readonly served: Set<Socket>;
  readonly #closing: (() => unknown)[];
  #lastHonest = 0;

  private constructor(
    parts: Pick<Besieged, 'expose' | 'events' | 'victim' | 'token' | 'served'>,
    closing: (() => unknown)[],
  ) {
    this.expose = parts.expose;
    this.events = parts.events;
    this.victim = parts.victim;
    this.token = parts.token;
    this.served = parts.served;
    this.#closing = closing;
  }

  /** Exposes `echo` (TCP), `secret` (TCP, reads nothing), and `dns` (UDP, an echo). */
  static async start({ limits, rights }: SiegeOptions = {}): Promise<Besieged> {
    const served = new Set<Socket>();
    const target = await listen((socket) => {
      served.add(socket);
      socket.on('close', () => served.delete(socket));
      socket.pipe(socket);
    });
    const silent = await listen((socket) => socket.pause());
    const udp = await udpPeer({ answer: (payload) => payload });
    const identity = Identity.generate();
    const endpoint: Endpoint = await bindIroh({
      identity,
      bind: ['127.0.0.1:0'],
      relay: 'none',
      addressLookup: false,
    });
    const events: TunnelEvent[] = [];
    const token = randomBytes(TOKEN_BYTES).toString('base64url');
    const tcp = { kind: 'socket', protocol: 'tcp', host: '127.0.0.1', port: target.port } as const;
    const expose = new Expose({
      endpoints: [endpoint],
      identity,
      services: [
        { name: 'echo', target: tcp },
        { name: 'secret', target: { ...tcp, port: silent.port } },
        { name: 'dns', target: { ...tcp, protocol: 'udp', port: udp.port } },
      ],
      report: (event) => events.push(event),
      ...(limits ? { limits } : {}),
      rights: [tokenSource(token), ...(rights ?? [])],
    });
    const direct = endpoint.boundAddresses();
    return new Besieged(
      {
        expose,
        events,
        served,
        victim: { nodeId: identity.nodeId, direct },
        token,
      },
      [() => expose.close(0), () => udp.close(), () => target.close(), () => silent.close()],
    );
  }

  async attacker(identity?: Identity): Promise<Attacker> {
    const attacker = await Attacker.bind(identity);
    this.#closing.unshift(() => attacker.close());
    return attacker;
  }

  /** An admitted session of somebody else, which opens a channel and gets its bytes back. */
  async honest(): Promise<RawSession> {
    const peer = await this.attacker();
    this.#lastHonest += 1;
    const instanceId = this.#lastHonest.toString(16).padStart(32, '0');
    return peer.enter(this.victim, this.token, { instanceId });
  }

  /** A new channel of that session works. Fails with the code that refused it. */
  async works(session: RawSession, channelId: number): Promise<void> {
    const stream = await session.open(channelId, 'echo');
    const answer = await stream.next();
    if (answer.type === FrameType.ERROR) throw new Error(`refused with ${codeOf(answer)}`);
    stream.frame(channelId, FrameType.DATA, Buffer.from('hello'));
    await stream.next(({ type }) => type === FrameType.DATA);
    stream.reset();
  }

  /** Codes of the errors reported so far. */
  get errors(): readonly string[] {
    return this.events.flatMap((event) => (event.event === 'error' ? [event.code] : []));
  }

  async close(): Promise<void> {
    for (const close of this.#closing) await close();
  }
}
