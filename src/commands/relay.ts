import { join } from 'node:path';
import { BaseCommand } from '../cli/base-command.js';
import { Flags } from '../cli/oclif.js';
import { allowedNodes, relayOptions, relayUrl } from '../cli/relay-options.js';
import { serve } from '../cli/serve.js';
import { listenForShutdown } from '../cli/shutdown.js';
import { toTunnelError } from '../error.js';

export default class RelayCommand extends BaseCommand {
  static override summary = 'Run a relay of your own, for peers that find no direct path';
  static override description =
    'A relay passes on what it cannot read. Without a certificate it speaks plain HTTP: for tests, and behind a reverse proxy.\nSIGHUP reads the file of --allow-file again.';
  static override examples = [
    '<%= config.bin %> relay --acme relay.example.org --acme-email admin@example.org',
    '<%= config.bin %> relay --cert fullchain.pem --key privkey.pem --allow <node-id>',
    '<%= config.bin %> relay --listen 127.0.0.1:3340',
  ];
  static override flags = {
    listen: Flags.string({
      description: 'where peers connect (TCP); without a certificate 0.0.0.0:3340, with one 0.0.0.0:443',
      helpValue: '<ip:port>',
    }),
    cert: Flags.string({
      description: 'serve HTTPS with this certificate (PEM); renewed files are noticed within the hour',
      helpValue: '<file>',
      dependsOn: ['key'],
      exclusive: ['acme'],
    }),
    key: Flags.string({
      description: 'the key of the certificate (PEM)',
      helpValue: '<file>',
      dependsOn: ['cert'],
    }),
    acme: Flags.string({
      description:
        "serve HTTPS for this domain with a certificate by ACME, Let's Encrypt's unless told otherwise (repeatable)",
      helpValue: '<domain>',
      multiple: true,
      multipleNonGreedy: true,
    }),
    'acme-email': Flags.string({
      description: 'whom the authority may write to',
      helpValue: '<address>',
      dependsOn: ['acme'],
    }),
    'acme-directory': Flags.string({
      description: 'the ACME directory of another authority',
      helpValue: '<url>',
      dependsOn: ['acme'],
    }),
    allow: Flags.string({
      description: 'let in this node, and whom it vouches for, and nobody else (repeatable)',
      helpValue: '<peer>',
      multiple: true,
      multipleNonGreedy: true,
    }),
    'allow-file': Flags.string({
      description: 'let in the nodes of this file, one a line',
      helpValue: '<file>',
    }),
    rate: Flags.string({
      description: 'how many bytes a second one peer may send: 500k, 10M',
      helpValue: '<bytes/s>',
    }),
    quic: Flags.string({
      description: 'where peers learn their address (UDP); port 7842 of the address of --listen',
      helpValue: '<ip:port>',
    }),
    http: Flags.string({
      description: 'with a certificate: also answer checks for captive portals here',
      helpValue: '<ip:port>',
    }),
    metrics: Flags.string({ description: 'OpenMetrics over HTTP', helpValue: '<ip:port>' }),
  };

  async run(): Promise<void> {
    const { flags } = await this.parse(RelayCommand);
    const output = this.output(flags);
    const options = await relayOptions(flags, join(this.paths.state, 'acme'));
    const listed = () => allowedNodes(flags.allow, flags['allow-file']);
    const allowed = await listed();
    const shutdown = listenForShutdown();
    let code: number;
    try {
      const { startRelay } = await import('../session/engines/iroh-relay.js');
      const relay = await startRelay({ ...options, ...(allowed ? { allowed } : {}) });
      const onHangup = () => {
        listed().then(
          (nodes) => relay.setAllowed(nodes),
          (error: unknown) => {
            const { code, message } = toTunnelError(error);
            output.report({ event: 'error', code, message: `${message}; the list stays as it was` });
          },
        );
      };
      process.on('SIGHUP', onHangup);
      const { listen, quic } = relay.addresses;
      const url = await relayUrl(flags, listen);
      output.print({ event: 'ready', url, listen, ...(quic ? { quic } : {}), pid: process.pid }, [
        `relay     ${url}`,
        `listens   ${listen}${quic ? `, ${quic} (UDP, address discovery)` : ''}`,
        `lets in   ${allowed ? `${allowed.length} node${allowed.length === 1 ? '' : 's'}, and whom they vouch for` : 'everybody'}`,
        '',
        'On the other machines:',
        '',
        `  tunnel expose … --relay ${url}`,
        `  tunnel forward … --relay ${url}`,
        '',
      ]);
      try {
        code = await serve({ ended: relay.ended, close: () => relay.close() }, shutdown);
      } finally {
        process.off('SIGHUP', onHangup);
      }
    } finally {
      shutdown.dispose();
    }
    this.exit(code);
  }
}
