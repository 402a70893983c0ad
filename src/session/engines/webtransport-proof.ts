/**
 * Proves both node IDs on a WebTransport stream, before anything else is sent on it. TLS has authenticated
 * only a certificate's hash; here each side signs that hash, both fresh nonces and both IDs.
 *
 *   dialler   → LABEL (12) | nonce (32) | node ID (32)
 *   acceptor  → LABEL (12) | nonce (32) | node ID (32) | signature (64)
 *   dialler   → signature (64)
 *   acceptor  → 1, or 0 where it refuses
 *
 * A signature is over `tunnel/1 webtransport <role>` | 0 | certificate hash | dialler's nonce | acceptor's
 * nonce | dialler's ID | acceptor's ID. What follows on the stream belongs to the session.
 */
import { hkdfSync, randomBytes } from 'node:crypto';
import { TunnelError } from '../../error.js';
import { type Identity, verifySignature } from '../identity.js';
import type { NodeId } from '../node-id.js';
import type { BidirectionalStream } from '../session.js';

const LABEL = Buffer.from('tunnel-wt/1\n');
const NONCE_BYTES = 32;
const ID_BYTES = 32;
const SIGNATURE_BYTES = 64;
const HELLO_BYTES = LABEL.length + NONCE_BYTES + ID_BYTES;
const ACCEPTED = 1;
const REFUSED = 0;
/** What may wait unread, bytes. A dialler sends no session frame before the verdict; an acceptor right behind it. */
const MAX_WAITING_BYTES = { acceptor: 1024, dialler: 1024 * 1024 } as const;

export interface ProofOptions {
  readonly role: 'dialler' | 'acceptor';
  readonly identity: Identity;
  /** Who has to be at the other end. Dialler only. */
  readonly expected?: NodeId;
  /** SHA-256 of the acceptor's certificate, hex: the one it serves, or the one that was pinned. */
  readonly certificateHash: string;
}

export interface Proof {
  readonly remoteId: NodeId;
  /** Takes what has arrived behind the proof. In the turn in which the stream gets its next receiver. */
  readonly rest: () => Buffer;
  /** Bytes that only the two ends of this session know (HKDF-SHA256, RFC 5869, over what TLS has hidden). */
  readonly exportKeyingMaterial: (label: string, length: number) => Buffer;
}

/**
 * Throws UNREACHABLE where another node is there or the stream ends, DENIED for a signature that is not
 * the node's or a refusal, VERSION for another protocol. Has no timeout: whoever owns the stream ends it.
 */
export async function proveIdentities(stream: BidirectionalStream, options: ProofOptions): Promise<Proof> {
  const bytes = new ByteReader(stream, MAX_WAITING_BYTES[options.role]);
  const ownNonce = randomBytes(NONCE_BYTES);
  const ownHello = Buffer.concat([LABEL, ownNonce, Buffer.from(options.identity.nodeId, 'hex')]);
  const dials = options.role === 'dialler';
  if (dials) stream.write(ownHello, null);
  const { nonce, nodeId } = parseHello(await bytes.take(HELLO_BYTES));
  const certificateHash = Buffer.from(options.certificateHash, 'hex');
  const nonces = dials ? [ownNonce, nonce] : [nonce, ownNonce];
  const ids = dials ? [options.identity.nodeId, nodeId] : [nodeId, options.identity.nodeId];
  const message = (role: string) =>
    Buffer.concat([
      Buffer.from(`tunnel/1 webtransport ${role}\0`),
      certificateHash,
      ...nonces,
      ...ids.map((id) => Buffer.from(id, 'hex')),
    ]);
  const sign = () => options.identity.sign(message(options.role));
  const check = async (role: string) => {
    const signature = await bytes.take(SIGNATURE_BYTES);
    if (verifySignature(nodeId, message(role), signature)) return;
    if (!dials) stream.write(Buffer.of(REFUSED), null);
    throw new TunnelError('DENIED', 'the peer did not prove its node ID');
  };
  if (dials) {
    if (nodeId !== options.expected) {
      throw new TunnelError('UNREACHABLE', `another node answered: ${nodeId}`);
    }
    await check('acceptor');
    stream.write(sign(), null);
    const [verdict] = await bytes.take(1);
    if (verdict !== ACCEPTED) throw new TunnelError('DENIED', 'the peer refused the session');
  } else {
    stream.write(ownHello, sign());
    await check('dialler');
    stream.write(Buffer.of(ACCEPTED), null);
  }
  const secret = Buffer.concat([...nonces, certificateHash]);
  return {
    remoteId: nodeId,
    rest: () => bytes.rest(),
    exportKeyingMaterial: (label, length) =>
      Buffer.from(hkdfSync('sha256', secret, 'tunnel/1 webtransport exporter', label, length)),
  };
}

function parseHello(hello: Buffer): { nonce: Buffer; nodeId: NodeId } {
  if (!hello.subarray(0, LABEL.length).equals(LABEL)) {
    throw new TunnelError('VERSION', 'the other side speaks another protocol');
  }
  const nonce = hello.subarray(LABEL.length, LABEL.length + NONCE_BYTES);
  const nodeId = hello.subarray(LABEL.length + NONCE_BYTES).toString('hex') as NodeId;
  return { nonce, nodeId };
}

/** Takes exact numbers of bytes from the beginning of a stream. */
class ByteReader {
  readonly #stream: BidirectionalStream;
  #bytes: Buffer = Buffer.alloc(0);
  #ended: TunnelError | undefined;
  #changed: (() => void) | undefined;

  constructor(stream: BidirectionalStream, maxWaitingBytes: number) {
    this.#stream = stream;
    const end = (why: string) => {
      this.#ended ??= new TunnelError('UNREACHABLE', `the peer ${why} before it had proven its node ID`);
      this.#changed?.();
    };
    stream.receive({
      data: (chunk) => {
        this.#bytes = Buffer.concat([this.#bytes, chunk]);
        if (this.#bytes.length > maxWaitingBytes) end('sent too much');
        this.#changed?.();
      },
      end: () => end('ended the session'),
      reset: () => end('ended the session'),
      stopped: () => end('ended the session'),
      lost: () => end('was lost'),
      drain: () => undefined,
    });
  }

  async take(length: number): Promise<Buffer> {
    while (this.#bytes.length < length) {
      if (this.#ended) throw this.#ended;
      await new Promise<void>((resolve) => {
        this.#changed = resolve;
      });
    }
    const taken = this.#bytes.subarray(0, length);
    this.#bytes = this.#bytes.subarray(length);
    this.#stream.consumed(length);
    return taken;
  }

  /** What is left: its receiver is to give it back with `consumed`. */
  rest(): Buffer {
    const rest = this.#bytes;
    this.#bytes = Buffer.alloc(0);
    return rest;
  }
}
