/** Counters by service: of the flows that have ended, those that are open, and what belonged to no flow. */
import type { Flow } from './flow.js';
import { FlowCounters } from './flow-counters.js';

export interface ServiceTotal {
  readonly service: string;
  /** Flows since the start. */
  flows: number;
  readonly counters: FlowCounters;
}

export class ServiceTotals {
  readonly #ended = new Map<string, ServiceTotal>();

  /** What to count for a service outside any flow. */
  of(service: string): ServiceTotal {
    const known = this.#ended.get(service);
    if (known) return known;
    const total = { service, flows: 0, counters: new FlowCounters() };
    this.#ended.set(service, total);
    return total;
  }

  /** To be called once, when the flow has ended. */
  add(flow: Flow): void {
    const total = this.of(flow.service);
    total.flows += 1;
    total.counters.add(flow.counters);
  }

  /** With those flows that are still open. */
  snapshot(open: Iterable<Flow>): readonly ServiceTotal[] {
    const all = new ServiceTotals();
    for (const { service, flows, counters } of this.#ended.values()) {
      const total = all.of(service);
      total.flows += flows;
      total.counters.add(counters);
    }
    for (const flow of open) all.add(flow);
    return [...all.#ended.values()];
  }
}
