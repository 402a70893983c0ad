/** Errors are told apart by their code; these answer the error itself, so that its code can be looked at. */
import { expect } from 'vitest';
import { TunnelError, type TunnelErrorCode } from '../../src/error.js';

/** The `TunnelError` that `work` throws; fails when it throws something else, or nothing. */
export function thrown(work: () => unknown): TunnelError {
  try {
    work();
  } catch (error) {
    expect(error).toBeInstanceOf(TunnelError);
    return error as TunnelError;
  }
  throw new Error('nothing was thrown');
}

/** As `thrown`, for a promise. */
export async function rejected(work: Promise<unknown>): Promise<TunnelError> {
  try {
    await work;
  } catch (error) {
    expect(error).toBeInstanceOf(TunnelError);
    return error as TunnelError;
  }
  throw new Error('nothing was thrown');
}

/** Undefined when `work` succeeds, the code when it throws a `TunnelError`; anything else is thrown on. */
export function codeOf(work: () => unknown): TunnelErrorCode | undefined {
  try {
    work();
    return undefined;
  } catch (error) {
    if (error instanceof TunnelError) return error.code;
    throw error;
  }
}
