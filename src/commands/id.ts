import { BaseCommand } from '../cli/base-command.js';

export default class Id extends BaseCommand {
  static override summary = "Print this node's ID, making the identity on first use";
  static override examples = ['<%= config.bin %> id', '<%= config.bin %> id --identity work'];

  async run(): Promise<void> {
    const { flags } = await this.parse(Id);
    const output = this.output(flags);
    const { identity, created } = await this.loadIdentity(flags);
    if (created && !flags.json) process.stderr.write(`made the identity '${flags.identity}'\n`);
    output.print({ event: 'id', nodeId: identity.nodeId, identity: flags.identity, created }, [
      identity.nodeId,
    ]);
  }
}
