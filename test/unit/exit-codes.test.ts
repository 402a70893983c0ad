import { describe, expect, it } from 'vitest';
import {
  EXIT_CANNOT_BIND,
  EXIT_CONFIG,
  EXIT_DENIED,
  EXIT_INTERNAL,
  EXIT_OK,
  EXIT_OS,
  EXIT_PROTOCOL,
  EXIT_SIGINT,
  EXIT_UNREACHABLE,
  EXIT_USAGE,
  exitCode,
} from '../../src/cli/exit-codes.js';
import {
  TunnelError,
  type TunnelErrorCode,
  toTunnelError,
  WIRE_CODES,
  wireCodeName,
} from '../../src/error.js';

describe('exit codes', () => {
  it('are the numbers that scripts rely on', () => {
    expect({
      EXIT_OK,
      EXIT_USAGE,
      EXIT_UNREACHABLE,
      EXIT_INTERNAL,
      EXIT_OS,
      EXIT_CANNOT_BIND,
      EXIT_PROTOCOL,
      EXIT_DENIED,
      EXIT_CONFIG,
      EXIT_SIGINT,
    }).toEqual({
      EXIT_OK: 0,
      EXIT_USAGE: 64,
      EXIT_UNREACHABLE: 69,
      EXIT_INTERNAL: 70,
      EXIT_OS: 71,
      EXIT_CANNOT_BIND: 73,
      EXIT_PROTOCOL: 76,
      EXIT_DENIED: 77,
      EXIT_CONFIG: 78,
      EXIT_SIGINT: 130,
    });
  });

  it.each<[TunnelErrorCode, number]>([
    ['USAGE', 64],
    ['BAD_TICKET', 64],
    ['BAD_NODE_ID', 64],
    ['UNREACHABLE', 69],
    ['SESSION_LOST', 69],
    ['TIMEOUT', 69],
    ['INTERNAL', 70],
    ['OS_RESOURCE', 71],
    ['IDENTITY_LOCKED', 71],
    ['ENGINE_UNAVAILABLE', 71],
    ['PORT_IN_USE', 73],
    ['CANNOT_BIND', 73],
    ['PROTOCOL', 76],
    ['VERSION', 76],
    ['DENIED', 77],
    ['BAD_IDENTITY', 78],
  ])('of %s is %i', (code, exit) => {
    expect(exitCode(code)).toBe(exit);
  });

  it.each([
    ...Object.keys(WIRE_CODES),
    'STREAM_CLOSED',
    'TOO_LARGE',
    'UNSUPPORTED',
    'ABORTED',
  ] as TunnelErrorCode[])('of %s is never success', (code) => {
    expect(exitCode(code)).toBeGreaterThanOrEqual(64);
  });
});

describe('codes on the wire', () => {
  it('are numbers of their own, and come back as what they were', () => {
    const numbers = Object.values(WIRE_CODES);
    expect(new Set(numbers).size).toBe(numbers.length);
    expect(numbers).not.toContain(0);
    for (const [name, number] of Object.entries(WIRE_CODES)) expect(wireCodeName(number)).toBe(name);
  });

  it.each([0, 0xff, 0xffffffff, 2 ** 62])('that this version does not know are RESET: %i', (number) => {
    expect(wireCodeName(number)).toBe('RESET');
  });

  it('are INTERNAL for what means nothing to a peer', () => {
    expect(new TunnelError('BAD_IDENTITY', 'x').wireCode).toBe(WIRE_CODES.INTERNAL);
    expect(new TunnelError('REFUSED', 'x').wireCode).toBe(WIRE_CODES.REFUSED);
  });
});

describe('errors of others', () => {
  it('are wrapped once, with their cause kept', () => {
    const cause = new Error('why');
    const wrapped = toTunnelError(cause, 'UNREACHABLE');
    expect(wrapped).toMatchObject({ code: 'UNREACHABLE', cause });
    expect(toTunnelError(wrapped, 'INTERNAL')).toBe(wrapped);
    expect(toTunnelError('text').code).toBe('INTERNAL');
    expect(toTunnelError(undefined).code).toBe('INTERNAL');
  });
});
