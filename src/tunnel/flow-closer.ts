/** Tells the peer which flows are over, those of one turn of the event loop in one call. */
import type { RpcSession } from '../session/rpc-session.js';
import {
  decodeFlowCounts,
  encodeFlowCounts,
  FLOW_CLOSE,
  type FlowCount,
  MAX_COUNTS,
} from './flow-messages.js';

const DEADLINE_MS = 2000;

/** The peer's own count of the flow, or undefined where it could not be learnt. */
type Answer = (theirs: FlowCount | undefined) => void;

export class FlowCloser {
  readonly #rpc: RpcSession;
  #waiting: { readonly count: FlowCount; readonly answer: Answer }[] = [];

  constructor(rpc: RpcSession) {
    this.#rpc = rpc;
  }

  /** Never rejects. */
  close(count: FlowCount): Promise<FlowCount | undefined> {
    return new Promise((answer) => {
      if (this.#waiting.length === 0) setImmediate(() => this.flush());
      this.#waiting.push({ count, answer });
      if (this.#waiting.length >= MAX_COUNTS) this.flush();
    });
  }

  /** Sends now what waits. To be called before anything that has to come behind it. */
  flush(): void {
    const closing = this.#waiting;
    this.#waiting = [];
    if (closing.length > 0) void this.#call(closing);
  }

  async #call(closing: readonly { readonly count: FlowCount; readonly answer: Answer }[]): Promise<void> {
    const theirs = new Map<number, FlowCount>();
    try {
      const payload = encodeFlowCounts(closing.map(({ count }) => count));
      const answer = await this.#rpc.call(FLOW_CLOSE, payload, { deadlineMs: DEADLINE_MS });
      for (const count of decodeFlowCounts(answer)) theirs.set(count.flow, count);
    } catch {
      // The session is gone, or the peer knows none of them: there is nothing to learn.
    }
    for (const { count, answer } of closing) answer(theirs.get(count.flow));
  }
}
