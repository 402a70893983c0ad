/**
 * What is used of the command framework. Its index loads half as many modules again, `semver` among them,
 * at every start and for nothing.
 */
export * as Args from '@oclif/core/args';
export { Command } from '@oclif/core/command';
export * as Errors from '@oclif/core/errors';
export * as Flags from '@oclif/core/flags';
export { flush } from '@oclif/core/flush';
export { run } from '@oclif/core/run';
