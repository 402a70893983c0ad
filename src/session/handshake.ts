/**
 * From a bare session to one whose peer is known and admitted: the control stream is opened, HELLO
 * goes both ways, identities are proven, and the acceptor decides before it answers anything.
 */
import { randomBytes } from 'node:crypto';
import { TunnelError, wireCodeName } from '../error.js';
import { encodeFrame, FrameReader, FrameType, printable } from './frame.js';
import {
  decodeHello,
  encodeHello,
  type Hello,
  MINOR_VERSION,
  type ServiceInfo,
  SUPPORTED_FEATURES,
} from './hello.js';
import { type Identity, verifySignature } from './identity.js';
import type { NodeId } from './node-id.js';
import { encodePreamble, PREAMBLE_TIMEOUT_MS, readPreamble, StreamKind } from './preamble.js';
import type { BidirectionalStream, CloseInfo, Session } from './session.js';

/** Random per process. */
export const INSTANCE_ID = randomBytes(16).toString('hex');
const PROOF_LABEL = 'EXPORTER-tunnel/1-identity';
const HANDSHAKE_TIMEOUT_MS = 15_000;

/** A session after HELLO. */
export interface PeerSession {
  readonly session: Session;
  /** The identity behind the other end: what rights are given to. */
  readonly peer: NodeId;
  readonly remote: Hello;
  /** Odd on the dialling side, even on the accepting one, never used twice in a session. */
  nextChannelId(): number;
}

export interface DialHandshake {
  readonly identity: Identity;
  /** Whether the endpoint has a key of its own, so that the identity has to be proven by a signature. */
  readonly delegated: boolean;
  readonly tokens: readonly string[];
  readonly signal?: AbortSignal;
}

export interface AcceptHandshake<Grant> {
  readonly identity: Identity;
  /** Decides who is let in. Undefined denies. */
  admit(peer: NodeId, tokens: readonly string[]): Grant | undefined;
  /** What `grant` may reach, told to the peer. */
  services(grant: Grant): readonly ServiceInfo[];
}

/** Throws DENIED, VERSION, PROTOCOL, TIMEOUT or SESSION_LOST; the session is closed then. */
export async function dialHandshake(session: Session, options: DialHandshake): Promise<PeerSession> {
  const stream = await session.createBidirectionalStream();
  const hello: Hello = {
    ...baseHello(options.identity),
    ...(options.delegated ? { proof: prove(session, 'dialler', options.identity) } : {}),
    tokens: options.tokens,
  };
  stream.write(
    encodePreamble(StreamKind.CONTROL, EMPTY),
    encodeFrame(0, FrameType.HELLO, encodeHello(hello)),
  );
  const remote = await receiveHello(session, stream, EMPTY, options.signal);
  // The endpoint was dialled by this very key, so nothing else can stand behind it.
  return peerSession(session, session.remoteId, remote, 1);
}

/** As `dialHandshake`, for the accepting side. Answers with what `admit` granted. */
export async function acceptHandshake<Grant>(
  session: Session,
  options: AcceptHandshake<Grant>,
): Promise<{ peer: PeerSession; grant: Grant }> {
  const { stream, rest } = await acceptControlStream(session);
  const remote = await receiveHello(session, stream, rest);
  const peer = identityOf(session, remote);
  const grant = options.admit(peer, remote.tokens ?? []);
  if (grant === undefined) {
    throw refuse(session, new TunnelError('DENIED', 'the peer is not allowed to connect'));
  }
  const hello: Hello = { ...baseHello(options.identity), services: options.services(grant) };
  stream.write(null, encodeFrame(0, FrameType.HELLO, encodeHello(hello)));
  return { peer: peerSession(session, peer, remote, 2), grant };
}

/** What a session's end means to who was waiting on it. */
export function closeError(info: CloseInfo): TunnelError {
  if (info.by === 'peer' && info.closeCode !== 0) {
    const code = wireCodeName(info.closeCode);
    return new TunnelError(code, printable(info.reason) || `the peer closed the session (${code})`);
  }
  return new TunnelError('SESSION_LOST', `the session ended: ${printable(info.reason) || info.by}`);
}

const EMPTY = Buffer.alloc(0);

function baseHello(identity: Identity): Hello {
  return {
    minor: MINOR_VERSION,
    instanceId: INSTANCE_ID,
    identity: identity.nodeId,
    supported: SUPPORTED_FEATURES,
    required: [],
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

async function acceptControlStream(session: Session): Promise<{ stream: BidirectionalStream; rest: Buffer }> {
  const incoming = session.incomingBidirectionalStreams[Symbol.asyncIterator]();
  const first = await withTimeout(session, incoming.next(), PREAMBLE_TIMEOUT_MS);
  if (first.done) throw closeError(await session.closed);
  const stream = first.value;
  const rest = await new Promise<Buffer>((resolve, reject) => {
    readPreamble(
      stream,
      (preamble) => {
        if (preamble.kind === StreamKind.CONTROL) resolve(preamble.rest);
        else
          reject(
            refuse(
              session,
              new TunnelError('PROTOCOL', 'the first stream of the session is not the control stream'),
            ),
          );
      },
      reject,
    );
  });
  return { stream, rest };
}

/** Reads HELLO, then stays on the stream: its end is the end of the session. */
function receiveHello(
  session: Session,
  stream: BidirectionalStream,
  rest: Buffer,
  signal?: AbortSignal,
): Promise<Hello> {
  const hello = new Promise<Hello>((resolve, reject) => {
    const fail = (error: TunnelError) => reject(refuse(session, error));
    const reader = new FrameReader({
      data: () => fail(new TunnelError('PROTOCOL', 'DATA on the control stream')),
      control: (_channelId, type, payload) => {
        if (type !== FrameType.HELLO) return;
        try {
          resolve(checkVersion(decodeHello(payload)));
        } catch (error) {
          fail(error as TunnelError);
        }
      },
    });
    const push = (chunk: Buffer) => {
      try {
        reader.push(chunk);
      } catch (error) {
        fail(error as TunnelError);
      }
    };
    const ended = () => fail(new TunnelError('PROTOCOL', 'the peer ended the control stream'));
    stream.receive({
      data: (chunk) => {
        stream.consumed(chunk.length);
        push(chunk);
      },
      end: ended,
      reset: ended,
      stopped: ended,
      drain: () => undefined,
      lost: () => void session.closed.then((info) => reject(closeError(info))),
    });
    if (rest.length > 0) {
      stream.consumed(rest.length);
      push(rest);
    }
  });
  return withTimeout(session, hello, HANDSHAKE_TIMEOUT_MS, signal);
}

function checkVersion(remote: Hello): Hello {
  const missing = remote.required.filter((feature) => !SUPPORTED_FEATURES.includes(feature));
  if (missing.length === 0) return remote;
  throw new TunnelError(
    'VERSION',
    `protocol tunnel/1.${remote.minor} of the peer requires ${missing.join(', ')}, which tunnel/1.${MINOR_VERSION} here does not have`,
    { hint: 'install the same version of tunnel on both machines' },
  );
}

/** Closes the session with the error's number, which reaches the peer, and hands the error back to be thrown. */
function refuse(session: Session, error: TunnelError): TunnelError {
  session.close(error.wireCode, error.message);
  return error;
}

async function withTimeout<T>(
  session: Session,
  work: Promise<T>,
  timeoutMs: number,
  signal?: AbortSignal,
): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  let onAbort: (() => void) | undefined;
  const limit = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => {
      reject(
        refuse(session, new TunnelError('TIMEOUT', `no HELLO from the peer within ${timeoutMs / 1000} s`)),
      );
    }, timeoutMs);
    timer.unref();
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
    clearTimeout(timer);
    if (onAbort) signal?.removeEventListener('abort', onAbort);
  }
}

function peerSession(session: Session, peer: NodeId, remote: Hello, firstChannelId: number): PeerSession {
  let next = firstChannelId;
  return {
    session,
    peer,
    remote,
    nextChannelId: () => {
      const id = next;
      next += 2;
      return id;
    },
  };
}
