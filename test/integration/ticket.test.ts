/** What a ticket opens, asked for in every way the protocol has: everything but the engine is real. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { TunnelError, WIRE_CODES } from '../../src/error.js';
import { INITIAL_WINDOW_BYTES } from '../../src/session/channel.js';
import type { PeerSession } from '../../src/session/handshake.js';
import { Identity } from '../../src/session/identity.js';
import type { NodeId } from '../../src/session/node-id.js';
import { OpenedChannels } from '../../src/session/opened-channels.js';
import { encodePreamble, StreamKind } from '../../src/session/preamble.js';
import { encodeResume } from '../../src/session/resume.js';
import { encodeFlowOpen, FLOW_OPEN } from '../../src/tunnel/flow-messages.js';
import { encodeOpen } from '../../src/tunnel/open.js';
import { TicketRights } from '../../src/tunnel/ticket-rights.js';
import { type NewTicket, TicketStore } from '../../src/tunnel/ticket-store.js';
import { Side } from '../support/channels.js';
import { rejected } from '../support/errors.js';
import { checkLeaks } from '../support/leaks.js';
import { MemoryNetwork } from '../support/memory-network.js';
import { Recorder } from '../support/recorder.js';
import { listen } from '../support/sockets.js';

const DENIED = `reset ${WIRE_CODES.DENIED}`;

let folder: string;
let store: TicketStore;
let network: MemoryNetwork;
let rights: TicketRights;
let reached: number;
let target: Awaited<ReturnType<typeof listen>>;

checkLeaks();

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'tunnel-ticket-'));
  store = new TicketStore(join(folder, 'tokens.json'));
  reached = 0;
  target = await listen((socket) => {
    reached += 1;
    socket.pipe(socket);
  });
  const identity = Identity.generate();
  rights = await TicketRights.open({
    store,
    node: identity.nodeId,
    onError: (error) => {
      throw error;
    },
  });
  network = new MemoryNetwork(
    { db: target.port, web: target.port },
    { udp: { dns: target.port }, identity, rights: [rights] },
  );
});

afterEach(async () => {
  rights.close();
  await network.close();
  await target.close();
  rmSync(folder, { recursive: true, force: true });
});

function create(token: string, ticket: Partial<NewTicket> = {}) {
  const node: NodeId = network.identity.nodeId;
  return store.create({ token, identity: 'default', node, services: ['db'], ...ticket });
}

/** What comes back on a stream that begins so. */
async function answer({ session }: PeerSession, preamble: Buffer): Promise<string> {
  const stream = await session.createBidirectionalStream();
  const seen = new Recorder();
  stream.receive(seen.sink(stream));
  stream.write(preamble, null);
  await seen.until(({ events, received }) => events.length > 0 || received > 0);
  return seen.received > 0 ? 'bytes' : (seen.events[0] as string);
}

const open = (service: string, channelId = 1) =>
  encodeOpen({ channelId, epoch: 0, service, limit: INITIAL_WINDOW_BYTES });

const resume = (service: string) =>
  encodeResume({
    channelId: 1,
    epoch: 1,
    opened: false,
    received: 0,
    consumed: 0,
    limit: INITIAL_WINDOW_BYTES,
    open: service === '' ? Buffer.alloc(0) : open(service),
  });

const flow = (service: string, again = false) =>
  encodeFlowOpen({ flow: 1, resume: again, idleMs: 1000, service });

/** An open channel to the echoing target. */
async function channelTo(peer: PeerSession, service: string) {
  const channels = new OpenedChannels();
  await channels.attach(peer);
  const channel = await channels.open(peer, (channelId) => open(service, channelId));
  const side = new Side(channel, true);
  channel.start(side);
  await side.until(({ events }) => events.includes('opened'));
  return { channels, channel, side };
}

describe('a peer with a ticket for one service', () => {
  it('is told of that one only', async () => {
    await create('for-db');
    const peer = await network.dial(network.client, 'for-db');
    expect(peer.remote.services).toEqual([{ name: 'db', protocol: 'tcp' }]);
    peer.session.close();
  });

  it.each([
    ['OPEN of another service', () => encodePreamble(StreamKind.OPEN, open('web'))],
    ['OPEN of a service that is not there', () => encodePreamble(StreamKind.OPEN, open('nothing'))],
    ['RESUME that begins another service', () => encodePreamble(StreamKind.RESUME, resume('web'))],
    ['RESUME that begins what is not there', () => encodePreamble(StreamKind.RESUME, resume('nothing'))],
  ])('is denied with the same word by an %s', async (_what, preamble) => {
    await create('for-db');
    const peer = await network.dial(network.client, 'for-db');
    expect(await answer(peer, preamble())).toBe(DENIED);
    expect(reached).toBe(0);
    expect(network.events).toContainEqual(expect.objectContaining({ event: 'error', code: 'DENIED' }));
    peer.session.close();
  });

  it.each([
    ['of another service', flow('dns')],
    ['of a service that is not there', flow('nothing')],
    ['that goes on with another service', flow('dns', true)],
  ])('is denied by a flow.open %s', async (_what, payload) => {
    await create('for-db');
    const peer = await network.dial(network.client, 'for-db');
    expect((await rejected(peer.rpc.call(FLOW_OPEN, payload))).code).toBe('DENIED');
    peer.session.close();
  });

  it('reaches what the ticket is for by all of them', async () => {
    await create('for-db');
    await create('for-dns', { services: ['dns/udp'] });
    const peer = await network.dial(network.client, 'for-db');
    expect(await answer(peer, encodePreamble(StreamKind.OPEN, open('db')))).toBe('bytes');
    const other = await network.dial(Identity.generate(), 'for-dns');
    await other.rpc.call(FLOW_OPEN, flow('dns'));
    const third = await network.dial(Identity.generate(), 'for-db');
    expect(await answer(third, encodePreamble(StreamKind.RESUME, resume('db')))).toBe('bytes');
    for (const { session } of [peer, other, third]) session.close();
  });

  it('cannot go on over a session of that ticket with a channel of another one', async () => {
    await create('for-db');
    await create('for-web', { services: ['web'] });
    const peer = await network.dial(network.client, 'for-web');
    const { channel, side } = await channelTo(peer, 'web');
    const less = await network.dial(network.client, 'for-db');
    const request = { ...channel.resumePoint, channelId: channel.channelId, epoch: 1, open: Buffer.alloc(0) };
    expect(await answer(less, encodePreamble(StreamKind.RESUME, encodeResume(request)))).toBe(DENIED);
    await side.over();
    for (const { session } of [peer, less]) session.close();
  });

  it('loses its channel and its session when the ticket is revoked, and comes back by nothing', async () => {
    const { id } = await create('for-db');
    const peer = await network.dial(network.client, 'for-db');
    const { side } = await channelTo(peer, 'db');
    await store.revoke((record) => record.id === id);
    await side.over();
    const { closeCode } = await peer.session.closed;
    expect(closeCode).toBe(WIRE_CODES.DENIED);
    expect((await rejected(network.dial(network.client, 'for-db'))).code).toBe('DENIED');
  });
});

describe('a ticket for one use', () => {
  it('is not used up by who cannot prove the identity it claims', async () => {
    await create('once', { once: true });
    expect((await rejected(network.impostor(network.client.nodeId, 'once'))).code).toBe('DENIED');
    const peer = await network.dial(network.client, 'once');
    expect(peer.remote.services).toHaveLength(1);
    peer.session.close();
  });

  it('lets its user come back after the session was lost, with the channel; nobody else', async () => {
    await create('once', { once: true });
    const peer = await network.dial(network.client, 'once');
    const { channels, side } = await channelTo(peer, 'db');
    network.cut();
    await peer.session.closed;
    expect((await rejected(network.dial(Identity.generate(), 'once'))).code).toBe('DENIED');
    const again = await network.dial(network.client, 'once');
    expect(await channels.attach(again)).toEqual({ resumed: 1, lost: 0 });
    await side.write(Buffer.from('still'), 5);
    await side.until(({ received }) => received === 5);
    channels.abortAll(new TunnelError('RESET', 'done'));
    again.session.close();
  });
});
