/** The one importer of the addon in `native/`. Its errors are translated here, once. */
import type * as Native from '../../../native/index.js';
import { TunnelError, type TunnelErrorCode } from '../../error.js';

export type { Native };

export const ALPN = 'tunnel/1';

/** Throws ENGINE_UNAVAILABLE. */
export async function loadAddon(): Promise<typeof Native> {
  try {
    return await import('../../../native/index.js');
  } catch (error) {
    throw new TunnelError('ENGINE_UNAVAILABLE', (error as Error).message, {
      hint: "run 'npm run build:native' with Rust 1.91 or newer installed",
      cause: error,
    });
  }
}

const CODES: Readonly<Record<string, TunnelErrorCode>> = {
  ADDRESS_IN_USE: 'PORT_IN_USE',
  BIND_FAILED: 'CANNOT_BIND',
  BAD_CERTIFICATE: 'BAD_CERTIFICATE',
  CONNECT_FAILED: 'UNREACHABLE',
  CONNECT_TIMEOUT: 'UNREACHABLE',
  CONNECTION_LOST: 'SESSION_LOST',
  CLOSED: 'SESSION_LOST',
  STREAM_CLOSED: 'STREAM_CLOSED',
  STREAM_STOPPED: 'STREAM_CLOSED',
  TOO_LARGE: 'TOO_LARGE',
  UNSUPPORTED: 'UNSUPPORTED',
  INTERNAL: 'INTERNAL',
};

export function translate(error: unknown, fallback: TunnelErrorCode): TunnelError {
  if (error instanceof TunnelError) return error;
  const { code, message } = error as Native.NativeError;
  if (code === 'PROTOCOL_MISMATCH') {
    // TLS does not say what the other side would have spoken; HELLO does where the major version is shared.
    return new TunnelError('VERSION', `the peer does not speak ${ALPN}, the protocol of this program`, {
      hint: 'install the same version of tunnel on both machines',
      cause: error,
    });
  }
  return new TunnelError(CODES[code] ?? fallback, message, { cause: error });
}

/** Ending what has ended is no error; the connection may be gone before its CLOSED event is here. */
export function quietly(end: () => void): void {
  try {
    end();
  } catch (error) {
    const { code } = error as Native.NativeError;
    if (code !== 'CONNECTION_LOST' && code !== 'STREAM_CLOSED' && code !== 'STREAM_STOPPED') {
      throw translate(error, 'INTERNAL');
    }
  }
}

export type AddonBuild = Readonly<ReturnType<typeof Native.buildInfo>>;

/** What the addon is made of. Throws ENGINE_UNAVAILABLE. */
export async function addonBuild(): Promise<AddonBuild> {
  return (await loadAddon()).buildInfo();
}
