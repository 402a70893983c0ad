import { BaseCommand } from '../cli/base-command.js';
import { type DialledOnce, dialOnce } from '../cli/dial-once.js';
import { parseDuration } from '../cli/duration.js';
import { parseBitRate } from '../cli/figures.js';
import { dialFlags } from '../cli/network-flags.js';
import { Args, Flags } from '../cli/oclif.js';
import { PEER_ARGUMENT, peersFile, resolvePeer } from '../cli/peer-names.js';
import { listenForShutdown } from '../cli/shutdown.js';
import { SpeedProgress, speedEvent, speedLines } from '../cli/speed-report.js';
import { TunnelError } from '../error.js';
import { MAX_BITS_PER_SECOND, MAX_DURATION_MS } from '../tunnel/speed-messages.js';

const LEAST_DURATION_MS = 500;

export default class SpeedCommand extends BaseCommand {
  static override summary = 'Measure how fast a peer can be reached, and what load does to round trips';
  static override description =
    "Measures both ways, one after the other, over what a connection through the tunnel uses; with --udp over datagrams.\nThe peer allows it with: tunnel expose … --allow-speed <peer>. One's own identity always may.";
  static override examples = [
    '<%= config.bin %> speed alice',
    '<%= config.bin %> speed alice --udp --rate 50M --duration 10s',
  ];
  static override args = { peer: Args.string({ description: PEER_ARGUMENT, required: true }) };
  static override flags = {
    ...dialFlags,
    udp: Flags.boolean({ description: 'send datagrams at a rate, and count what arrives' }),
    rate: Flags.string({
      description: 'bits a second each way, of --udp',
      default: '10M',
      helpValue: '<rate>',
    }),
    duration: Flags.string({
      char: 'd',
      description: `how long each way, ${MAX_DURATION_MS / 1000}s at most`,
      default: '5s',
      helpValue: '<time>',
    }),
    timeout: Flags.string({
      description: 'how long to try to connect',
      default: '10s',
      helpValue: '<time>',
    }),
  };

  async run(): Promise<void> {
    const { flags, args } = await this.parse(SpeedCommand);
    const output = this.output(flags);
    const durationMs = parseDuration(flags.duration, '--duration', LEAST_DURATION_MS);
    if (durationMs > MAX_DURATION_MS) {
      throw new TunnelError('USAGE', `'${flags.duration}' is too long for --duration`, {
        hint: `at most ${MAX_DURATION_MS / 1000}s each way`,
      });
    }
    const bitsPerSecond = parseBitRate(flags.rate, '--rate', MAX_BITS_PER_SECOND);
    const timeoutMs = parseDuration(flags.timeout, '--timeout', 1);
    const ticket = await resolvePeer(args.peer, peersFile(this.paths));
    const { identity } = await this.loadIdentity(flags);
    const shutdown = listenForShutdown();
    const progress = new SpeedProgress(flags.json ? (event) => output.print(event, []) : undefined);
    let dialled: DialledOnce | undefined;
    try {
      dialled = await dialOnce({ identity, ticket, flags, timeoutMs, shutdown });
      progress.start();
      const { measureSpeed } = await import('../tunnel/speed.js');
      const measured = await measureSpeed(dialled.session, {
        durationMs,
        ...(flags.udp ? { bitsPerSecond } : {}),
        onProgress: (step) => progress.show(step),
        signal: shutdown.signal,
      });
      progress.stop();
      output.print(speedEvent(measured), speedLines(measured));
    } catch (error) {
      if (shutdown.code === undefined) throw error;
    } finally {
      progress.stop();
      await dialled?.close();
      shutdown.dispose();
    }
    if (shutdown.code !== undefined) this.exit(shutdown.code);
  }
}
