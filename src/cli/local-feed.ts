/** The feed and the actions of a process that shows itself. */
import type { ChannelQuery, Decision, StatusActions, StatusFeed, StatusSnapshot } from '../tunnel/status.js';
import { EVERY_CHANNEL, type StatusModel } from '../tunnel/status-model.js';

export class LocalFeed implements StatusFeed {
  readonly #model: StatusModel;
  #query: ChannelQuery = { ...EVERY_CHANNEL, limit: 0 };
  #current: readonly StatusSnapshot[];

  constructor(model: StatusModel) {
    this.#model = model;
    // What has happened before anyone looked is seen at once.
    model.sample();
    this.#current = [model.snapshot(this.#query)];
  }

  current(): readonly StatusSnapshot[] {
    return this.#current;
  }

  subscribe(listener: () => void): () => void {
    return this.#model.subscribe(() => {
      this.#current = [this.#model.snapshot(this.#query)];
      listener();
    });
  }

  ask(query: ChannelQuery): void {
    this.#query = query;
    this.#model.hasten();
  }
}

/** `decide` is missing where nobody is ever asked. */
export function localActions(
  model: StatusModel,
  decide?: (decision: Decision) => Promise<boolean>,
): StatusActions {
  return {
    resetChannel: async (_pid, id) => model.resetChannel(id),
    decide: async (_pid, decision) => decide?.(decision) ?? false,
  };
}
