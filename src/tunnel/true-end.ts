/**
 * Tells an end of file from a reset that libuv reports as one.
 *
 * When a reset arrives together with the last data, epoll says POLLIN and POLLHUP at once; libuv
 * reads the data, sees a partial read, and takes the hang-up for an end of file without asking the
 * kernel again (`uv__stream_io`, "Short-circuit iff POLLHUP"). The kernel still holds ECONNRESET. One
 * more read brings it out: it fails the socket with its error, or answers end of file once more.
 * An end that libuv tells of in another turn of the event loop than any data was read by itself, and is one.
 */
import type { Socket } from 'node:net';

/** What `net` itself calls on a socket's handle to begin reading; there is no public way to read after `end`. */
interface ReadableHandle {
  readStart?(): number;
}

interface AutoDestroying {
  autoDestroy: boolean;
}

/**
 * Keeps a socket from destroying itself once both directions have ended, so that its last end can
 * still be confirmed. Whoever holds it open destroys it.
 */
export function holdOpen(socket: Socket): void {
  // `net` overrides the option of that name, and has no other way to say this.
  const states = socket as unknown as {
    readonly _readableState: AutoDestroying;
    readonly _writableState: AutoDestroying;
  };
  states._readableState.autoDestroy = false;
  states._writableState.autoDestroy = false;
}

/** The turns of the event loop in which a socket had data. */
let turn = 0;
let isCounted = false;

function countTurn(): number {
  if (!isCounted) {
    isCounted = true;
    setImmediate(() => {
      isCounted = false;
      turn += 1;
    });
  }
  return turn;
}

/** Of one socket that flows: when it had data last. */
export class LastData {
  #turn = -1;
  #held = false;

  /** It has had some. `held` where the socket was paused for it: its `end` then waits, and comes in a turn of its own. */
  note(held: boolean): void {
    this.#turn = countTurn();
    this.#held = held;
  }

  /** Whether an `end` that is emitted now was read without any data. */
  get isApart(): boolean {
    return !this.#held && this.#turn !== turn;
  }
}

/** To be called when `end` was emitted. Calls back once the end is known for a true one; a reset arrives as `error` instead. */
export function confirmEnd(socket: Socket, onTrueEnd: () => void): void {
  const handle = (socket as unknown as { readonly _handle: ReadableHandle | null })._handle;
  if (!handle?.readStart) {
    onTrueEnd();
    return;
  }
  handle.readStart();
  // The first one may still come in this turn of the loop; between the two it polls, and so reads.
  setImmediate(() =>
    setImmediate(() => {
      if (!socket.errored) onTrueEnd();
    }),
  );
}
