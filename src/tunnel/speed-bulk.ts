/**
 * Bulk of a speed test: a channel on a stream of its own, so that what is measured is what a
 * connection through the tunnel gets, flow control and all. Both sides use both halves.
 */
import { randomBytes } from 'node:crypto';
import type { TunnelError } from '../error.js';
import { StreamCarrier } from '../session/carrier.js';
import { Channel, type ChannelReceiver, EARLY_DATA_BYTES, INITIAL_WINDOW_BYTES } from '../session/channel.js';
import { MAX_DATA_BYTES } from '../session/frame.js';
import type { BidirectionalStream } from '../session/session.js';
import { LINK_WINDOW_BYTES, WindowBudget } from '../session/window-budget.js';

export interface BulkOptions {
  readonly stream: BidirectionalStream;
  readonly test: number;
  readonly role: 'opener' | 'acceptor';
  readonly rttMs: () => number;
  /** What came behind the preamble. */
  readonly rest?: Buffer;
}

export interface Bulk {
  /** Bytes received, or taken by the peer as far as it has told. */
  readonly bytes: number;
  /** When the first byte came, or was sent; monotonic. */
  readonly startedAt: number | undefined;
  /** Resolves, never rejects, when the other side ended it, with why if it failed. */
  readonly ended: Promise<TunnelError | undefined>;
  close(error: TunnelError): void;
}

/** Takes whatever comes. */
export function receiveBulk(options: BulkOptions): Bulk {
  const channel = channelOf(options);
  let startedAt: number | undefined;
  const ended = startChannel(channel, options, {
    data: (piece) => {
      startedAt ??= performance.now();
      channel.consumed(piece.length);
    },
    drain: () => undefined,
  });
  return {
    get bytes() {
      return channel.bytesIn;
    },
    get startedAt() {
      return startedAt;
    },
    ended,
    close: (error) => channel.abort(error),
  };
}

/** Sends as fast as it is taken, `maxBytes` at most. */
export function sendBulk(options: BulkOptions & { readonly maxBytes: number }): Bulk {
  const channel = channelOf(options);
  const startedAt = performance.now();
  let given = 0;
  const pump = () => {
    while (given < options.maxBytes && !channel.isClosed) {
      given += chunk().length;
      if (!channel.write(chunk())) return;
    }
    channel.end();
  };
  const ended = startChannel(channel, options, {
    data: (piece) => channel.consumed(piece.length),
    // In a turn of its own: a session that takes everything at once would leave none to anybody else.
    drain: () => setImmediate(pump),
  });
  pump();
  return {
    get bytes() {
      return channel.bytesOut - channel.unackedBytes;
    },
    startedAt,
    ended,
    close: (error) => channel.abort(error),
  };
}

function channelOf({ stream, test, role, rttMs }: BulkOptions): Channel {
  return new Channel(new StreamCarrier(stream, test), {
    channelId: test,
    role,
    peerLimit: role === 'opener' ? EARLY_DATA_BYTES : INITIAL_WINDOW_BYTES,
    budget: new WindowBudget(LINK_WINDOW_BYTES),
    rttMs,
  });
}

function startChannel(
  channel: Channel,
  { role, rest }: BulkOptions,
  receiver: Pick<ChannelReceiver, 'data' | 'drain'>,
): Promise<TunnelError | undefined> {
  return new Promise((resolve) => {
    channel.start(
      {
        ...receiver,
        flush: () => undefined,
        opened: () => undefined,
        end: () => {
          channel.endConsumed();
          channel.end();
          resolve(undefined);
        },
        closed: resolve,
      },
      rest,
    );
    if (role === 'acceptor') channel.accept();
  });
}

let made: Buffer | undefined;

/** Random, in case something on the way compresses. */
function chunk(): Buffer {
  made ??= randomBytes(MAX_DATA_BYTES);
  return made;
}
