/** A peer that speaks the protocol byte by byte, and says what no honest one would. */

import { wireCodeName } from '../../src/error.js';
import { bindIroh } from '../../src/session/engines/iroh.js';
import { decodeError, encodeFrame, FrameReader, FrameType } from '../../src/session/frame.js';
import { encodeHello, type Hello } from '../../src/session/hello.js';
import { Identity } from '../../src/session/identity.js';
import type { NodeId } from '../../src/session/node-id.js';
import { encodePreamble, StreamKind } from '../../src/session/preamble.js';
import { methodId } from '../../src/session/rpc-session.js';
import type { BidirectionalStream, Endpoint, Session } from '../../src/session/session.js';
import { encodeOpen } from '../../src/tunnel/open.js';

const NOTHING = Buffer.alloc(0);

export interface Victim {
  readonly nodeId: NodeId;
  /** `ip:port`. */
  readonly direct: readonly string[];
}

export class Attacker {
  readonly identity: Identity;
  readonly #endpoint: Endpoint;

  private constructor(identity: Identity, endpoint: Endpoint) {
    this.identity = identity;
    this.#endpoint = endpoint;
  }

  /** Under an endpoint key of its own, as a forward's. */
  static async bind(identity = Identity.generate()): Promise<Attacker> {
    const endpoint = await bindIroh({
      identity: Identity.generate(),
      bind: ['127.0.0.1:0'],
      relay: 'none',
      addressLookup: false,
    });
    return new Attacker(identity, endpoint);
  }

  async dial({ nodeId, direct }: Victim): Promise<RawSession> {
    return new RawSession(await this.#endpoint.connect(nodeId, { direct, relays: [] }), this.identity);
  }

  /** A session that has been let in by `token`. */
  async enter(victim: Victim, token?: string, hello: Partial<Hello> = {}): Promise<RawSession> {
    const raw = await this.dial(victim);
    const control = await raw.control();
    control.frame(0, FrameType.HELLO, raw.hello({ ...(token ? { tokens: [token] } : {}), ...hello }));
    await control.next((frame) => frame.type === FrameType.HELLO);
    return raw;
  }

  close(): Promise<void> {
    return this.#endpoint.close();
  }
}

export class RawSession {
  readonly session: Session;
  readonly identity: Identity;
  #control: RawStream | undefined;
  #lastCall = -1;

  constructor(session: Session, identity: Identity) {
    this.session = session;
    this.identity = identity;
  }

  /** The stream of control frames, with its preamble sent. */
  async control(): Promise<RawStream> {
    this.#control ??= await this.stream(encodePreamble(StreamKind.CONTROL, NOTHING));
    return this.#control;
  }

  async stream(first: Uint8Array = NOTHING): Promise<RawStream> {
    const stream = new RawStream(await this.session.createBidirectionalStream());
    stream.write(first);
    return stream;
  }

  /** The body of an honest HELLO, but for what is given. */
  hello(lies: Partial<Hello> = {}): Buffer {
    return encodeHello({
      major: 1,
      minor: 0,
      instanceId: 'ab'.repeat(16),
      identity: this.identity.nodeId,
      proof: this.proof(),
      supported: [],
      required: [],
      ...lies,
    });
  }

  /** A signature by `signer` over this session, for `claimed`. */
  proof(signer = this.identity, claimed = this.identity.nodeId): string {
    const material = this.session.exportKeyingMaterial('EXPORTER-tunnel/1-identity', 32);
    const message = Buffer.concat([Buffer.from(`tunnel/1 dialler ${claimed} `), material]);
    return signer.sign(message).toString('base64url');
  }

  /** Opens a channel; the answer comes as a frame of the stream. */
  open(channelId: number, service: string, limit = 256 * 1024): Promise<RawStream> {
    return this.stream(encodePreamble(StreamKind.OPEN, encodeOpen({ channelId, epoch: 0, service, limit })));
  }

  /** Calls a method and answers the id of the call. */
  async call(method: string, payload: Uint8Array = NOTHING, type: number = FrameType.CALL): Promise<number> {
    const control = await this.control();
    this.#lastCall += 2;
    const head = Buffer.alloc(8);
    head.writeUInt32BE(methodId(method), 0);
    control.frame(this.#lastCall, type, Buffer.concat([head, payload]));
    return this.#lastCall;
  }

  /** `OK`, or the code of the error that answered the call. */
  async answer(id: number): Promise<string> {
    const frame = await (await this.control()).next((one) => one.channelId === id);
    return frame.type === FrameType.ERROR ? codeOf(frame) : 'OK';
  }

  /** The code with which the other side closed the session, or how it ended otherwise. */
  async ending(): Promise<string> {
    const { by, closeCode } = await this.session.closed;
    return by === 'peer' ? wireCodeName(closeCode) : by;
  }
}

export interface RawFrame {
  readonly channelId: number;
  readonly type: number;
  readonly body: Buffer;
}

/** What an ERROR frame says. */
export function codeOf({ body }: RawFrame): string {
  return wireCodeName(decodeError(body).code);
}

export class RawStream {
  readonly frames: RawFrame[] = [];
  /** `reset DENIED`, `end`, `lost`, as soon as it is over. */
  over: string | undefined;
  readonly #stream: BidirectionalStream;
  readonly #waiting = new Set<() => void>();
  #reading = true;
  #unread = 0;

  constructor(stream: BidirectionalStream) {
    this.#stream = stream;
    const reader = new FrameReader({
      data: (channelId, piece) => this.frames.push({ channelId, type: FrameType.DATA, body: piece }),
      control: (channelId, type, body) => this.frames.push({ channelId, type, body }),
    });
    stream.receive({
      data: (chunk) => {
        if (this.#reading) stream.consumed(chunk.length);
        else this.#unread += chunk.length;
        reader.push(chunk);
        this.#wake();
      },
      end: () => this.#end('end'),
      reset: (code) => this.#end(`reset ${wireCodeName(code)}`),
      stopped: (code) => this.#end(`stopped ${wireCodeName(code)}`),
      drain: () => this.#wake(),
      lost: () => this.#end('lost'),
    });
  }

  /** Gives no credit from now on. */
  stopReading(): void {
    this.#reading = false;
  }

  /** False where it was over. */
  write(bytes: Uint8Array): boolean {
    try {
      if (bytes.length > 0) this.#stream.write(bytes, null);
      return true;
    } catch {
      return false;
    }
  }

  /** As `write`, waiting until it is taken. */
  async push(bytes: Uint8Array): Promise<boolean> {
    try {
      if (this.#stream.write(bytes, null)) return true;
    } catch {
      return false;
    }
    await this.#changed();
    return this.over === undefined;
  }

  frame(channelId: number, type: number, body: Uint8Array = NOTHING): boolean {
    return this.write(encodeFrame(channelId, type, body));
  }

  /** The first frame like that, as soon as it is there. Rejects when the stream is over before. */
  async next(matches: (frame: RawFrame) => boolean = () => true): Promise<RawFrame> {
    for (;;) {
      const found = this.frames.find(matches);
      if (found) return found;
      if (this.over) throw new Error(`the stream was over: ${this.over}`);
      await this.#changed();
    }
  }

  async ended(): Promise<string> {
    while (this.over === undefined) await this.#changed();
    return this.over;
  }

  reset(code = 0): void {
    this.#stream.reset(code);
    this.#stream.stop(code);
  }

  #changed(): Promise<void> {
    return new Promise((resolve) => this.#waiting.add(resolve));
  }

  #end(how: string): void {
    this.over ??= how;
    this.#wake();
  }

  #wake(): void {
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const resolve of waiting) resolve();
  }
}
