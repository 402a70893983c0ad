/** HELLO both ways over a session: who is let in, who is not, and what each side learns. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { TunnelError } from '../../src/error.js';
import { memorySessionPair } from '../../src/session/engines/memory.js';
import { encodeFrame, FrameType } from '../../src/session/frame.js';
import { type AcceptHandshake, acceptHandshake, dialHandshake } from '../../src/session/handshake.js';
import { encodeHello, type Hello } from '../../src/session/hello.js';
import { Identity } from '../../src/session/identity.js';
import { encodePreamble, StreamKind } from '../../src/session/preamble.js';

const exposed = Identity.generate();
const client = Identity.generate();

/** Two sessions whose dialler has an endpoint key of its own, as a forward's has. */
function sessions() {
  return memorySessionPair({ ids: [Identity.generate().nodeId, exposed.nodeId] });
}

function accepting(overrides: Partial<AcceptHandshake<string>> = {}): AcceptHandshake<string> {
  return {
    identity: exposed,
    admit: (_peer, { tokens }) => (tokens?.includes('good') ? 'grant' : undefined),
    services: () => [{ name: 'db', protocol: 'tcp' }],
    dispatcher: () => ({ 'services.list': () => Buffer.from('[]') }),
    ...overrides,
  };
}

const failure = (promise: Promise<unknown>) =>
  promise.then(
    () => undefined,
    (error: TunnelError) => error,
  );

describe('the handshake', () => {
  it('proves the identity behind a forward, tells what it may reach, and opens calls both ways', async () => {
    const { dialler, acceptor } = sessions();
    const [near, far] = await Promise.all([
      dialHandshake(dialler, { identity: client, tokens: ['good'] }),
      acceptHandshake(acceptor, accepting()),
    ]);
    expect(far.peer.peer).toBe(client.nodeId);
    expect(far.grant).toBe('grant');
    expect(near.peer).toBe(exposed.nodeId);
    expect(near.remote.services).toEqual([{ name: 'db', protocol: 'tcp' }]);
    expect(Buffer.from(await near.rpc.call('ping', Buffer.from('x'))).toString()).toBe('x');
    expect(Buffer.from(await far.peer.rpc.call('ping', Buffer.from('y'))).toString()).toBe('y');
    dialler.close();
  });

  it('tells the peer that this side is going away', async () => {
    const { dialler, acceptor } = sessions();
    const [near, far] = await Promise.all([
      dialHandshake(dialler, { identity: client, tokens: ['good'] }),
      acceptHandshake(acceptor, accepting()),
    ]);
    const { TunnelError: Err } = await import('../../src/error.js');
    far.peer.goAway(new Err('SHUTDOWN', 'bye'));
    expect(await near.goingAway).toMatchObject({ code: 'SHUTDOWN', message: 'bye' });
    dialler.close();
  });

  it('denies a wrong token on both sides, and answers nothing else', async () => {
    const { dialler, acceptor } = sessions();
    const errors = await Promise.all([
      failure(dialHandshake(dialler, { identity: client, tokens: ['bad'] })),
      failure(acceptHandshake(acceptor, accepting())),
    ]);
    expect(errors.map((error) => error?.code)).toEqual(['DENIED', 'DENIED']);
    expect(await dialler.closed).toMatchObject({ by: 'peer' });
  });

  it.each<[string, Partial<Hello>]>([
    ['without a proof', { proof: '' }],
    ['with a signature that is none', { proof: 'AAAA' }],
    ['with a proof of another session', { proof: otherProof() }],
  ])('denies an identity claimed %s', async (_what, claim) => {
    const { dialler, acceptor } = sessions();
    const accepted = failure(acceptHandshake(acceptor, accepting({ admit: () => 'grant' })));
    const stream = await dialler.createBidirectionalStream();
    stream.write(encodePreamble(StreamKind.CONTROL, Buffer.alloc(0)), helloFrame(claim));
    expect((await accepted)?.code).toBe('DENIED');
    expect((await dialler.closed).closeCode).toBeGreaterThan(0);
  });

  it.each<[string, Partial<Hello>, RegExp]>([
    ['another major version', { major: 2, minor: 7 }, /tunnel\/2\.7.*tunnel\/1\.0/],
    ['a feature this build lacks', { required: ['teleport'] }, /teleport.*tunnel\/1\.0/],
  ])('ends with VERSION for %s, naming both versions', async (_what, claim, words) => {
    const { dialler, acceptor } = sessions();
    const dialled = failure(dialHandshake(dialler, { identity: client, tokens: [] }));
    const { value: stream } = await acceptor.incomingBidirectionalStreams[Symbol.asyncIterator]().next();
    stream.write(null, helloFrame(claim));
    const error = await dialled;
    expect(error?.code).toBe('VERSION');
    expect(error?.message).toMatch(words);
  });

  it.each<[string, Buffer]>([
    ['a stream of another kind', encodePreamble(StreamKind.OPEN, Buffer.alloc(20))],
    ['a HELLO that is no JSON', frameAfterControl(encodeFrame(0, FrameType.HELLO, Buffer.from('{')))],
    ['a call before HELLO', frameAfterControl(encodeFrame(1, FrameType.CALL, Buffer.alloc(8)))],
    ['DATA before HELLO', frameAfterControl(encodeFrame(1, FrameType.DATA, Buffer.alloc(8)))],
  ])('ends with PROTOCOL for %s', async (_what, bytes) => {
    const { dialler, acceptor } = sessions();
    const accepted = failure(acceptHandshake(acceptor, accepting()));
    const stream = await dialler.createBidirectionalStream();
    stream.write(null, bytes);
    expect((await accepted)?.code).toBe('PROTOCOL');
    expect((await dialler.closed).by).toBe('peer');
  });

  it('ends when the session does, and when it is cancelled', async () => {
    const lost = sessions();
    const waiting = failure(dialHandshake(lost.dialler, { identity: client, tokens: [] }));
    lost.cut();
    expect((await waiting)?.code).toBe('SESSION_LOST');
    const cancelled = sessions();
    const controller = new AbortController();
    const trying = failure(
      dialHandshake(cancelled.dialler, { identity: client, tokens: [], signal: controller.signal }),
    );
    controller.abort();
    expect((await trying)?.code).toBe('ABORTED');
  });
});

describe('a decision that a person makes', () => {
  /** An acceptor that asks, and what it is answered. */
  function asking(dial: Partial<Parameters<typeof dialHandshake>[1]> = {}) {
    const { dialler, acceptor } = sessions();
    let decide!: (grant: string | undefined) => void;
    let ended: AbortSignal | undefined;
    const near = dialHandshake(dialler, { identity: client, tokens: [], ...dial });
    const far = acceptHandshake(
      acceptor,
      accepting({
        admit: (_peer, _remote, deliberation) => {
          ended = deliberation.begin();
          return new Promise((resolve) => {
            decide = resolve;
          });
        },
      }),
    );
    near.catch(() => undefined);
    far.catch(() => undefined);
    return { dialler, acceptor, near, far, decide: (grant?: string) => decide(grant), ended: () => ended };
  }

  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] });
  });
  afterEach(() => {
    expect(vi.getTimerCount()).toBe(0);
    vi.useRealTimers();
  });

  /** With the clock standing still. */
  async function until(condition: () => boolean): Promise<void> {
    for (let turn = 0; turn < 1000 && !condition(); turn += 1) {
      await vi.advanceTimersByTimeAsync(0);
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(condition()).toBe(true);
  }

  it('may take minutes: the dialler is told once, and waits as long as it is told again', async () => {
    const onPending = vi.fn();
    const { dialler, near, far, decide } = asking({ onPending });
    await until(() => onPending.mock.calls.length > 0);
    for (let second = 0; second < 300; second += 5) await vi.advanceTimersByTimeAsync(5000);
    expect(onPending).toHaveBeenCalledTimes(1);
    decide('grant');
    expect((await far).grant).toBe('grant');
    expect((await near).peer).toBe(exposed.nodeId);
    dialler.close();
  });

  it('is a denial when it is one', async () => {
    const { near, far, decide, ended } = asking();
    await until(() => ended() !== undefined);
    decide(undefined);
    expect((await failure(near))?.code).toBe('DENIED');
    expect((await failure(far))?.code).toBe('DENIED');
  });

  it('is over when the dialler goes away', async () => {
    const { dialler, far, ended, decide } = asking();
    await until(() => ended() !== undefined);
    dialler.close();
    await until(() => ended()?.aborted === true);
    decide('grant');
    expect((await failure(far))?.code).toBe('SESSION_LOST');
  });

  it('is not waited for when nothing is heard of it any more', async () => {
    const { dialler, acceptor } = sessions();
    const near = failure(dialHandshake(dialler, { identity: client, tokens: [] }));
    const { value: stream } = await acceptor.incomingBidirectionalStreams[Symbol.asyncIterator]().next();
    await vi.advanceTimersByTimeAsync(14_000);
    stream.write(null, encodeFrame(0, FrameType.PENDING, Buffer.alloc(0)));
    await vi.advanceTimersByTimeAsync(14_000);
    expect(await Promise.race([near, Promise.resolve('waits')])).toBe('waits');
    await vi.advanceTimersByTimeAsync(1001);
    expect((await near)?.code).toBe('TIMEOUT');
  });
});

function helloFrame(claim: Partial<Hello>): Buffer {
  const hello: Hello = {
    major: 1,
    minor: 0,
    instanceId: 'ab'.repeat(16),
    identity: client.nodeId,
    supported: [],
    required: [],
    ...claim,
  };
  return encodeFrame(0, FrameType.HELLO, encodeHello(hello));
}

function frameAfterControl(frame: Buffer): Buffer {
  return Buffer.concat([encodePreamble(StreamKind.CONTROL, Buffer.alloc(0)), frame]);
}

/** A true signature of the identity, over another session's key material. */
function otherProof(): string {
  const { dialler } = memorySessionPair();
  const material = dialler.exportKeyingMaterial('EXPORTER-tunnel/1-identity', 32);
  const message = Buffer.concat([Buffer.from(`tunnel/1 dialler ${client.nodeId} `), material]);
  return client.sign(message).toString('base64url');
}
