/** Why a local address could not be listened on, in words that say what to do. */
import { systemCode, TunnelError } from '../error.js';
import { formatLocal, type Local, type Protocol } from './spec.js';

export function listenError(local: Local, error: Error, protocol: Protocol): TunnelError {
  const where = formatLocal(local);
  const suffix = protocol === 'udp' ? '/udp' : '';
  switch (systemCode(error)) {
    case 'EADDRINUSE':
      return new TunnelError('PORT_IN_USE', `cannot listen on ${where}: it is in use by another program`, {
        hint: `choose another local port, or 0 for a free one: 0:service${suffix}`,
        cause: error,
      });
    case 'EACCES':
      return new TunnelError('CANNOT_BIND', `cannot listen on ${where}: not permitted`, {
        hint: `ports below 1024 need privileges; choose one above: ${protocol === 'udp' ? '5353:dns/udp' : '15432:db'}`,
        cause: error,
      });
    default:
      return new TunnelError(
        'CANNOT_BIND',
        `cannot listen on ${where} (${systemCode(error) ?? error.message})`,
        {
          hint: `listen on an address of this machine: ${protocol === 'udp' ? '127.0.0.1:5353:dns/udp' : '127.0.0.1:15432:db'}`,
          cause: error,
        },
      );
  }
}
