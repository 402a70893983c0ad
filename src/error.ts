/**
 * The one error class of the project, and the closed union of its codes.
 *
 * Codes are tested for, messages are read: a message is one sentence that names the thing, a hint
 * says what to do next. Library errors are translated into this class once, at the engine's edge.
 */

/** Codes that travel in ERROR frames, stream resets and session closes, with their numbers on the wire. */
export const WIRE_CODES = {
  /** The local application, or its network, reset the connection. */
  RESET: 0x01,
  /** The target refused the connection. */
  REFUSED: 0x02,
  /** The target did not answer in time. */
  TARGET_TIMEOUT: 0x03,
  /** The target's name does not resolve. */
  TARGET_UNRESOLVED: 0x04,
  /** The target cannot be reached (no route, no permission, no such socket file). */
  TARGET_UNREACHABLE: 0x05,
  /** The peer may not have this. Says no more, so that names cannot be probed. */
  DENIED: 0x06,
  /** The other side broke the protocol. */
  PROTOCOL: 0x07,
  /** The two sides have no protocol version or required feature in common. */
  VERSION: 0x08,
  /** The other side is at one of its limits. */
  LIMIT: 0x09,
  /** The process is ending. */
  SHUTDOWN: 0x0a,
  /** The session under the channel was lost. */
  SESSION_LOST: 0x0b,
  /** A fault of this program. */
  INTERNAL: 0x0c,
  /** Something did not happen in time. */
  TIMEOUT: 0x0d,
  /** The channel goes on over another carrier; this one is of no more use. */
  MOVED: 0x0e,
  /** A channel waited longer than allowed for a session to go on. */
  RESUME_EXPIRED: 0x0f,
  /** The other side does not know the channel that was to go on. */
  RESUME_UNKNOWN: 0x10,
  /** Bytes that the other side still needs are not held any more. */
  RESUME_GAP: 0x11,
  /** More waits for a session than this side may hold. */
  RESUME_LIMIT: 0x12,
  /** The peer's process is another one than before: what it held is gone. */
  PEER_RESTARTED: 0x13,
  /** The peer's machine answers, and its process is not there any more. */
  PEER_GONE: 0x14,
  // Answers to calls: 0x100 and the number gRPC gives the name.
  CANCELLED: 0x101,
  UNKNOWN: 0x102,
  INVALID_ARGUMENT: 0x103,
  DEADLINE_EXCEEDED: 0x104,
  NOT_FOUND: 0x105,
  ALREADY_EXISTS: 0x106,
  PERMISSION_DENIED: 0x107,
  RESOURCE_EXHAUSTED: 0x108,
  FAILED_PRECONDITION: 0x109,
  OUT_OF_RANGE: 0x10b,
  UNIMPLEMENTED: 0x10c,
  UNAVAILABLE: 0x10e,
  DATA_LOSS: 0x10f,
  UNAUTHENTICATED: 0x110,
} as const;

export type WireCode = keyof typeof WIRE_CODES;

export type TunnelErrorCode =
  | WireCode
  | 'USAGE'
  | 'BAD_TICKET'
  | 'BAD_NODE_ID'
  | 'BAD_IDENTITY'
  | 'BAD_STATE'
  | 'BAD_CERTIFICATE'
  | 'BAD_CONFIG'
  | 'IDENTITY_LOCKED'
  | 'PORT_IN_USE'
  | 'CANNOT_BIND'
  | 'OS_RESOURCE'
  | 'UNREACHABLE'
  | 'ENGINE_UNAVAILABLE'
  | 'STREAM_CLOSED'
  | 'TOO_LARGE'
  | 'UNSUPPORTED'
  | 'ABORTED';

const NAMES = new Map<number, WireCode>(
  Object.entries(WIRE_CODES).map(([name, code]) => [code, name as WireCode]),
);

/** The name of a code received from a peer; a number this version does not know is `RESET`. */
export function wireCodeName(code: number): WireCode {
  return NAMES.get(code) ?? 'RESET';
}

export interface TunnelErrorOptions {
  /** What the user can do next. */
  readonly hint?: string | undefined;
  readonly cause?: unknown;
}

export class TunnelError extends Error {
  readonly code: TunnelErrorCode;
  readonly hint: string | undefined;

  constructor(code: TunnelErrorCode, message: string, options: TunnelErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'TunnelError';
    this.code = code;
    this.hint = options.hint;
  }

  /** The number that says this error to a peer. Codes that mean nothing to it become INTERNAL. */
  get wireCode(): number {
    return this.code in WIRE_CODES ? WIRE_CODES[this.code as WireCode] : WIRE_CODES.INTERNAL;
  }
}

/** Wraps what is not yet a `TunnelError`; passes on what is. */
export function toTunnelError(error: unknown, code: TunnelErrorCode = 'INTERNAL'): TunnelError {
  if (error instanceof TunnelError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new TunnelError(code, message, { cause: error });
}

/** The `code` of a Node system error (`ECONNREFUSED`), or undefined. */
export function systemCode(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' ? code : undefined;
}
