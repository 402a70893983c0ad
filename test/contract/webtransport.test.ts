import { spawn } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { createSecureServer } from 'node:http2';
import { type AddressInfo, connect as connectTcp, createServer, type Server } from 'node:net';
import { createInterface } from 'node:readline/promises';
import { createServer as createTlsServer } from 'node:tls';
import { describe, expect, it } from 'vitest';
import {
  type DialOptions,
  dialWebTransport,
  type ListenOptions,
  listenWebTransport,
  type WebTransportListener,
} from '../../src/session/engines/webtransport.js';
import { makeCertificate } from '../../src/session/engines/webtransport-certificate.js';
import { Identity } from '../../src/session/identity.js';
import type { NodeId } from '../../src/session/node-id.js';
import type { Session } from '../../src/session/session.js';
import { rejected } from '../support/errors.js';
import { checkLeaks } from '../support/leaks.js';
import { next, type Sessions, sessionContract } from './session-contract.js';

const listen = (options: Partial<ListenOptions> = {}) =>
  listenWebTransport({ identity: Identity.generate(), listen: '127.0.0.1:0', ...options });

function dial(to: Pick<WebTransportListener, 'nodeId' | 'address' | 'certificateHash'>, options = {}) {
  const { nodeId, address, certificateHash } = to;
  const defaults: DialOptions = { identity: Identity.generate(), nodeId, address, certificateHash };
  return dialWebTransport({ ...defaults, ...options });
}

async function connect(identity: Identity, to: WebTransportListener): Promise<Sessions> {
  const [dialler, acceptor] = await Promise.all([dial(to, { identity }), next(to.incoming)]);
  return { dialler, acceptor };
}

/** A listener in a process of its own that says `alive` on a stream of its first session, and holds on. */
const MORTAL = `
  const { listenWebTransport } = await import(process.argv[1]);
  const { Identity } = await import(process.argv[2]);
  const { nodeId, address, certificateHash, incoming } =
    await listenWebTransport({ identity: Identity.generate(), listen: '127.0.0.1:0' });
  process.stdout.write(JSON.stringify({ nodeId, address, certificateHash }) + '\\n');
  for await (const session of incoming) {
    const stream = await session.createBidirectionalStream();
    stream.write(null, Buffer.from('alive'));
  }
`;
const SOURCES = ['engines/webtransport.ts', 'identity.ts'].map(
  (name) => new URL(`../../src/session/${name}`, import.meta.url).href,
);

sessionContract('webtransport', {
  async makePair() {
    const identity = Identity.generate();
    const to = await listen();
    return {
      ...(await connect(identity, to)),
      diallerId: identity.nodeId,
      acceptorId: to.nodeId,
      again: () => connect(identity, to),
      dispose: () => to.close(),
    };
  },
  async makeMortalPeer() {
    const child = spawn(
      process.execPath,
      ['--import', 'tsx', '--input-type=module', '-e', MORTAL, ...SOURCES],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    const exited = once(child, 'exit');
    const lines = createInterface({ input: child.stdout });
    const [line] = await once(lines, 'line');
    lines.close();
    const session = await dial(JSON.parse(line as string));
    return {
      session,
      stream: await next(session.incomingBidirectionalStreams),
      kill: () => child.kill('SIGKILL'),
      dispose: async () => {
        child.kill('SIGKILL');
        await exited;
      },
    };
  },
});

describe('webtransport: a listener', () => {
  checkLeaks();

  it('is its identity, on the address it was bound to, with a certificate for two weeks at most', async () => {
    const identity = Identity.generate();
    const listener = await listen({ identity });
    expect(listener.nodeId).toBe(identity.nodeId);
    expect(listener.address).toMatch(/^127\.0\.0\.1:[1-9]\d*$/);
    expect(listener.boundAddresses()).toEqual([listener.address]);
    expect(listener.addresses()).toEqual({ direct: [listener.address], relays: [] });
    expect(listener.certificateHash).toMatch(/^[0-9a-f]{64}$/);
    const refused = rejected(listener.connect(identity.nodeId, listener.addresses()));
    expect((await refused).code).toBe('UNSUPPORTED');
    await listener.close();
    await listener.close();
  });

  it('on IPv6 is reached there', async () => {
    const listener = await listen({ listen: '[::1]:0' });
    expect(listener.address).toMatch(/^\[::1\]:[1-9]\d*$/);
    const { dialler, acceptor } = await connect(Identity.generate(), listener);
    expect(acceptor.path.remote).toMatch(/^\[::1\]:[1-9]\d*$/);
    dialler.close();
    await listener.close();
  });

  it('names a port that is taken as PORT_IN_USE', async () => {
    const first = await listen();
    expect((await rejected(listen({ listen: first.address }))).code).toBe('PORT_IN_USE');
    await first.close();
  });

  it.each(['192.0.2.1:0', 'nonsense', 'localhost:0', '127.0.0.1:70000'])(
    'cannot be bound to %s, which is CANNOT_BIND',
    async (address) => {
      expect((await rejected(listen({ listen: address }))).code).toBe('CANNOT_BIND');
    },
  );

  it('ends its incoming sessions, and the sessions it has, when it is closed, and gives the port back', async () => {
    const listener = await listen();
    const { dialler, acceptor } = await connect(Identity.generate(), listener);
    const iterating = (async () => {
      for await (const _ of listener.incoming);
    })();
    await listener.close();
    await iterating;
    expect(await acceptor.closed).toMatchObject({ by: 'local', closeCode: 0 });
    expect(await dialler.closed).toMatchObject({ by: 'peer', closeCode: 0 });
    const again = await listen({ listen: listener.address });
    expect(again.certificateHash).not.toBe(listener.certificateHash);
    await again.close();
  });

  it('serves many dials at once', async () => {
    const listener = await listen();
    const identities = Array.from({ length: 8 }, () => Identity.generate());
    const dialled = await Promise.all(identities.map((identity) => dial(listener, { identity })));
    const accepted: Session[] = [];
    while (accepted.length < identities.length) accepted.push(await next(listener.incoming));
    expect(accepted.map(({ remoteId }) => remoteId).sort()).toEqual(
      identities.map(({ nodeId }) => nodeId).sort(),
    );
    expect(dialled.every(({ remoteId }) => remoteId === listener.nodeId)).toBe(true);
    await listener.close();
  });

  it('and another one in one process are told apart', async () => {
    const [one, two] = await Promise.all([listen(), listen()]);
    const identity = Identity.generate();
    const [toOne, toTwo] = await Promise.all([connect(identity, one), connect(identity, two)]);
    expect([toOne.dialler.remoteId, toTwo.dialler.remoteId]).toEqual([one.nodeId, two.nodeId]);
    const mixed = rejected(dial({ ...two, nodeId: one.nodeId, address: two.address }));
    expect((await mixed).code).toBe('UNREACHABLE');
    await one.close();
    expect(await Promise.race([toTwo.dialler.closed, Promise.resolve('open')])).toBe('open');
    await two.close();
  });

  it('says over which path, and that its datagrams are reliable', async () => {
    const listener = await listen();
    const { acceptor } = await connect(Identity.generate(), listener);
    const session = await dial(listener);
    expect(session.path).toMatchObject({ kind: 'webtransport-h2', remote: listener.address });
    expect(acceptor.path.kind).toBe('webtransport-h2');
    expect([session.reliableDatagrams, session.maxDatagramSize]).toEqual([true, 16_384]);
    await listener.close();
  });
});

describe('webtransport: who is not who it should be', () => {
  checkLeaks();

  it('by the certificate gets not one byte, and is UNREACHABLE', async () => {
    const { certificate, privateKey, hash } = makeCertificate();
    let received = 0;
    const server = createTlsServer(
      { cert: certificate, key: privateKey, ALPNProtocols: ['h2'] },
      (socket) => {
        socket.on('data', (chunk) => {
          received += chunk.length;
        });
        socket.on('error', () => undefined);
      },
    );
    const address = await bound(server);
    const secured = once(server, 'secureConnection');
    const wrong = `${hash.slice(0, -1)}${hash.endsWith('0') ? '1' : '0'}`;
    const nodeId = Identity.generate().nodeId;
    const error = await rejected(dial({ nodeId, address, certificateHash: wrong }));
    expect(error.code).toBe('UNREACHABLE');
    expect(error.message).toContain('another certificate');
    const [socket] = await secured;
    if (!socket.destroyed) await once(socket, 'close');
    expect(received).toBe(0);
    await closed(server);
  });

  it.each(['', 'ff', 'F'.repeat(64), 'x'.repeat(64)])(
    'by a hash that is none, %j, is not dialled',
    async (hash) => {
      const error = await rejected(
        dial({ nodeId: Identity.generate().nodeId, address: '127.0.0.1:1', certificateHash: hash }),
      );
      expect(error.code).toBe('UNREACHABLE');
    },
  );

  it('by its node ID is UNREACHABLE, and there is no session at either end', async () => {
    const listener = await listen();
    const error = await rejected(
      dial({ ...listener, ...plain(listener), nodeId: Identity.generate().nodeId }),
    );
    expect(error.code).toBe('UNREACHABLE');
    expect(await incomingUntilClosed(listener)).toEqual([]);
  });

  it('as a dialler is DENIED', async () => {
    const listener = await listen();
    const identity = forged(Identity.generate().nodeId);
    expect((await rejected(dial(listener, { identity }))).code).toBe('DENIED');
    expect(await incomingUntilClosed(listener)).toEqual([]);
  });

  it('as a listener is DENIED', async () => {
    const listener = await listen({ identity: forged(Identity.generate().nodeId) });
    expect((await rejected(dial(listener))).code).toBe('DENIED');
    expect(await incomingUntilClosed(listener)).toEqual([]);
  });
});

describe('webtransport: a dial', () => {
  checkLeaks();
  const nobody = { nodeId: Identity.generate().nodeId, certificateHash: 'a'.repeat(64) };

  it.each(['127.0.0.1:9', 'nonsense', '127.0.0.1:99999', 'no-such-host.invalid:1'])(
    'of %s is UNREACHABLE',
    async (address) => {
      expect((await rejected(dial({ ...nobody, address }))).code).toBe('UNREACHABLE');
    },
  );

  it.each([
    ['TCP that says nothing', () => createServer()],
    ['TLS that says nothing', () => createTlsServer({ ...pinned })],
    ['HTTP/2 without WebTransport', () => createSecureServer({ ...pinned })],
    [
      'HTTP/2 that never answers a CONNECT',
      () =>
        createSecureServer({ ...pinned, settings: { enableConnectProtocol: true } }).on(
          'stream',
          (stream) => {
            stream.on('error', () => undefined);
          },
        ),
    ],
  ])('of %s gives up in time, and leaves nothing', async (_what, make) => {
    const server = make() as Server;
    const sockets = new Set<{ destroy(): void }>();
    server.on('connection', (socket) => sockets.add(socket));
    const address = await bound(server);
    const error = await rejected(
      dial({ ...nobody, address, certificateHash: pinned.hash }, { handshakeTimeoutMs: 300 }),
    );
    expect(error.code).toBe('UNREACHABLE');
    for (const socket of sockets) socket.destroy();
    await closed(server);
  });

  it('of what refuses WebTransport is UNREACHABLE', async () => {
    const server = createSecureServer({ ...pinned, settings: { enableConnectProtocol: true } });
    server.on('stream', (stream) => {
      stream.respond({ ':status': 404 });
      stream.end();
    });
    const address = await bound(server);
    const error = await rejected(dial({ ...nobody, address, certificateHash: pinned.hash }));
    expect(error.code).toBe('UNREACHABLE');
    await closed(server);
  });

  it('can be cancelled, before and while it is under way', async () => {
    const server = createServer();
    const address = await bound(server);
    const aborted = dial({ ...nobody, address }, { signal: AbortSignal.abort() });
    expect((await rejected(aborted)).code).toBe('ABORTED');
    const controller = new AbortController();
    const dialling = rejected(dial({ ...nobody, address }, { signal: controller.signal }));
    const [socket] = await once(server, 'connection');
    controller.abort();
    expect((await dialling).code).toBe('ABORTED');
    socket.destroy();
    await closed(server);
  });

  it('that is cancelled in the middle of the TLS handshake is over, whatever still arrives', async () => {
    const to = await listen();
    const held: (() => void)[] = [];
    const server = createServer((client) => {
      const upstream = connectTcp({ host: '127.0.0.1', port: Number(to.address.replace(/^.*:/, '')) });
      client.on('error', () => undefined);
      upstream.on('error', () => undefined);
      client.pipe(upstream);
      upstream.once('data', (hello) => {
        upstream.pause();
        held.push(() => {
          client.write(hello);
          upstream.pipe(client);
        });
        server.emit('held', client);
      });
    });
    const address = await bound(server);
    const controller = new AbortController();
    const { nodeId, certificateHash } = to;
    const dialling = rejected(dial({ nodeId, certificateHash, address }, { signal: controller.signal }));
    const [client] = await once(server, 'held');
    const gone = once(client, 'close');
    controller.abort();
    expect((await dialling).code).toBe('ABORTED');
    for (const release of held) release();
    // It would throw where nobody can catch it, and end the process.
    await gone;
    await closed(server);
    await to.close();
  });
});

describe('webtransport: the certificate', () => {
  it('is one that a browser would take by its hash', () => {
    const { certificate, hash } = makeCertificate();
    const parsed = new X509Certificate(certificate);
    expect(parsed.fingerprint256.replaceAll(':', '').toLowerCase()).toBe(hash);
    expect(parsed.verify(parsed.publicKey)).toBe(true);
    expect(parsed.publicKey.asymmetricKeyDetails?.namedCurve).toBe('prime256v1');
    const [from, to] = [parsed.validFrom, parsed.validTo].map((time) => Date.parse(time)) as [number, number];
    expect(to - from).toBeLessThanOrEqual(14 * 24 * 3600 * 1000);
    expect(from).toBeLessThan(Date.now());
    expect(to).toBeGreaterThan(Date.now() + 11 * 24 * 3600 * 1000);
  });
});

// ---- helpers

const pinned = (() => {
  const { certificate, privateKey, hash } = makeCertificate();
  return { cert: certificate, key: privateKey, hash, ALPNProtocols: ['h2'] };
})();

/** Claims one node ID, and signs with the key of another. */
function forged(nodeId: NodeId): Identity {
  const own = Identity.generate();
  return { nodeId, sign: (message: Uint8Array) => own.sign(message) } as unknown as Identity;
}

function plain({ nodeId, address, certificateHash }: WebTransportListener) {
  return { nodeId, address, certificateHash };
}

async function bound(server: Server): Promise<string> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

async function closed(server: Server): Promise<void> {
  server.close();
  await once(server, 'close');
}

async function incomingUntilClosed(listener: WebTransportListener): Promise<Session[]> {
  const sessions: Session[] = [];
  const iterating = (async () => {
    for await (const session of listener.incoming) sessions.push(session);
  })();
  await listener.close();
  await iterating;
  return sessions;
}
