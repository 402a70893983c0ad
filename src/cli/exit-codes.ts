/** Exit codes, after sysexits.h where it has one. Fixed: scripts rely on them. */
import type { TunnelErrorCode } from '../error.js';

export const EXIT_OK = 0;
export const EXIT_USAGE = 64;
export const EXIT_UNREACHABLE = 69;
export const EXIT_INTERNAL = 70;
export const EXIT_OS = 71;
export const EXIT_CANNOT_BIND = 73;
export const EXIT_PROTOCOL = 76;
export const EXIT_DENIED = 77;
export const EXIT_CONFIG = 78;
export const EXIT_SIGHUP = 129;
export const EXIT_SIGINT = 130;

const BY_CODE: Partial<Record<TunnelErrorCode, number>> = {
  USAGE: EXIT_USAGE,
  BAD_TICKET: EXIT_USAGE,
  BAD_NODE_ID: EXIT_USAGE,
  UNREACHABLE: EXIT_UNREACHABLE,
  SESSION_LOST: EXIT_UNREACHABLE,
  TIMEOUT: EXIT_UNREACHABLE,
  OS_RESOURCE: EXIT_OS,
  IDENTITY_LOCKED: EXIT_OS,
  ENGINE_UNAVAILABLE: EXIT_OS,
  PORT_IN_USE: EXIT_CANNOT_BIND,
  CANNOT_BIND: EXIT_CANNOT_BIND,
  VERSION: EXIT_PROTOCOL,
  PROTOCOL: EXIT_PROTOCOL,
  DENIED: EXIT_DENIED,
  BAD_IDENTITY: EXIT_CONFIG,
  BAD_STATE: EXIT_CONFIG,
  BAD_CERTIFICATE: EXIT_CONFIG,
  BAD_CONFIG: EXIT_CONFIG,
};

export function exitCode(code: TunnelErrorCode): number {
  return BY_CODE[code] ?? EXIT_INTERNAL;
}
