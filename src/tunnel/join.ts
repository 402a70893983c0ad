/**
 * Joins a local socket to a channel, both ways, keeping every end what it was: an end of file stays
 * one, a reset stays a reset, and a slow side slows the other down instead of filling memory.
 */
import type { Socket } from 'node:net';
import { systemCode, TunnelError } from '../error.js';
import type { Channel, ChannelReceiver } from '../session/channel.js';
import type { Pace } from './pace.js';
import { confirmEnd, holdOpen, LastData } from './true-end.js';

export interface JoinOptions {
  /** Holds the connection to limits of bytes a second. */
  readonly pace?: Pace | undefined;
  /** Called once, when the channel is over. */
  readonly onClosed: (error: TunnelError | undefined) => void;
}

/**
 * The receiver that feeds `socket`, which must allow half-open. Call `readFrom` to begin the other
 * direction; a socket that is still connecting may be joined before.
 */
export function join(socket: Socket, channel: Channel, options: JoinOptions): ChannelReceiver {
  /** The newest piece is kept back until the next one or the flush: the last write of a delivery
   * answers for all of it, in one callback and, corked, one system call. */
  let last: Buffer | undefined;
  let batch = 0;
  holdOpen(socket);
  const receiver: ChannelReceiver = {
    data(piece) {
      if (last === undefined) socket.cork();
      else socket.write(last);
      last = piece;
      batch += piece.length;
    },
    flush() {
      if (last === undefined) return;
      const bytes = batch;
      socket.write(last, (error) => {
        if (!error) channel.consumed(bytes);
      });
      last = undefined;
      batch = 0;
      socket.uncork();
    },
    end() {
      this.flush();
      socket.end(() => {
        channel.endConsumed();
      });
    },
    drain: () => socket.resume(),
    opened: () => undefined,
    closed(error) {
      if (error) resetSocket(socket);
      else socket.destroy();
      options.onClosed(error);
    },
  };
  return options.pace ? options.pace.receiver(receiver, socket) : receiver;
}

/** The direction from the socket into the channel, and the socket's failures. */
export function readFrom(socket: Socket, channel: Channel, pace?: Pace): void {
  const end = () => channel.end();
  if (pace) {
    pace.read(socket, channel);
    socket.on('end', () => confirmEnd(socket, () => pace.whenRead(end)));
  } else {
    const lastData = new LastData();
    socket.on('data', (chunk: Buffer) => {
      const goesOn = channel.write(chunk);
      if (!goesOn) socket.pause();
      lastData.note(!goesOn);
    });
    socket.on('end', () => (lastData.isApart ? end() : confirmEnd(socket, end)));
  }
  socket.on('error', (error) => {
    channel.abort(
      new TunnelError('RESET', `the local connection failed: ${systemCode(error) ?? error.message}`, {
        cause: error,
      }),
    );
  });
  socket.on('close', () => {
    if (socket.readableEnded && socket.writableFinished) return;
    channel.abort(new TunnelError('RESET', 'the local connection was closed'));
  });
}

/**
 * Ends a socket with RST, so that a truncated transfer never looks complete. `destroy` would send
 * FIN. Unix sockets have no reset; a close with unread or missing data is all they can show.
 */
export function resetSocket(socket: Socket): void {
  if (socket.destroyed) return;
  // Also keeps a late error of the socket itself from being thrown.
  socket.on('error', () => undefined);
  if (socket.connecting) {
    socket.destroy();
    return;
  }
  const reset = () => {
    if (socket.destroyed) return;
    try {
      socket.resetAndDestroy();
    } catch {
      // ERR_INVALID_HANDLE_TYPE: not TCP.
      socket.destroy();
    }
  };
  // libuv answers EINVAL to a reset while a shutdown is in flight, and then nothing closes the handle.
  const shuttingDown = socket.writableEnded && !socket.writableFinished && socket.writableLength === 0;
  if (shuttingDown) socket.once('finish', reset);
  else reset();
}
