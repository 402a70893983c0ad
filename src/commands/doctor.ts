import { BaseCommand } from '../cli/base-command.js';
import {
  type Check,
  checkJson,
  checkLines,
  doctorExitCode,
  failed,
  summaryLine,
} from '../cli/doctor/check.js';
import { parseLocalPort } from '../cli/doctor/system.js';
import { parseDuration } from '../cli/duration.js';
import { EXIT_OK } from '../cli/exit-codes.js';
import { dialFlags } from '../cli/network-flags.js';
import { Flags } from '../cli/oclif.js';
import { identityPath } from '../cli/paths.js';
import { PEER_ARGUMENT, peersFile, resolvePeer } from '../cli/peer-names.js';
import { listenForShutdown } from '../cli/shutdown.js';
import { Spinner } from '../cli/spinner.js';
import { readIdentity } from '../session/identity.js';

export default class DoctorCommand extends BaseCommand {
  static override summary = 'Check this machine and its network, and say what to mend';
  static override description =
    "One line for each thing: ok, problem and its fix, or skipped. Changes nothing, and waits five seconds for the internet at most; that there is none is a problem only for a relay that was asked for.\nWith --peer it goes on to the peer and says where it stops.\nEnds with 0 without a problem, else as the first one: 78 a file or a setting, 71 the system, 73 a local port, 69 the network or the peer, 76 the peer's version, 77 denied by the peer.";
  static override examples = [
    '<%= config.bin %> doctor',
    '<%= config.bin %> doctor --peer alice',
    '<%= config.bin %> doctor --port 15432 --relay https://relay.example.org --json',
  ];
  static override flags = {
    ...dialFlags,
    peer: Flags.string({ description: `go on to this peer: ${PEER_ARGUMENT}`, helpValue: '<peer>' }),
    port: Flags.string({
      description: 'check that this local port can be listened on (repeatable)',
      multiple: true,
      multipleNonGreedy: true,
      helpValue: '[<ip>:]<port>[/udp]',
    }),
    timeout: Flags.string({
      description: 'how long to try to reach the peer',
      default: '10s',
      helpValue: '<time>',
    }),
  };

  async run(): Promise<void> {
    const { flags } = await this.parse(DoctorCommand);
    const output = this.output(flags);
    const timeoutMs = parseDuration(flags.timeout, '--timeout', 1);
    const ports = (flags.port ?? []).map(parseLocalPort);
    const shutdown = listenForShutdown();
    const stopped = shutdown.requested.then((code) => ({ code }));
    const spinner = new Spinner();
    const waitFor = (what: string) => {
      if (!flags.json) spinner.start(what);
    };
    const done: Check[] = [];
    const tell = (check: Check) => {
      done.push(check);
      spinner.interrupted(() => output.print(checkJson(check), checkLines(check)));
    };
    const work = async () => {
      // What is wrong with it is a line of its own.
      const identity = await readIdentity(identityPath(this.paths, flags.identity)).catch(() => undefined);
      waitFor('looking at this machine and its network');
      // Loaded only here: it needs the engines, and all commands are loaded to find one.
      const { startLocalChecks } = await import('../cli/doctor/local.js');
      const local = await startLocalChecks({
        paths: this.paths,
        identityName: flags.identity,
        identity,
        flags,
        ports,
      });
      try {
        for (const check of local.checks) for (const one of await check) tell(one);
        const { peer } = flags;
        if (peer === undefined) return;
        const { peerChecks } = await import('../cli/doctor/peer.js');
        const own = identity ?? (await this.loadIdentity(flags).catch((error: unknown) => ({ error })));
        if ('error' in own) return tell(failed('peer-id', own.error));
        const checks = peerChecks({
          resolve: () => resolvePeer(peer, peersFile(this.paths)),
          identity: 'identity' in own ? own.identity : own,
          flags,
          nearby: local.nearby,
          timeoutMs,
          onPhase: waitFor,
        });
        for await (const check of checks) tell(check);
      } finally {
        await local.close();
      }
    };
    let code: number;
    try {
      const end = await Promise.race([work(), stopped]);
      code = end ? end.code : doctorExitCode(done);
    } finally {
      spinner.stop();
      shutdown.dispose();
    }
    if (!flags.json) process.stdout.write(`${summaryLine(done)}\n`);
    if (code !== EXIT_OK) this.exit(code);
  }
}
