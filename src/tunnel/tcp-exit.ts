/** The far end of a channel: dials the target of a service and joins it to the channel. */
import { connect, type Socket } from 'node:net';
import { systemCode, TunnelError, type WireCode } from '../error.js';
import type { Channel, ChannelReceiver } from '../session/channel.js';
import { join, readFrom } from './join.js';
import { keepLive } from './live-sockets.js';
import { type Lanes, Pace } from './pace.js';
import { formatTarget, type Service, type Target } from './spec.js';

const DIAL_TIMEOUT_MS = 10_000;

export interface TcpExitOptions {
  /** What arrived on the stream behind the OPEN already. */
  readonly rest?: Buffer;
  readonly service: Service;
  /** The limits of bytes a second it comes under. */
  readonly lanes?: Lanes | undefined;
  /** Called with the new channel; answers what to call when it is over. */
  track(channel: Channel): (error: TunnelError | undefined) => void;
  /** The target could not be reached. */
  onDialFailed(error: TunnelError): void;
}

/** Starts `channel`, and accepts or rejects it when the target has answered. */
export function tcpExit(channel: Channel, options: TcpExitOptions): void {
  const { service } = options;
  // First: the target is busy with it while this side does the rest.
  const socket = dial(service.target);
  const onClosed = options.track(channel);
  keepLive(socket);
  const pace = options.lanes && new Pace(options.lanes);
  const receiver: ChannelReceiver = join(socket, channel, { onClosed, pace });
  const timer = setTimeout(() => {
    socket.destroy(Object.assign(new Error('connect timed out'), { code: 'ETIMEDOUT' }));
  }, DIAL_TIMEOUT_MS);
  const onDialError = (error: Error) => {
    clearTimeout(timer);
    const reason = dialError(service, error);
    options.onDialFailed(reason);
    channel.reject(reason);
  };
  socket.once('error', onDialError);
  socket.once('connect', () => {
    clearTimeout(timer);
    socket.off('error', onDialError);
    readFrom(socket, channel, pace);
    channel.accept();
  });
  socket.once('close', () => clearTimeout(timer));
  channel.start(receiver, options.rest);
}

function dial(target: Target): Socket {
  if (target.kind === 'unix') return connect({ path: target.path, allowHalfOpen: true });
  return connect({
    host: target.host,
    port: target.port,
    allowHalfOpen: true,
    noDelay: true,
    keepAlive: true,
    keepAliveInitialDelay: 30_000,
    // `localhost` may listen on either family only (RFC 8305).
    autoSelectFamily: true,
  });
}

const DIAL_CODES: Readonly<Record<string, WireCode>> = {
  ECONNREFUSED: 'REFUSED',
  ECONNRESET: 'REFUSED',
  ETIMEDOUT: 'TARGET_TIMEOUT',
  ENOTFOUND: 'TARGET_UNRESOLVED',
  EAI_AGAIN: 'TARGET_UNRESOLVED',
  EMFILE: 'LIMIT',
  ENFILE: 'LIMIT',
};

const DIAL_WORDS: Partial<Record<WireCode, string>> = {
  REFUSED: 'refused the connection',
  TARGET_TIMEOUT: 'did not answer in time',
  TARGET_UNRESOLVED: 'has a host name that does not resolve',
  TARGET_UNREACHABLE: 'cannot be reached',
  LIMIT: 'was not dialled: this process has no file descriptor left',
};

function dialError(service: Service, error: Error): TunnelError {
  // With several addresses tried, Node throws an AggregateError that carries the first one's code.
  const system = systemCode(error) ?? systemCode((error as { errors?: unknown[] }).errors?.[0]);
  const code = DIAL_CODES[system ?? ''] ?? 'TARGET_UNREACHABLE';
  return new TunnelError(
    code,
    `target ${formatTarget(service.target)} of service '${service.name}' ${DIAL_WORDS[code]} (${system ?? error.message})`,
    {
      hint:
        code === 'LIMIT'
          ? 'raise the limit: ulimit -n'
          : `check that something listens on ${formatTarget(service.target)}`,
      cause: error,
    },
  );
}
