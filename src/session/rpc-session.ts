/**
 * RpcSession: calls, streaming calls and tunnels, multiplexed over one bidirectional stream.
 *
 * One demux loop is the only reader. It never waits: every tunnel and streaming call is a channel
 * with credit of its own, so one that nobody reads fills its own window and delays nothing else.
 * After rapace's RpcSession, whose loop waits for the slowest tunnel.
 */
import { TunnelError, type TunnelErrorCode, wireCodeName } from '../error.js';
import { asViolation, type Carrier, type CarrierHandler } from './carrier.js';
import { Channel, INITIAL_WINDOW_BYTES } from './channel.js';
import {
  decodeError,
  encodeError,
  encodeFrame,
  FrameReader,
  FrameType,
  HEADER_BYTES,
  MAX_DATA_BYTES,
  writeHeader,
} from './frame.js';
import { AsyncQueue } from './queue.js';
import { ItemReader, itemWriter } from './rpc-items.js';
import type { BidirectionalStream } from './session.js';
import { LINK_WINDOW_BYTES, WindowBudget } from './window-budget.js';

/** `methodId u32 | deadlineMs u32` before a call's payload. */
const CALL_HEADER_BYTES = 8;
/** Largest payload of a call, of an answer, and of one item of a stream. */
export const MAX_RPC_PAYLOAD_BYTES = MAX_DATA_BYTES - CALL_HEADER_BYTES;
const MAX_DEADLINE_MS = 0xffff_ffff;

export interface RpcLimits {
  /** Calls of the peer being served at once; more are answered RESOURCE_EXHAUSTED. */
  readonly maxIncomingCalls: number;
  /** Streaming calls of the peer among them. */
  readonly maxIncomingStreams: number;
  /** Bytes of answers the peer has not read; beyond that it is not reading, and the session ends with LIMIT. */
  readonly maxUnreadAnswerBytes: number;
  /** Tunnels and streaming calls open at once, both sides together. */
  readonly maxTunnels: number;
}

const DEFAULT_LIMITS: RpcLimits = {
  maxIncomingCalls: 1024,
  maxIncomingStreams: 256,
  maxUnreadAnswerBytes: 16 * 1024 * 1024,
  maxTunnels: 16_384,
};

export interface RpcSessionOptions {
  /** Decides who uses odd channel ids (the dialler) and who even ones. */
  readonly role: 'dialler' | 'acceptor';
  readonly limits?: Partial<RpcLimits>;
  /** Round trip of the session now, milliseconds. */
  readonly rttMs?: () => number;
  /** What arrived on the stream before it became this session's. */
  readonly rest?: Buffer;
  /** Frames of channel 0 are about the session itself. Without a handler they are a violation. */
  readonly onSessionFrame?: (type: number, payload: Buffer) => void;
  /**
   * Whether the peer may use calls and tunnels from the start. Otherwise `admit` opens them, and
   * anything but session frames before that is a violation.
   */
  readonly admitted?: boolean;
}

export interface CallContext {
  /** Fires when the caller gave up, the deadline passed, or the session ended. */
  readonly signal: AbortSignal;
}

/** Answers one payload, or yields many for a streaming call. */
export type RpcHandler = (
  payload: Uint8Array,
  context: CallContext,
) => Promise<Uint8Array> | Uint8Array | AsyncIterable<Uint8Array>;

export type Dispatcher = Readonly<Record<string, RpcHandler>>;

export interface CallOptions {
  readonly signal?: AbortSignal;
  /** Milliseconds from now. The other side is told, and gives up as well. */
  readonly deadlineMs?: number;
}

export interface IncomingTunnel {
  /** What the opener said the tunnel is for. */
  readonly body: Buffer;
  /** For a channel that began elsewhere and goes on over this tunnel. Excludes `channel`. */
  readonly carrier: Carrier;
  /** The tunnel's own channel. It has to be started and then accepted or rejected. */
  readonly channel: Channel;
}

interface PendingCall {
  resolve(payload: Uint8Array): void;
  reject(error: TunnelError): void;
}

/** FNV-1a, 32 bit, of a method's UTF-8 name: what stands for it on the wire. */
export function methodId(name: string): number {
  let hash = 0x811c9dc5;
  for (const byte of Buffer.from(name, 'utf8')) {
    hash ^= byte;
    hash = Math.imul(hash, 0x01000193);
  }
  return hash >>> 0;
}

export class RpcSession {
  /** Resolves, never rejects, with why it ended: undefined after a plain close on either side. */
  readonly closed: Promise<TunnelError | undefined>;
  /** Tunnels the peer opens. */
  readonly incomingTunnels: AsyncIterable<IncomingTunnel>;
  readonly #stream: BidirectionalStream;
  readonly #options: RpcSessionOptions;
  readonly #limits: RpcLimits;
  readonly #reader: FrameReader;
  readonly #budget = new WindowBudget(LINK_WINDOW_BYTES);
  readonly #pending = new Map<number, PendingCall>();
  readonly #serving = new Map<number, AbortController>();
  readonly #tunnels = new Map<number, TunnelCarrier>();
  readonly #incomingTunnels = new AsyncQueue<IncomingTunnel>();
  readonly #methods = new Map<number, { name: string; handler: RpcHandler }>();
  /** Tunnels whose last write found the stream full, in the order in which they may go on. */
  readonly #blocked = new Set<TunnelCarrier>();
  /** Tunnels that got data in the delivery under way. */
  readonly #touched = new Set<TunnelCarrier>();
  readonly #resolveClosed: (error: TunnelError | undefined) => void;
  #early: Buffer[] | undefined = [];
  #streamFull = false;
  /** Bytes of answers given to the stream since it was full. */
  #unreadAnswerBytes = 0;
  /** Streaming calls of the peer being served. */
  #streaming = 0;
  #admitted: boolean;
  #nextId: number;
  /** The highest id the peer has used; each may be used once. */
  #lastPeerId = 0;
  #ended: { error: TunnelError | undefined } | undefined;

  /** Starts reading at once. */
  constructor(stream: BidirectionalStream, options: RpcSessionOptions) {
    this.#stream = stream;
    this.#options = options;
    this.#limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.#admitted = options.admitted ?? true;
    this.#nextId = options.role === 'dialler' ? 1 : 2;
    this.incomingTunnels = this.#incomingTunnels;
    let resolve!: (error: TunnelError | undefined) => void;
    this.closed = new Promise((r) => {
      resolve = r;
    });
    this.#resolveClosed = resolve;
    this.#reader = new FrameReader({
      data: (id, piece, last) => this.#onData(id, piece, last),
      control: (id, type, payload) => this.#onFrame(id, type, payload),
    });
    this.#reader.allowsLarge = this.#admitted;
    const push = (chunk: Buffer) => {
      stream.consumed(chunk.length);
      this.#onChunk(chunk);
    };
    stream.receive({
      data: push,
      end: () => this.#end(undefined),
      reset: (code) => this.#end(resetError(code)),
      stopped: (code) => this.#end(resetError(code)),
      drain: () => this.#onDrain(),
      lost: () => this.#end(new TunnelError('SESSION_LOST', 'the session under the calls was lost')),
    });
    // What is there already waits for the end of this turn, so that a dispatcher set right after the
    // constructor is there for it.
    if (options.rest && options.rest.length > 0) push(options.rest);
    queueMicrotask(() => {
      const early = this.#early ?? [];
      this.#early = undefined;
      for (const chunk of early) this.#onChunk(chunk);
    });
  }

  get isClosed(): boolean {
    return this.#ended !== undefined;
  }

  /** Tunnels and streaming calls open now. */
  get openTunnels(): number {
    return this.#tunnels.size;
  }

  /** From now on the peer may call and open tunnels. */
  admit(): void {
    this.#admitted = true;
    this.#reader.allowsLarge = true;
  }

  /** Replaces what the peer may call. Throws for two names with the same number on the wire. */
  setDispatcher(dispatcher: Dispatcher): void {
    const methods = new Map<number, { name: string; handler: RpcHandler }>();
    for (const [name, handler] of Object.entries(dispatcher)) {
      const id = methodId(name);
      const other = methods.get(id);
      if (other)
        throw new TunnelError('INTERNAL', `the methods '${other.name}' and '${name}' have the same id`);
      methods.set(id, { name, handler });
    }
    this.#methods.clear();
    for (const [id, method] of methods) this.#methods.set(id, method);
  }

  /**
   * Calls a method of the peer. Rejects with the peer's error, DEADLINE_EXCEEDED, CANCELLED,
   * UNIMPLEMENTED, TOO_LARGE, or SESSION_LOST as soon as the session ends.
   */
  async call(method: string, payload: Uint8Array = EMPTY, options: CallOptions = {}): Promise<Uint8Array> {
    const { signal, deadlineMs } = options;
    this.#checkCall(method, payload, signal);
    const id = this.#takeId();
    return new Promise<Uint8Array>((resolve, reject) => {
      const settle = <T>(how: (value: T) => void) => {
        return (value: T) => {
          this.#pending.delete(id);
          clearTimeout(timer);
          signal?.removeEventListener('abort', onAbort);
          how(value);
        };
      };
      const giveUp = (code: TunnelErrorCode, message: string) => {
        if (!this.#pending.has(id)) return;
        this.#send(encodeFrame(id, FrameType.CANCEL, EMPTY));
        pending.reject(new TunnelError(code, message));
      };
      const onAbort = () => giveUp('CANCELLED', `the call '${method}' was cancelled`);
      const timer =
        deadlineMs === undefined
          ? undefined
          : setTimeout(
              () => giveUp('DEADLINE_EXCEEDED', `no answer to '${method}' within ${deadlineMs} ms`),
              deadlineMs,
            );
      const pending: PendingCall = { resolve: settle(resolve), reject: settle(reject) };
      // Registered before it is sent, so that no answer can come too early.
      this.#pending.set(id, pending);
      signal?.addEventListener('abort', onAbort, { once: true });
      this.#send(callFrame(id, FrameType.CALL, method, payload, deadlineMs));
    });
  }

  /**
   * Calls a streaming method. Leaving the loop cancels it; the other side yields no faster than the
   * loop takes. Throws as `call` does, also in mid-stream, after the items that came before.
   */
  async *streamingCall(
    method: string,
    payload: Uint8Array = EMPTY,
    options: CallOptions = {},
  ): AsyncGenerator<Uint8Array, void> {
    const { signal, deadlineMs } = options;
    this.#checkCall(method, payload, signal);
    const id = this.#takeId();
    const carrier = this.#addTunnel(id);
    const channel = new Channel(carrier, {
      channelId: id,
      role: 'opener',
      peerLimit: 0,
      budget: this.#budget,
      rttMs: this.#options.rttMs,
    });
    const items = new ItemReader(channel);
    channel.start(items.receiver);
    const cancel = (code: TunnelErrorCode, message: string) => () => {
      const error = new TunnelError(code, message);
      items.fail(error);
      channel.abort(error);
    };
    const onAbort = cancel('CANCELLED', `the call '${method}' was cancelled`);
    const timer =
      deadlineMs === undefined
        ? undefined
        : setTimeout(
            cancel('DEADLINE_EXCEEDED', `'${method}' did not end within ${deadlineMs} ms`),
            deadlineMs,
          );
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      this.#send(callFrame(id, FrameType.CALL_STREAM, method, payload, deadlineMs));
      channel.end();
      yield* items;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      channel.abort(new TunnelError('CANCELLED', `the call '${method}' was left`));
    }
  }

  /** Opens a tunnel on a fresh channel. `body` says what for, at most 4 KiB; bytes may follow at once. */
  openTunnel(body: Uint8Array, options: { readonly peerLimit?: number } = {}): Channel {
    const carrier = this.openCarrier(body);
    return new Channel(carrier, {
      channelId: carrier.frameId,
      role: 'opener',
      peerLimit: options.peerLimit ?? INITIAL_WINDOW_BYTES / 4,
      budget: this.#budget,
      rttMs: this.#options.rttMs,
    });
  }

  /** As `openTunnel`, for a channel that goes on over this tunnel instead of beginning there. */
  openCarrier(body: Uint8Array): Carrier {
    this.#checkOpen();
    const id = this.#takeId();
    const carrier = this.#addTunnel(id);
    this.#send(encodeFrame(id, FrameType.OPEN, body));
    return carrier;
  }

  /** A frame about the session itself. */
  sendSessionFrame(type: number, payload: Uint8Array): void {
    this.#send(encodeFrame(0, type, payload));
  }

  /** Ends everything on it: calls fail, tunnels reset. Idempotent. */
  close(error?: TunnelError): void {
    if (this.#ended) return;
    if (error) this.#stream.reset(error.wireCode);
    else this.#stream.finish();
    this.#stream.stop(error?.wireCode ?? 0);
    this.#end(error);
  }

  // ---- what tunnels use

  writeFrame(carrier: TunnelCarrier, head: Uint8Array, body: Uint8Array | null): boolean {
    if (this.#ended) throw new TunnelError('STREAM_CLOSED', 'the session under the tunnel has ended');
    const free = this.#write(head, body);
    if (!free) this.#blocked.add(carrier);
    return free;
  }

  /** False when it had been forgotten before. */
  forgetTunnel(id: number, carrier: TunnelCarrier): boolean {
    const known = this.#tunnels.delete(id);
    this.#blocked.delete(carrier);
    this.#touched.delete(carrier);
    return known;
  }

  resetTunnel(id: number, carrier: TunnelCarrier, code: number): void {
    if (this.forgetTunnel(id, carrier)) this.#send(encodeFrame(id, FrameType.ERROR, encodeError(code, '')));
  }

  // ---- sending

  #send(frame: Buffer): void {
    if (!this.#ended) this.#write(frame, null);
  }

  #write(head: Uint8Array, body: Uint8Array | null): boolean {
    try {
      if (!this.#stream.write(head, body)) this.#streamFull = true;
    } catch (cause) {
      // A stream that was stopped tells so before this comes. What is left is the end of the session, which
      // is on its way: its own reason counts, and nobody may take this for a fault of the peer's.
      const error = new TunnelError('SESSION_LOST', 'the session under the calls was lost', { cause });
      queueMicrotask(() => this.#end(error));
      return false;
    }
    return !this.#streamFull;
  }

  /** Each tunnel that waits gets its turn; one that fills the stream again goes to the end of the line. */
  #onDrain(): void {
    this.#streamFull = false;
    this.#unreadAnswerBytes = 0;
    for (const carrier of [...this.#blocked]) {
      if (this.#streamFull) return;
      this.#blocked.delete(carrier);
      carrier.handler?.drain();
    }
  }

  #takeId(): number {
    const id = this.#nextId;
    this.#nextId += 2;
    return id;
  }

  #addTunnel(id: number): TunnelCarrier {
    const carrier = new TunnelCarrier(id, this);
    this.#tunnels.set(id, carrier);
    return carrier;
  }

  #checkOpen(): void {
    if (this.#ended) throw this.#ended.error ?? new TunnelError('SESSION_LOST', 'the session has ended');
    if (this.#nextId > 0xffff_fffd)
      throw new TunnelError('LIMIT', 'every channel id of this session has been used');
    if (this.#tunnels.size >= this.#limits.maxTunnels) {
      throw new TunnelError('LIMIT', `${this.#limits.maxTunnels} tunnels are open already`);
    }
  }

  #checkCall(method: string, payload: Uint8Array, signal: AbortSignal | undefined): void {
    this.#checkOpen();
    if (payload.length > MAX_RPC_PAYLOAD_BYTES) {
      throw new TunnelError(
        'TOO_LARGE',
        `the payload of '${method}' has ${payload.length} bytes; at most ${MAX_RPC_PAYLOAD_BYTES} fit`,
      );
    }
    if (signal?.aborted) throw new TunnelError('CANCELLED', `the call '${method}' was cancelled`);
  }

  // ---- receiving: the demux loop

  #onChunk(chunk: Buffer): void {
    if (this.#early) {
      this.#early.push(chunk);
      return;
    }
    if (this.#ended) return;
    try {
      this.#reader.push(chunk);
    } catch (error) {
      this.close(asViolation(error));
      return;
    }
    for (const carrier of this.#touched) carrier.handler?.flush();
    this.#touched.clear();
  }

  #onData(id: number, piece: Buffer, last: boolean): void {
    if (this.#ended) return;
    const carrier = this.#tunnels.get(id);
    if (!carrier?.handler) {
      this.#checkGone(id);
      return;
    }
    this.#touched.add(carrier);
    carrier.handler.data(id, piece, last);
  }

  #onFrame(id: number, type: number, payload: Buffer): void {
    if (this.#ended) return;
    if (id === 0) {
      if (!this.#options.onSessionFrame) throw protocol(`a session frame of type ${type}`);
      this.#options.onSessionFrame(type, payload);
      return;
    }
    if (!this.#admitted) throw protocol(`a frame of type ${type} before it was admitted`);
    switch (type) {
      case FrameType.CALL:
        this.#onCall(id, payload);
        break;
      case FrameType.CALL_STREAM:
        this.#onStreamingCall(id, payload);
        break;
      case FrameType.OPEN:
        this.#onOpen(id, payload);
        break;
      case FrameType.CANCEL:
        this.#serving.get(id)?.abort();
        break;
      case FrameType.RESULT:
        this.#onAnswer(id, (pending) => pending.resolve(payload));
        break;
      default:
        this.#onTunnelFrame(id, type, payload);
    }
  }

  #onTunnelFrame(id: number, type: number, payload: Buffer): void {
    const carrier = this.#tunnels.get(id);
    if (carrier?.handler) {
      const { handler } = carrier;
      // The peer has done with it: nothing is to be answered on it any more.
      if (type === FrameType.ERROR) this.forgetTunnel(id, carrier);
      handler.control(id, type, payload);
      return;
    }
    if (type === FrameType.ERROR && this.#pending.has(id)) {
      const { code, message } = decodeError(payload);
      this.#onAnswer(id, (pending) => pending.reject(new TunnelError(wireCodeName(code), message)));
      return;
    }
    this.#checkGone(id);
  }

  #onAnswer(id: number, settle: (pending: PendingCall) => void): void {
    const pending = this.#pending.get(id);
    if (pending) settle(pending);
    else this.#checkGone(id);
  }

  /** Frames may still come for what this side has ended; for what never was they are a violation. */
  #checkGone(id: number): void {
    const own = this.#isOwn(id);
    if (own ? id < this.#nextId : id <= this.#lastPeerId) return;
    throw protocol(`a frame of channel ${id}, which was never opened`);
  }

  #isOwn(id: number): boolean {
    return (id % 2 === 1) === (this.#options.role === 'dialler');
  }

  #takePeerId(id: number): void {
    if (this.#isOwn(id) || id <= this.#lastPeerId) throw protocol(`the channel id ${id} out of turn`);
    this.#lastPeerId = id;
  }

  #onCall(id: number, payload: Buffer): void {
    this.#takePeerId(id);
    const { method, deadlineMs, body } = this.#parseCall(payload);
    if (!method) {
      this.#sendError(id, new TunnelError('UNIMPLEMENTED', 'there is no such method here'));
      return;
    }
    if (this.#serving.size >= this.#limits.maxIncomingCalls) {
      this.#sendError(id, new TunnelError('RESOURCE_EXHAUSTED', 'too many calls at once'));
      return;
    }
    void this.#serve(id, deadlineMs, async (signal) => {
      try {
        const answer = await method(body, { signal });
        if (!(answer instanceof Uint8Array))
          throw new TunnelError('UNIMPLEMENTED', 'this method streams its answer');
        if (answer.length > MAX_RPC_PAYLOAD_BYTES) {
          throw new TunnelError(
            'RESOURCE_EXHAUSTED',
            `the answer has ${answer.length} bytes; at most ${MAX_RPC_PAYLOAD_BYTES} fit`,
          );
        }
        if (!signal.aborted) this.#answer(encodeFrame(id, FrameType.RESULT, answer));
      } catch (error) {
        if (!signal.aborted) this.#sendError(id, rpcError(error));
      }
    });
  }

  #onStreamingCall(id: number, payload: Buffer): void {
    this.#takePeerId(id);
    const { method, deadlineMs, body } = this.#parseCall(payload);
    const carrier = this.#acceptedCarrier(id);
    if (!carrier) return;
    const channel = this.#acceptedChannel(carrier);
    if (!method) {
      channel.start(itemWriter(channel).receiver);
      channel.reject(new TunnelError('UNIMPLEMENTED', 'there is no such method here'));
      return;
    }
    if (this.#streaming >= this.#limits.maxIncomingStreams) {
      channel.start(itemWriter(channel).receiver);
      channel.reject(new TunnelError('RESOURCE_EXHAUSTED', 'too many streaming calls at once'));
      return;
    }
    this.#streaming += 1;
    const served = this.#serve(id, deadlineMs, async (signal, abort) => {
      const writer = itemWriter(channel);
      void writer.closed.then(abort);
      channel.start(writer.receiver);
      channel.accept();
      try {
        const answer = method(body, { signal });
        const items =
          Symbol.asyncIterator in Object(answer)
            ? (answer as AsyncIterable<Uint8Array>)
            : once(answer as Promise<Uint8Array>);
        for await (const item of items) {
          if (signal.aborted || !(await writer.write(item))) return;
        }
        writer.end();
      } catch (error) {
        if (!signal.aborted) await writer.fail(rpcError(error));
      }
    });
    void served.finally(() => {
      this.#streaming -= 1;
    });
  }

  /** Runs a handler with a signal that fires on cancellation, the deadline and the session's end. */
  async #serve(
    id: number,
    deadlineMs: number,
    work: (signal: AbortSignal, abort: () => void) => Promise<void>,
  ): Promise<void> {
    const controller = new AbortController();
    const abort = () => controller.abort();
    this.#serving.set(id, controller);
    const timer = deadlineMs > 0 ? setTimeout(abort, deadlineMs) : undefined;
    try {
      await work(controller.signal, abort);
    } finally {
      clearTimeout(timer);
      this.#serving.delete(id);
    }
  }

  #parseCall(payload: Buffer): { method: RpcHandler | undefined; deadlineMs: number; body: Buffer } {
    if (payload.length < CALL_HEADER_BYTES) throw protocol('a call that is too short');
    return {
      method: this.#methods.get(payload.readUInt32BE(0))?.handler,
      deadlineMs: payload.readUInt32BE(4),
      body: payload.subarray(CALL_HEADER_BYTES),
    };
  }

  #onOpen(id: number, body: Buffer): void {
    this.#takePeerId(id);
    const carrier = this.#acceptedCarrier(id);
    if (!carrier) return;
    let channel: Channel | undefined;
    const accepted = () => this.#acceptedChannel(carrier);
    this.#incomingTunnels.push({
      body,
      carrier,
      get channel() {
        channel ??= accepted();
        return channel;
      },
    });
  }

  #acceptedCarrier(id: number): Carrier | undefined {
    if (this.#tunnels.size < this.#limits.maxTunnels) return this.#addTunnel(id);
    this.#sendError(id, new TunnelError('LIMIT', 'too many tunnels at once'));
    return undefined;
  }

  #acceptedChannel(carrier: Carrier): Channel {
    return new Channel(carrier, {
      channelId: carrier.frameId,
      role: 'acceptor',
      peerLimit: INITIAL_WINDOW_BYTES,
      budget: this.#budget,
      rttMs: this.#options.rttMs,
    });
  }

  #sendError(id: number, error: TunnelError): void {
    this.#answer(encodeFrame(id, FrameType.ERROR, encodeError(error.wireCode, error.message)));
  }

  /** Answers have no credit: a peer that asks and asks and reads nothing is what bounds them. */
  #answer(frame: Buffer): void {
    if (this.#streamFull) {
      this.#unreadAnswerBytes += frame.length;
      if (this.#unreadAnswerBytes > this.#limits.maxUnreadAnswerBytes) {
        this.close(new TunnelError('LIMIT', 'the peer does not read the answers to its calls'));
        return;
      }
    }
    this.#send(frame);
  }

  #end(error: TunnelError | undefined): void {
    if (this.#ended) return;
    this.#ended = { error };
    const reason = error ?? new TunnelError('SESSION_LOST', 'the session has ended');
    for (const pending of [...this.#pending.values()]) pending.reject(reason);
    for (const controller of this.#serving.values()) controller.abort();
    for (const carrier of [...this.#tunnels.values()]) carrier.handler?.lost();
    this.#tunnels.clear();
    this.#blocked.clear();
    this.#touched.clear();
    this.#incomingTunnels.end();
    this.#resolveClosed(error);
  }
}

/** One tunnel's place on the shared stream. */
class TunnelCarrier implements Carrier {
  handler: CarrierHandler | undefined;
  readonly frameId: number;
  readonly #session: RpcSession;
  /** Frames that came before anyone listened; bounded by the credit the peer has. */
  #early: (() => void)[] | undefined = [];
  #earlyBytes = 0;

  constructor(id: number, session: RpcSession) {
    this.frameId = id;
    this.#session = session;
    this.handler = this.#earlyHandler();
  }

  receive(handler: CarrierHandler): void {
    const early = this.#early ?? [];
    this.#early = undefined;
    this.handler = handler;
    for (const deliver of early) deliver();
    if (early.length > 0) handler.flush();
  }

  write(head: Uint8Array, body: Uint8Array | null): boolean {
    return this.#session.writeFrame(this, head, body);
  }

  defer(frame: Uint8Array): void {
    this.write(frame, null);
  }

  finish(): void {
    // The mux has no end of its own: both ends of the channel were proven, nothing more can come.
    this.#session.forgetTunnel(this.frameId, this);
    queueMicrotask(() => this.handler?.end());
  }

  reset(code: number): void {
    this.#session.resetTunnel(this.frameId, this, code);
  }

  endAfterError(): void {
    this.#session.forgetTunnel(this.frameId, this);
  }

  #earlyHandler(): CarrierHandler {
    const keep = (deliver: (handler: CarrierHandler) => void) => {
      this.#early?.push(() => deliver(this.handler as CarrierHandler));
    };
    return {
      data: (id, piece, last) => {
        this.#earlyBytes += piece.length;
        if (this.#earlyBytes > INITIAL_WINDOW_BYTES) throw protocol('more early data than granted');
        keep((handler) => handler.data(id, piece, last));
      },
      control: (id, type, payload) => keep((handler) => handler.control(id, type, payload)),
      reset: (code) => keep((handler) => handler.reset(code)),
      lost: () => keep((handler) => handler.lost()),
      end: () => undefined,
      flush: () => undefined,
      drain: () => undefined,
      violation: () => undefined,
    };
  }
}

const EMPTY = Buffer.alloc(0);

function callFrame(id: number, type: number, method: string, payload: Uint8Array, deadlineMs = 0): Buffer {
  const frame = Buffer.allocUnsafe(HEADER_BYTES + CALL_HEADER_BYTES + payload.length);
  writeHeader(frame, id, type, CALL_HEADER_BYTES + payload.length);
  frame.writeUInt32BE(methodId(method), HEADER_BYTES);
  // What is left of the deadline, so that the two clocks need not agree. 0 is none.
  frame.writeUInt32BE(Math.min(Math.ceil(deadlineMs), MAX_DEADLINE_MS), HEADER_BYTES + 4);
  frame.set(payload, HEADER_BYTES + CALL_HEADER_BYTES);
  return frame;
}

async function* once(answer: Promise<Uint8Array> | Uint8Array): AsyncGenerator<Uint8Array, void> {
  yield await answer;
}

/** What a handler threw, as the peer may see it: its own words only where they were meant for a peer. */
function rpcError(error: unknown): TunnelError {
  if (error instanceof TunnelError) return error;
  return new TunnelError('INTERNAL', 'the handler of the call failed', { cause: error });
}

function protocol(what: string): TunnelError {
  return new TunnelError('PROTOCOL', `the peer broke the protocol: ${what}`);
}

function resetError(code: number): TunnelError {
  return new TunnelError(wireCodeName(code), 'the peer ended the session');
}
