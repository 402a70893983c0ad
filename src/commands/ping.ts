import { BaseCommand } from '../cli/base-command.js';
import { type DialledOnce, dialOnce } from '../cli/dial-once.js';
import { parseDuration } from '../cli/duration.js';
import { parseCount } from '../cli/figures.js';
import { dialFlags } from '../cli/network-flags.js';
import { Args, Flags } from '../cli/oclif.js';
import type { Output } from '../cli/output.js';
import { PEER_ARGUMENT, peersFile, resolvePeer } from '../cli/peer-names.js';
import { listenForShutdown } from '../cli/shutdown.js';
import { TunnelError } from '../error.js';
import { shortNodeId } from '../session/node-id.js';
import { type PingSummary, pingPeer } from '../tunnel/ping.js';
import { relayedBecause } from '../tunnel/relayed.js';

const LEAST_INTERVAL_MS = 10;

export default class PingCommand extends BaseCommand {
  static override summary = 'Measure round trips to a peer, and see which path they take';
  static override description =
    "Asks the peer's program until an answer comes on a direct path, ten times at most; with --count that often.\nTimes are from program to program, so a little more than the network's own.";
  static override examples = [
    '<%= config.bin %> ping <node-id>',
    '<%= config.bin %> ping alice --count 100 --interval 200ms --json',
  ];
  static override args = { peer: Args.string({ description: PEER_ARGUMENT, required: true }) };
  static override flags = {
    ...dialFlags,
    count: Flags.string({ char: 'c', description: 'send so many, direct or not', helpValue: '<number>' }),
    interval: Flags.string({
      char: 'i',
      description: 'from one to the next',
      default: '1s',
      helpValue: '<time>',
    }),
    timeout: Flags.string({
      description: 'how long to try to connect, and how long to wait for each answer',
      default: '10s',
      helpValue: '<time>',
    }),
  };

  async run(): Promise<void> {
    const { flags, args } = await this.parse(PingCommand);
    const output = this.output(flags);
    const count = flags.count === undefined ? undefined : parseCount(flags.count, '--count');
    const intervalMs = parseDuration(flags.interval, '--interval', LEAST_INTERVAL_MS);
    const timeoutMs = parseDuration(flags.timeout, '--timeout', 1);
    const ticket = await resolvePeer(args.peer, peersFile(this.paths));
    const { identity } = await this.loadIdentity(flags);
    const shutdown = listenForShutdown();
    const label = shortNodeId(ticket.nodeId);
    let dialled: DialledOnce | undefined;
    try {
      dialled = await dialOnce({ identity, ticket, flags, timeoutMs, shutdown });
      const summary = await pingPeer(dialled.session, {
        count,
        intervalMs,
        timeoutMs,
        signal: shutdown.signal,
        onPing: ({ seq, path, remote, rttMs }) =>
          output.print({ event: 'ping', seq, path, remote, rttMs }, [
            `${seq}: ${rttMs} ms over ${path}, ${remote}`,
          ]),
        onLost: (seq) =>
          output.report({
            event: 'error',
            code: 'TIMEOUT',
            message: `no answer to ping ${seq} from ${label} within ${timeoutMs / 1000} s`,
          }),
      });
      printSummary(output, summary);
      if (summary.received > 0 && !summary.direct) {
        const { reason, message, hint } = await relayedBecause(dialled.session, dialled.ways.facts);
        const peer = ticket.nodeId;
        output.report({
          event: 'notice',
          code: 'relayed',
          peer,
          reason,
          message: `still through a relay: ${message}`,
          hint,
        });
      }
      if (shutdown.code === undefined) throwUnanswered(summary, label);
    } catch (error) {
      // What a signal cut short is not a failure.
      if (shutdown.code === undefined) throw error;
      if (!dialled) printSummary(output, NOTHING_SENT);
    } finally {
      await dialled?.close();
      shutdown.dispose();
    }
    if (shutdown.code !== undefined) this.exit(shutdown.code);
  }
}

const NOTHING_SENT: PingSummary = {
  sent: 0,
  received: 0,
  direct: false,
  rttMs: undefined,
  error: undefined,
};

function printSummary(output: Output, { sent, received, direct, rttMs }: PingSummary): void {
  const how = received === 0 ? '' : direct ? ', direct' : ', through a relay';
  const times = rttMs ? `; round trip ${rttMs.min} / ${rttMs.p50} / ${rttMs.max} ms (min, p50, max)` : '';
  output.print({ event: 'summary', sent, received, direct, ...(rttMs ? { rttMs } : {}) }, [
    `${sent} sent, ${received} received${how}${times}`,
  ]);
}

/** Throws what ended it early, and UNREACHABLE where nothing came back at all. */
function throwUnanswered({ error, received }: PingSummary, label: string): void {
  if (error) throw error;
  if (received > 0) return;
  throw new TunnelError('UNREACHABLE', `${label} let this side in, and then answered nothing`, {
    hint: 'its program hangs, or the path broke at once: try again, with a longer --timeout',
  });
}
