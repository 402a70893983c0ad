/** A relay of one's own: iroh's server, for nodes that find no direct path to each other. */
import { TunnelError } from '../../error.js';
import type { NodeId } from '../node-id.js';
import { loadAddon, type Native, translate } from './iroh-library.js';

export interface RelayServerOptions {
  /** `ip:port` where clients connect: HTTP without `tls`, HTTPS with it. */
  readonly listen: string;
  readonly tls?: CertificateFiles | Acme;
  /** With TLS: `ip:port` for plain HTTP, by which clients notice captive portals. */
  readonly http?: string;
  /** With TLS: `ip:port` (UDP) where nodes learn the address they are seen with. Clients ask port 7842. */
  readonly quic?: string;
  /** `ip:port` for OpenMetrics over HTTP. */
  readonly metrics?: string;
  /** Bytes a second that one client may send. No limit when left out. */
  readonly clientBytesPerSecond?: number;
  /** The only nodes that may use it, with the endpoints they vouch for. Everybody when left out. */
  readonly allowed?: readonly NodeId[];
}

/** PEM files, read again once an hour. */
export interface CertificateFiles {
  readonly certificate: string;
  readonly key: string;
}

/** Certificates by ACME (TLS-ALPN-01: `listen` must be reachable as port 443 of every domain). */
export interface Acme {
  readonly domains: readonly string[];
  /** URL of the directory. */
  readonly directory: string;
  /** Mail addresses. */
  readonly contact: readonly string[];
  /** Where the account and the certificates are kept. */
  readonly folder: string;
  /** PEM certificates that the directory may have beside those of the web's authorities. */
  readonly roots?: string;
}

export type RelayStats = Readonly<Native.RelayStats>;

export interface RelayServer {
  /** `ip:port` as bound. */
  readonly addresses: { readonly listen: string; readonly http?: string; readonly quic?: string };
  stats(): RelayStats;
  /** Replaces the list; undefined lets everybody in. Clients that are not on it are disconnected. */
  setAllowed(allowed: readonly NodeId[] | undefined): void;
  /** Resolves when the relay has ended, with the error where nobody closed it. */
  readonly ended: Promise<TunnelError | undefined>;
  /** Disconnects every client and frees the ports. Idempotent. */
  close(): Promise<void>;
}

/** Throws ENGINE_UNAVAILABLE, PORT_IN_USE, CANNOT_BIND or BAD_CERTIFICATE. */
export async function startRelay(options: RelayServerOptions): Promise<RelayServer> {
  const native = await loadAddon();
  let end!: (error: TunnelError | undefined) => void;
  const ended = new Promise<TunnelError | undefined>((resolve) => {
    end = resolve;
  });
  const onEvents = (batch: unknown[]) => {
    for (let i = 0; i < batch.length; i += 4) {
      if (batch[i] !== native.EventKind.RELAY_ENDED) continue;
      end(new TunnelError('INTERNAL', `the relay ended: ${batch[i + 2] as string}`));
    }
  };
  let server: Native.RelayServer;
  try {
    server = await native.RelayServer.start({
      listen: options.listen,
      ...tlsOptions(options.tls),
      http: options.http ?? '',
      quic: options.quic ?? '',
      metrics: options.metrics ?? '',
      clientRate: options.clientBytesPerSecond ?? 0,
      allowed: options.allowed ? [...options.allowed] : null,
      onEvents,
    });
  } catch (error) {
    const translated = translate(error, 'CANNOT_BIND');
    if (translated.code !== 'BAD_CERTIFICATE') throw translated;
    throw new TunnelError(
      'BAD_CERTIFICATE',
      `the relay's certificate cannot be used: ${translated.message}`,
      {
        hint: 'it takes a certificate and its key in PEM, as an ACME client writes them',
        cause: error,
      },
    );
  }
  return {
    addresses: server.addresses(),
    stats: () => server.stats(),
    setAllowed: (allowed) => server.setAllowed(allowed ? [...allowed] : null),
    ended,
    async close() {
      await server.close();
      end(undefined);
    },
  };
}

function tlsOptions(tls: CertificateFiles | Acme | undefined): Pick<Native.RelayOptions, 'tls'> {
  if (tls === undefined) return { tls: 'none' };
  if ('certificate' in tls) return { tls: 'files', ...tls };
  const acme = {
    acmeDomains: [...tls.domains],
    acmeContact: tls.contact.map((address) => `mailto:${address}`),
    acmeFolder: tls.folder,
    acmeDirectory: tls.directory,
    acmeRoots: tls.roots ?? '',
  };
  return { tls: 'acme', ...acme };
}
