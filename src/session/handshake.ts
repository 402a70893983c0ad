/**
 * From a bare session to one whose peer is known and admitted: the control stream is opened, HELLO
 * goes both ways, identities are proven, and the acceptor decides before it answers anything.
 */
import { randomBytes } from 'node:crypto';
import { TunnelError, toTunnelError, WIRE_CODES, wireCodeName } from '../error.js';
import { decodeAddresses, encodeAddresses } from './addresses.js';
import { decodeError, encodeError, FrameType, printable } from './frame.js';
import {
  decodeHello,
  encodeHello,
  type Hello,
  MAJOR_VERSION,
  MINOR_VERSION,
  type ServiceInfo,
  SUPPORTED_FEATURES,
} from './hello.js';
import { type Identity, verifySignature } from './identity.js';
import { ownHosts } from './interfaces.js';
import type { NodeId } from './node-id.js';
import { encodePreamble, PREAMBLE_TIMEOUT_MS, readPreamble, StreamKind } from './preamble.js';
import { type Dispatcher, RpcSession } from './rpc-session.js';
import type { AddressHints, BidirectionalStream, CloseInfo, Session } from './session.js';

/** Random per process. */
export const INSTANCE_ID = randomBytes(16).toString('hex');
const PROOF_LABEL = 'EXPORTER-tunnel/1-identity';
const HANDSHAKE_TIMEOUT_MS = 15_000;
/** How often a dialler is told that a person is still being asked. */
const PENDING_INTERVAL_MS = 5000;

/** A session after HELLO. */
export interface PeerSession {
  readonly session: Session;
  /** The identity behind the other end: what rights are given to. */
  readonly peer: NodeId;
  readonly remote: Hello;
  /** Calls both ways, on the control stream. */
  readonly rpc: RpcSession;
  /** Resolves when the peer says that it is about to end: open nothing new on this session. */
  readonly goingAway: Promise<TunnelError>;
  /** Says so to the peer. */
  goAway(error: TunnelError): void;
  /** Tells the peer where this side can be reached now. */
  sendAddresses(hints: AddressHints): void;
  /** Called with what the peer says of itself with `sendAddresses`. */
  onAddresses(listener: (hints: AddressHints) => void): void;
}

export interface DialHandshake {
  readonly identity: Identity;
  readonly tokens: readonly string[];
  /** How long this side's channels wait for a session, milliseconds; told to the peer. */
  readonly resumeTimeoutMs?: number;
  /** What this side is going to ask for, where it knows. */
  readonly wants?: readonly ServiceInfo[];
  /** What the peer may call besides `ping`. */
  readonly dispatcher?: Dispatcher;
  /** The peer asks a person whether to let this side in. */
  readonly onPending?: (() => void) | undefined;
  readonly signal?: AbortSignal;
}

/** For a decision that takes longer than a handshake may. */
export interface Deliberation {
  /** Tells the dialler, again and again until it is over. The signal fires when the session has ended. */
  begin(): AbortSignal;
}

export interface AcceptHandshake<Grant> {
  readonly identity: Identity;
  /** Called with a HELLO before anything in it is proven. Throws to refuse it at little cost. */
  screen?(remote: Hello): void;
  /** Decides who is let in. Undefined denies; what it throws is told to the peer by its code. */
  admit(
    peer: NodeId,
    remote: Hello,
    deliberation: Deliberation,
  ): Grant | undefined | Promise<Grant | undefined>;
  /** What `grant` may reach, told to the peer. */
  services(grant: Grant): readonly ServiceInfo[];
  /** What the peer may call besides `ping`. */
  dispatcher(grant: Grant, peer: NodeId, remote: Hello): Dispatcher;
}

/** Throws DENIED, VERSION, PROTOCOL, TIMEOUT or SESSION_LOST; the session is closed then. */
export async function dialHandshake(session: Session, options: DialHandshake): Promise<PeerSession> {
  void refuseUnidirectional(session);
  const stream = await session.createBidirectionalStream();
  try {
    stream.write(encodePreamble(StreamKind.CONTROL, EMPTY), null);
  } catch {
    throw closeError(await session.closed);
  }
  const control = new Control(session, stream, 'dialler', EMPTY);
  const deadline = new Deadline(HANDSHAKE_TIMEOUT_MS);
  let told = false;
  control.onPending = () => {
    deadline.extend();
    if (!told) options.onPending?.();
    told = true;
  };
  control.send({
    ...baseHello(options.identity),
    // Needed where the endpoint has a key of its own, as a forward's has; idle otherwise.
    proof: prove(session, 'dialler', options.identity),
    tokens: options.tokens,
    ...(options.wants === undefined ? {} : { wants: options.wants }),
    ...(options.resumeTimeoutMs === undefined ? {} : { resumeTimeoutMs: options.resumeTimeoutMs }),
  });
  const remote = await withTimeout(session, control.hello, deadline, options.signal);
  // The endpoint was dialled by this very key, so nothing else can stand behind it.
  return control.admit(session.remoteId, remote, { ...BASE_METHODS, ...options.dispatcher });
}

/**
 * As `dialHandshake`, for the accepting side. Answers with what `admit` granted, and the streams that the
 * peer opens from then on.
 */
export async function acceptHandshake<Grant>(
  session: Session,
  options: AcceptHandshake<Grant>,
): Promise<{ peer: PeerSession; grant: Grant; streams: AsyncIterable<BidirectionalStream> }> {
  void refuseUnidirectional(session);
  const control = await acceptControlStream(session);
  const following = new FollowingStreams(session);
  const remote = await withTimeout(
    session,
    Promise.race([control.hello, following.early]),
    new Deadline(HANDSHAKE_TIMEOUT_MS),
  );
  screen(session, remote, options);
  const peer = identityOf(session, remote);
  const grant = await deliberate(session, control, (deliberation) =>
    options.admit(peer, remote, deliberation),
  );
  if (grant === undefined) {
    throw refuse(session, new TunnelError('DENIED', 'the peer is not allowed to connect'));
  }
  // Before the answer: the peer may call as soon as it has it.
  const admitted = control.admit(peer, remote, {
    ...BASE_METHODS,
    ...options.dispatcher(grant, peer, remote),
  });
  following.admit();
  control.send({ ...baseHello(options.identity), services: options.services(grant) });
  return { peer: admitted, grant, streams: following };
}

/** What a session's end means to who was waiting on it. */
export function closeError(info: CloseInfo): TunnelError {
  if (info.by === 'peer' && info.closeCode !== 0) {
    const code = wireCodeName(info.closeCode);
    return new TunnelError(code, printable(info.reason) || `the peer closed the session (${code})`);
  }
  return new TunnelError('SESSION_LOST', `the session ended: ${printable(info.reason) || info.by}`);
}

/**
 * Whether what rode on a session that ended so may go on over another one: it was lost, not ended on
 * purpose. A side that gives a silent session up says SESSION_LOST, in case the other one still hears it.
 */
export function sessionMayResume({ by, closeCode }: CloseInfo): boolean {
  return by === 'timeout' || by === 'lost' || closeCode === WIRE_CODES.SESSION_LOST;
}

/** Throws what `decide` throws, having closed the session with it; or why the session ended meanwhile. */
async function deliberate<T>(
  session: Session,
  control: Control,
  decide: (deliberation: Deliberation) => T | Promise<T>,
): Promise<T> {
  const ended = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  try {
    const decided = await decide({
      begin: () => {
        if (timer) return ended.signal;
        void session.closed.then(() => ended.abort());
        control.sendPending();
        timer = setInterval(() => control.sendPending(), PENDING_INTERVAL_MS);
        return ended.signal;
      },
    });
    if (ended.signal.aborted) throw closeError(await session.closed);
    return decided;
  } catch (error) {
    throw refuse(session, toTunnelError(error));
  } finally {
    clearInterval(timer);
  }
}

const EMPTY = Buffer.alloc(0);
const BASE_METHODS: Dispatcher = { ping: (payload) => payload };

/** The control stream: HELLO first, then the RPC session that lives as long as the session. */
class Control {
  readonly hello: Promise<Hello>;
  readonly #session: Session;
  readonly #rpc: RpcSession;
  readonly #goingAway: Promise<TunnelError>;
  #resolveHello!: (hello: Hello) => void;
  #rejectHello!: (error: TunnelError) => void;
  #resolveGoingAway!: (error: TunnelError) => void;
  readonly #role: 'dialler' | 'acceptor';
  #greeted = false;
  #onAddresses: ((hints: AddressHints) => void) | undefined;
  onPending: (() => void) | undefined;

  constructor(session: Session, stream: BidirectionalStream, role: 'dialler' | 'acceptor', rest: Buffer) {
    this.#session = session;
    this.#role = role;
    this.hello = new Promise((resolve, reject) => {
      this.#resolveHello = resolve;
      this.#rejectHello = reject;
    });
    this.hello.catch(() => undefined);
    this.#goingAway = new Promise((resolve) => {
      this.#resolveGoingAway = resolve;
    });
    this.#rpc = new RpcSession(stream, {
      role,
      rest,
      admitted: false,
      rttMs: () => session.path.rttMs,
      onSessionFrame: (type, payload) => this.#onFrame(type, payload),
    });
    // The end of the control stream is the end of the session, and the other way round.
    void this.#rpc.closed.then(async (error) => {
      if (error?.code === 'SESSION_LOST') this.#rejectHello(closeError(await session.closed));
      else this.#rejectHello(refuse(session, error ?? protocolError('the peer ended the control stream')));
    });
  }

  send(hello: Hello): void {
    this.#rpc.sendSessionFrame(FrameType.HELLO, encodeHello(hello));
  }

  sendPending(): void {
    this.#rpc.sendSessionFrame(FrameType.PENDING, EMPTY);
  }

  admit(peer: NodeId, remote: Hello, dispatcher: Dispatcher): PeerSession {
    this.#rpc.setDispatcher(dispatcher);
    this.#rpc.admit();
    return {
      session: this.#session,
      peer,
      remote,
      rpc: this.#rpc,
      goingAway: this.#goingAway,
      goAway: (error) =>
        this.#rpc.sendSessionFrame(FrameType.GOAWAY, encodeError(error.wireCode, error.message)),
      sendAddresses: (hints) => this.#rpc.sendSessionFrame(FrameType.ADDRESSES, encodeAddresses(hints)),
      onAddresses: (listener) => {
        this.#onAddresses = listener;
      },
    };
  }

  /** Throws PROTOCOL or VERSION, which ends the RPC session and so all of it. */
  #onFrame(type: number, payload: Buffer): void {
    if (type === FrameType.HELLO) {
      if (this.#greeted) throw protocolError('the peer sent a second HELLO');
      this.#greeted = true;
      this.#resolveHello(checkVersion(decodeHello(payload)));
    } else if (!this.#greeted && this.#role === 'acceptor') {
      // Who has not said who it is has nothing else to say.
      throw protocolError('the peer did not begin with HELLO');
    } else if (type === FrameType.GOAWAY) {
      const { code, message } = decodeError(payload);
      this.#resolveGoingAway(new TunnelError(wireCodeName(code), message || 'the peer is about to end'));
    } else if (type === FrameType.ADDRESSES) {
      this.#onAddresses?.(decodeAddresses(payload));
    } else if (type === FrameType.PENDING) {
      this.onPending?.();
    }
    // Others are a newer minor version's.
  }
}

function protocolError(what: string): TunnelError {
  return new TunnelError('PROTOCOL', what);
}

function baseHello(identity: Identity): Hello {
  return {
    major: MAJOR_VERSION,
    minor: MINOR_VERSION,
    instanceId: INSTANCE_ID,
    identity: identity.nodeId,
    supported: SUPPORTED_FEATURES,
    required: [],
    hosts: ownHosts(),
  };
}

/** A signature good for this session and this direction only: no clock, nothing to replay. */
function prove(session: Session, role: 'dialler' | 'acceptor', identity: Identity): string {
  return identity.sign(proofMessage(session, role, identity.nodeId)).toString('base64url');
}

function proofMessage(session: Session, role: 'dialler' | 'acceptor', identity: NodeId): Buffer {
  return Buffer.concat([
    Buffer.from(`tunnel/1 ${role} ${identity} `, 'utf8'),
    session.exportKeyingMaterial(PROOF_LABEL, 32),
  ]);
}

function identityOf(session: Session, remote: Hello): NodeId {
  if (remote.identity === session.remoteId) return remote.identity;
  const proof = Buffer.from(remote.proof ?? '', 'base64url');
  if (!verifySignature(remote.identity, proofMessage(session, 'dialler', remote.identity), proof)) {
    throw refuse(session, new TunnelError('DENIED', 'the peer did not prove the identity it claims'));
  }
  return remote.identity;
}

async function acceptControlStream(session: Session): Promise<Control> {
  const incoming = session.incomingBidirectionalStreams[Symbol.asyncIterator]();
  const first = await withTimeout(session, incoming.next(), new Deadline(PREAMBLE_TIMEOUT_MS));
  if (first.done) throw closeError(await session.closed);
  const stream = first.value;
  return new Promise<Control>((resolve, reject) => {
    readPreamble(
      stream,
      ({ kind, rest }) => {
        // At once: what arrives next already belongs to it.
        if (kind === StreamKind.CONTROL) resolve(new Control(session, stream, 'acceptor', rest));
        else
          reject(refuse(session, protocolError('the first stream of the session is not the control stream')));
      },
      reject,
    );
  });
}

/** The protocol has none, and what nobody takes would pile up. */
async function refuseUnidirectional(session: Session): Promise<void> {
  for await (const stream of session.incomingUnidirectionalStreams) stream.stop(WIRE_CODES.PROTOCOL);
}

function screen<Grant>(session: Session, remote: Hello, options: AcceptHandshake<Grant>): void {
  try {
    options.screen?.(remote);
  } catch (error) {
    throw refuse(session, toTunnelError(error));
  }
}

/**
 * What the peer opens beside the control stream. Before it is admitted it may open nothing: streams
 * that nobody takes would be memory that a stranger has.
 */
class FollowingStreams implements AsyncIterable<BidirectionalStream> {
  /** Rejects when the peer opens a stream too early; never resolves. */
  readonly early: Promise<never>;
  readonly #incoming: AsyncIterator<BidirectionalStream>;
  readonly #first: Promise<IteratorResult<BidirectionalStream>>;
  #admitted = false;

  constructor(session: Session) {
    this.#incoming = session.incomingBidirectionalStreams[Symbol.asyncIterator]();
    this.#first = this.#incoming.next();
    this.early = new Promise((_resolve, reject) => {
      void this.#first.then(({ done }) => {
        if (done || this.#admitted) return;
        reject(refuse(session, protocolError('the peer opened a stream before it was admitted')));
      });
    });
    this.early.catch(() => undefined);
  }

  admit(): void {
    this.#admitted = true;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<BidirectionalStream, void> {
    for (let next = await this.#first; !next.done; next = await this.#incoming.next()) yield next.value;
  }
}

function checkVersion(remote: Hello): Hello {
  const mine = `tunnel/${MAJOR_VERSION}.${MINOR_VERSION}`;
  const theirs = `tunnel/${remote.major}.${remote.minor}`;
  const hint = 'install the same version of tunnel on both machines';
  if (remote.major !== MAJOR_VERSION) {
    throw new TunnelError('VERSION', `the peer speaks ${theirs}, this program ${mine}`, { hint });
  }
  const missing = remote.required.filter((feature) => !SUPPORTED_FEATURES.includes(feature));
  if (missing.length === 0) return remote;
  throw new TunnelError(
    'VERSION',
    `the peer speaks ${theirs} and requires ${missing.join(', ')}, which ${mine} here does not have`,
    { hint },
  );
}

/** Closes the session with the error's number, which reaches the peer, and hands the error back to be thrown. */
function refuse(session: Session, error: TunnelError): TunnelError {
  session.close(error.wireCode, error.message);
  return error;
}

/** A time limit that can be set anew. */
class Deadline {
  readonly timeoutMs: number;
  #timer: NodeJS.Timeout | undefined;

  constructor(timeoutMs: number) {
    this.timeoutMs = timeoutMs;
  }

  start(onLate: () => void): void {
    this.#timer = setTimeout(onLate, this.timeoutMs);
    this.#timer.unref();
  }

  extend(): void {
    this.#timer?.refresh();
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}

async function withTimeout<T>(
  session: Session,
  work: Promise<T>,
  deadline: Deadline,
  signal?: AbortSignal,
): Promise<T> {
  let onAbort: (() => void) | undefined;
  const limit = new Promise<never>((_resolve, reject) => {
    deadline.start(() => {
      const seconds = deadline.timeoutMs / 1000;
      reject(refuse(session, new TunnelError('TIMEOUT', `no HELLO from the peer within ${seconds} s`)));
    });
    onAbort = () => {
      session.close(0, '');
      reject(new TunnelError('ABORTED', 'the handshake was cancelled'));
    };
    if (signal?.aborted) onAbort();
    else signal?.addEventListener('abort', onAbort, { once: true });
  });
  try {
    return await Promise.race([work, limit]);
  } finally {
    deadline.stop();
    if (onAbort) signal?.removeEventListener('abort', onAbort);
  }
}
