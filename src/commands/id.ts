import { BaseCommand } from '../cli/base-command.js';
import { exportKey, importKey, listIdentities } from '../cli/identities.js';
import { Flags } from '../cli/oclif.js';
import { identityPath } from '../cli/paths.js';

export default class Id extends BaseCommand {
  static override summary = "Print this node's ID, making the identity on first use";
  static override description =
    "A key never goes through arguments: --export and --import take a file of mode 0600, or '-' for a pipe.";
  static override examples = [
    '<%= config.bin %> id',
    '<%= config.bin %> id --identity work',
    '<%= config.bin %> id --list',
    '<%= config.bin %> id --export backup.key',
    'ssh old-machine tunnel id --export - | <%= config.bin %> id --import - --identity work',
  ];
  static override flags = {
    list: Flags.boolean({ description: 'list the identities there are', exclusive: ['export', 'import'] }),
    export: Flags.string({
      description: 'write the private key to a new file, or to a pipe',
      helpValue: '<path>|-',
      exclusive: ['import'],
    }),
    import: Flags.string({
      description: 'make the identity of a private key from a file or a pipe',
      helpValue: '<path>|-',
    }),
  };

  async run(): Promise<void> {
    const { flags } = await this.parse(Id);
    const output = this.output(flags);
    if (flags.list) {
      const identities = await listIdentities(this.paths);
      const width = Math.max(...identities.map(({ identity }) => identity.length), 0);
      output.print(
        { event: 'identities', identities },
        identities.length === 0
          ? ['there is no identity yet; tunnel id makes one']
          : identities.map(({ identity, nodeId, error }) => `${identity.padEnd(width)}  ${nodeId ?? error}`),
      );
      return;
    }
    const path = identityPath(this.paths, flags.identity);
    if (flags.export !== undefined) {
      const nodeId = await exportKey(path, { to: flags.export, json: flags.json });
      if (flags.export === '-') return;
      output.print({ event: 'id', nodeId, identity: flags.identity, exported: flags.export }, [
        `the private key of ${nodeId} is in ${flags.export}: whoever has it is you`,
      ]);
      return;
    }
    if (flags.import !== undefined) {
      const nodeId = await importKey(path, flags.import);
      output.print({ event: 'id', nodeId, identity: flags.identity, created: true }, [nodeId]);
      return;
    }
    const { identity, created } = await this.loadIdentity(flags);
    if (created && !flags.json) process.stderr.write(`made the identity '${flags.identity}'\n`);
    output.print({ event: 'id', nodeId: identity.nodeId, identity: flags.identity, created }, [
      identity.nodeId,
    ]);
  }
}
