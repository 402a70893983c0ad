/** Rights that change while they are used: everything but the engine is real. */
import type { Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { TunnelErrorCode } from '../../src/error.js';
import { dialHandshake } from '../../src/session/handshake.js';
import { Identity } from '../../src/session/identity.js';
import type { TunnelEvent } from '../../src/tunnel/events.js';
import { Forward } from '../../src/tunnel/forward.js';
import type { Rights, RightsSource } from '../../src/tunnel/policy.js';
import { listServices } from '../../src/tunnel/services.js';
import { rejected } from '../support/errors.js';
import { eventually } from '../support/eventually.js';
import { checkLeaks } from '../support/leaks.js';
import { MemoryNetwork, type MemoryNetworkOptions } from '../support/memory-network.js';
import { dial, endOf, listen } from '../support/sockets.js';

/** What a test gives and takes. */
class Switch implements RightsSource {
  rights: Rights | undefined = { services: new Set(['svc']), via: 'book' };
  readonly #listeners = new Set<() => void>();

  admit() {
    return { current: () => this.rights };
  }

  onChange(listener: () => void) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  change(rights: Rights | undefined): void {
    this.rights = rights;
    for (const listener of this.#listeners) listener();
  }
}

let target: Awaited<ReturnType<typeof listen>>;
let atTarget: Socket[];
let rights: Switch;
let network: MemoryNetwork;
let forwards: Forward[];

checkLeaks();

beforeEach(async () => {
  atTarget = [];
  forwards = [];
  rights = new Switch();
  target = await listen((socket) => {
    atTarget.push(socket);
    socket.on('error', () => undefined);
    socket.pipe(socket);
  });
});

afterEach(async () => {
  for (const forward of forwards) await forward.close(0);
  await network.close();
  await target.close();
});

function expose(options: MemoryNetworkOptions = {}): void {
  network = new MemoryNetwork({ svc: target.port, other: target.port }, { rights: [rights], ...options });
}

async function forwarding(identity = network.client) {
  const events: TunnelEvent[] = [];
  const forward = await Forward.start({
    identity,
    peer: network.identity.nodeId,
    ways: [network.way],
    token: undefined,
    specs: [{ local: { kind: 'socket', host: '127.0.0.1', port: 0 }, service: 'svc', protocol: 'tcp' }],
    report: (event) => events.push(event),
  });
  forwards.push(forward);
  const { local } = events.find(({ event }) => event === 'listening') as { local: string };
  const states = () => events.flatMap((event) => (event.event === 'session' ? event.state : []));
  return { forward, events, states, port: Number(local.replace(/^.*:/, '')) };
}

async function connected(identity?: Identity) {
  const forwarded = await forwarding(identity);
  expect(await eventually(() => forwarded.states().includes('connected'))).toBe(true);
  const app = await dial(forwarded.port);
  app.write('x');
  expect(await eventually(() => atTarget.length > 0 && app.bytesRead > 0)).toBe(true);
  return { ...forwarded, app };
}

const denials = () => network.events.filter((event) => event.event === 'error' && event.code === 'DENIED');

describe('a right that is taken back', () => {
  it('closes the connection on both sides, and the session of a peer with nothing left', async () => {
    expose();
    const { forward, app } = await connected();
    rights.change(undefined);
    expect(await endOf(app)).toBe('reset');
    expect(await eventually(() => atTarget[0]?.destroyed === true)).toBe(true);
    expect((await forward.ended)?.code).toBe('DENIED');
    expect(denials().length).toBeGreaterThan(0);
  });

  it('leaves the session to a peer that has something left', async () => {
    expose();
    const { app, states, port } = await connected();
    rights.change({ services: new Set(['other']), via: 'book' });
    expect(await endOf(app)).toBe('reset');
    expect(await endOf(await dial(port))).toBe('reset');
    expect(states().at(-1)).toBe('connected');
    rights.change({ services: 'all', via: 'book' });
    const again = await dial(port);
    again.write('y');
    expect(await eventually(() => again.bytesRead > 0)).toBe(true);
    again.destroy();
  });

  it('closes a connection that waits for a session, and does not let it go on', async () => {
    expose();
    const { forward, app, states } = await connected();
    network.up = false;
    network.cut();
    expect(await eventually(() => states().includes('reconnecting'))).toBe(true);
    expect(atTarget[0]?.destroyed).toBe(false);
    rights.change(undefined);
    expect(await eventually(() => atTarget[0]?.destroyed === true)).toBe(true);
    network.up = true;
    expect((await forward.ended)?.code).toBe('DENIED');
    const ended = endOf(app);
    await forward.close(0);
    expect(await ended).toBe('reset');
  });

  it('is asked for at every OPEN and call, also where nobody said that it changed', async () => {
    expose();
    const { forward, app, port, states } = await connected();
    const session = await dialHandshake(network.session(), { identity: network.client, tokens: [] });
    expect(await listServices(session)).toEqual([{ name: 'svc', protocol: 'tcp' }]);
    rights.rights = undefined;
    expect((await rejected(listServices(session))).code).toBe('DENIED');
    expect(await endOf(await dial(port))).toBe('reset');
    // And at every RESUME: the session that comes is denied, and so is its connection.
    network.cut();
    expect((await forward.ended)?.code).toBe('DENIED');
    expect(states().at(-1)).toBe('closed');
    const ended = endOf(app);
    await forward.close(0);
    expect(await ended).toBe('reset');
  });

  it('that expires is as one taken back, at its time', async () => {
    expose();
    const expiresAtMs = Date.now() + 400;
    rights.rights = { services: 'all', via: 'book', expiresAtMs };
    const { forward, app } = await connected();
    expect(await endOf(app)).toBe('reset');
    expect(Date.now()).toBeGreaterThanOrEqual(expiresAtMs);
    expect(Date.now()).toBeLessThan(expiresAtMs + 1000);
    expect((await forward.ended)?.code).toBe('DENIED');
  });

  it('of one peer is nothing to another', async () => {
    const alice = Identity.generate();
    const denied = Identity.generate();
    expose({
      rights: [
        rights,
        { admit: () => undefined, denies: (peer) => (peer === denied.nodeId ? gone : undefined) },
      ],
    });
    let gone: 'all' | undefined;
    const one = await connected(alice);
    const two = await connected(denied);
    gone = 'all';
    rights.change(rights.rights);
    expect((await two.forward.ended)?.code).toBe('DENIED');
    expect(await endOf(two.app)).toBe('reset');
    const before = one.app.bytesRead;
    one.app.write('still here');
    expect(await eventually(() => one.app.bytesRead > before)).toBe(true);
    one.app.destroy();
  });
});

describe('peers that wait for a person', () => {
  it('wait with their connections, and go on when they are let in', async () => {
    rights.rights = undefined;
    expose({ ask: true });
    const { events, states, port } = await forwarding();
    const app = await dial(port);
    app.write('early');
    expect(await eventually(() => network.expose.approvals?.list().length === 1)).toBe(true);
    expect(await eventually(() => events.some((event) => event.event === 'session' && event.approval))).toBe(
      true,
    );
    expect(states()).not.toContain('closed');
    expect(network.expose.approvals?.decide(1, true)).toBe(true);
    expect(await eventually(() => app.bytesRead === 5)).toBe(true);
    // A new session of the same process is not asked about.
    network.cut();
    expect(await eventually(() => states().filter((state) => state === 'connected').length === 2)).toBe(true);
    expect(network.expose.approvals?.list()).toEqual([]);
    app.destroy();
  });

  it('are bounded, and keep nobody out who has a right', async () => {
    rights.rights = undefined;
    expose({ ask: true });
    const codes = new Map<TunnelErrorCode | undefined, number>();
    const strangers = Array.from({ length: 400 }, () => {
      const session = network.session();
      const dialled = dialHandshake(session, { identity: Identity.generate(), tokens: [] });
      dialled.catch(({ code }) => codes.set(code, (codes.get(code) ?? 0) + 1));
      return session;
    });
    expect(
      await eventually(() => (codes.get('LIMIT') ?? 0) === 400 - 64, 20_000),
      JSON.stringify([...codes]),
    ).toBe(true);
    expect(network.expose.approvals?.list()).toHaveLength(64);
    const owner = await dialHandshake(network.session(), { identity: network.identity, tokens: [] });
    expect(await listServices(owner)).toHaveLength(2);
    for (const session of strangers) session.close();
    expect(await eventually(() => network.expose.approvals?.list().length === 0)).toBe(true);
    owner.session.close();
  });
});
