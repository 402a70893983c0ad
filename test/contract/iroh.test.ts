import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, it } from 'vitest';
import { Connection, EventKind, Endpoint as NativeEndpoint, type Stream } from '../../native/index.js';
import { HANDSHAKES } from '../../src/session/engines/handshakes.js';
import { bindIroh } from '../../src/session/engines/iroh.js';
import { Identity } from '../../src/session/identity.js';
import type { NodeId } from '../../src/session/node-id.js';
import type { Endpoint, Session } from '../../src/session/session.js';
import { rejected } from '../support/errors.js';
import { eventually } from '../support/eventually.js';
import { checkLeaks } from '../support/leaks.js';
import { Recorder } from '../support/recorder.js';
import { next, type Sessions, sessionContract } from './session-contract.js';

const bind = (identity = Identity.generate(), address = '127.0.0.1:0') =>
  bindIroh({ identity, bind: [address], relay: 'none', addressLookup: false });
const hintsOf = (endpoint: Endpoint) => ({ direct: endpoint.boundAddresses(), relays: [] });

async function connect(from: Endpoint, to: Endpoint): Promise<Sessions> {
  const [dialler, acceptor] = await Promise.all([from.connect(to.nodeId, hintsOf(to)), next(to.incoming)]);
  return { dialler, acceptor };
}

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;
const leaks = { timeoutMs: 5000 };
// The addon's runtime has sockets of its own, which it makes once and keeps.
await (await bind()).close();

sessionContract('iroh', {
  leaks,
  // The addon keeps 64 MiB of a connection out of the QUIC library's reach, beside all windows.
  mostUnread: 96 * 1024 * 1024,
  async makePair() {
    const [from, to] = await Promise.all([bind(), bind()]);
    return {
      ...(await connect(from, to)),
      diallerId: from.nodeId,
      acceptorId: to.nodeId,
      again: () => connect(from, to),
      dispose: async () => {
        await Promise.all([from.close(), to.close()]);
      },
    };
  },
  async makeMortalPeer() {
    const script = new URL('../support/iroh-child.ts', import.meta.url).pathname;
    const child = spawn(process.execPath, ['--import', 'tsx', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const exited = once(child, 'exit');
    const lines = createInterface({ input: child.stdout });
    const [line] = await once(lines, 'line');
    lines.close();
    const { nodeId, direct } = JSON.parse(line as string) as { nodeId: NodeId; direct: string[] };
    const endpoint = await bind();
    const session = await endpoint.connect(nodeId, { direct, relays: [] });
    return {
      session,
      stream: await next(session.incomingBidirectionalStreams),
      kill: () => child.kill('SIGKILL'),
      dispose: async () => {
        child.kill('SIGKILL');
        await Promise.all([exited, endpoint.close()]);
      },
    };
  },
});

describe('iroh: an endpoint', { timeout: 20_000 }, () => {
  checkLeaks(leaks);

  it('is its identity, on the address it was bound to', async () => {
    const identity = Identity.generate();
    const endpoint = await bind(identity);
    expect(endpoint.nodeId).toBe(identity.nodeId);
    expect(endpoint.boundAddresses()).toHaveLength(1);
    expect(endpoint.boundAddresses()[0]).toMatch(/^127\.0\.0\.1:[1-9]\d*$/);
    expect(endpoint.addresses().relays).toEqual([]);
    await endpoint.networkChange();
    await endpoint.close();
    await endpoint.close();
  });

  it('names a port that is taken as PORT_IN_USE', async () => {
    const first = await bind();
    const [address] = first.boundAddresses();
    expect((await rejected(bind(Identity.generate(), address))).code).toBe('PORT_IN_USE');
    await first.close();
  });

  // Both iroh's handles and JavaScript's objects would keep the sockets until they are collected.
  it('gives its port back when it is closed, whoever still holds its sessions and streams', async () => {
    const [from, to] = await Promise.all([bind(), bind()]);
    const [address] = to.boundAddresses();
    const held = await connect(from, to);
    const near = await held.dialler.createBidirectionalStream();
    near.write(null, Buffer.from('held too'));
    const far = await next(held.acceptor.incomingBidirectionalStreams);
    await Promise.all([from.close(), to.close()]);
    // iroh's own tasks end a moment later.
    const bindAgain = () => bind(Identity.generate(), address).catch(() => undefined);
    let again: Endpoint | undefined;
    await eventually(async () => {
      again = await bindAgain();
      return again !== undefined;
    });
    expect(again?.boundAddresses()).toEqual([address]);
    await again?.close();
    expect(held.dialler.remoteId).toBe(to.nodeId);
    expect(() => near.write(null, Buffer.from('late'))).toThrow();
    expect(() => far.finish()).not.toThrow();
    expect(to.boundAddresses()).toEqual([]);
  });

  it.each(['192.0.2.1:0', 'nonsense'])('cannot be bound to %s, which is CANNOT_BIND', async (address) => {
    expect((await rejected(bind(Identity.generate(), address))).code).toBe('CANNOT_BIND');
  });

  it('ends its incoming sessions, and the sessions it has, when it is closed', async () => {
    const [from, to] = await Promise.all([bind(), bind()]);
    const { dialler, acceptor } = await connect(from, to);
    const incoming = (async () => {
      for await (const _ of to.incoming);
    })();
    await to.close();
    await incoming;
    expect(await acceptor.closed).toMatchObject({ by: 'local', closeCode: 0 });
    expect(await dialler.closed).toMatchObject({ by: 'peer', closeCode: 0 });
    await from.close();
  });

  it('does not take another node for the one that was asked for', async () => {
    const [from, to] = await Promise.all([bind(), bind()]);
    const sessions: Session[] = [];
    void (async () => {
      for await (const session of to.incoming) sessions.push(session);
    })();
    const error = await rejected(from.connect(Identity.generate().nodeId, hintsOf(to)));
    expect(error.code).toBe('UNREACHABLE');
    expect(sessions).toEqual([]);
    await Promise.all([from.close(), to.close()]);
  });

  it('lets a dial be cancelled', async () => {
    const from = await bind();
    const controller = new AbortController();
    const dialling = rejected(
      from.connect(
        Identity.generate().nodeId,
        { direct: ['127.0.0.1:9'], relays: [] },
        { signal: controller.signal },
      ),
    );
    controller.abort();
    expect((await dialling).code).toBe('ABORTED');
    const aborted = from.connect(
      Identity.generate().nodeId,
      { direct: [], relays: [] },
      { signal: AbortSignal.abort() },
    );
    expect((await rejected(aborted)).code).toBe('ABORTED');
    await from.close();
  });

  it.each([
    ['no address at all', []],
    ['an address that is none', ['nonsense']],
  ])('cannot dial by %s, which is an error with a code', async (_what, direct) => {
    const from = await bind();
    const error = await rejected(from.connect(Identity.generate().nodeId, { direct, relays: [] }));
    expect(['UNREACHABLE', 'USAGE', 'INTERNAL']).toContain(error.code);
    expect(error.code).toBe('UNREACHABLE');
    await from.close();
  });

  it('serves many dials at once', async () => {
    const to = await bind();
    const diallers = await Promise.all(Array.from({ length: 8 }, () => bind()));
    const accepted = (async () => {
      const sessions: Session[] = [];
      while (sessions.length < diallers.length) sessions.push(await next(to.incoming));
      return sessions;
    })();
    const dialled = await Promise.all(diallers.map((from) => from.connect(to.nodeId, hintsOf(to))));
    const ids = (await accepted).map(({ remoteId }) => remoteId).sort();
    expect(ids).toEqual(diallers.map(({ nodeId }) => nodeId).sort());
    expect(dialled.every(({ remoteId }) => remoteId === to.nodeId)).toBe(true);
    await Promise.all([to, ...diallers].map((endpoint) => endpoint.close()));
  });
});

describe('iroh: what is thrown away', { timeout: 20_000 }, () => {
  checkLeaks(leaks);

  it('never looks like a clean end: a stream that is garbage is reset', async () => {
    const receiver = await bind();
    const sender = await bindNative();
    const [connection, session] = await Promise.all([
      sender.connect(receiver.nodeId, { direct: [...receiver.boundAddresses()], relays: [] }),
      next(receiver.incoming),
    ]);
    connection.start();
    const seen = new Recorder();
    // In a function of its own, so that nothing on the stack keeps the stream.
    await (async () => {
      const stream = connection.tryOpenBi() as Stream;
      stream.write(null, Buffer.from('half of it'));
    })();
    const far = await next(session.incomingBidirectionalStreams);
    far.receive(seen.sink(far));
    await seen.until(({ received }) => received > 0);
    const told = await eventually(() => {
      collectGarbage();
      return seen.events.length > 0;
    }, 5000);
    if (told) expect(seen.events[0]).toMatch(/^(reset|lost)/);
    expect(seen.events).not.toContain('end');
    await Promise.all([sender.close(), receiver.close()]);
    expect(seen.events).not.toContain('end');
  });

  it('never looks like a clean end: an endpoint that closes with a stream half written', async () => {
    const [from, to] = await Promise.all([bind(), bind()]);
    const { dialler, acceptor } = await connect(from, to);
    const near = await dialler.createBidirectionalStream();
    near.write(null, Buffer.from('half of it'));
    const far = await next(acceptor.incomingBidirectionalStreams);
    const seen = new Recorder();
    far.receive(seen.sink(far));
    await from.close();
    await seen.seen('lost');
    expect(seen.events).toEqual(['lost']);
    await to.close();
  });

  async function bindNative(): Promise<NativeEndpoint> {
    return NativeEndpoint.bind({
      secretKey: Identity.generate().seed(),
      alpn: 'tunnel/1',
      bind: ['127.0.0.1:0'],
      relay: 'none',
      addressLookup: false,
      lan: 'off',
      lanName: '',
      lanService: 'test',
      dht: 'off',
      dhtBootstrap: [],
      relayRoots: '',
      relayToken: '',
      streamReceiveWindow: 1 << 20,
      connectionReceiveWindow: 1 << 22,
      sendWindow: 1 << 22,
      maxStreams: 1000,
      idleTimeoutMs: 10_000,
      keepAliveMs: 3000,
      congestion: 'cubic',
      ackElicitingThreshold: 4,
      datagramReceiveBuffer: 1 << 20,
      datagramSendBuffer: 1 << 20,
      handshakes: HANDSHAKES,
      onEvents: () => undefined,
    });
  }
});

describe('iroh: the addon', () => {
  it('has the events its types tell of', () => {
    expect(new Set(Object.values(EventKind)).size).toBe(15);
    expect(typeof Connection).toBe('function');
  });
});
