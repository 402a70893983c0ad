/** Who is let in: by a right, or by a person who is asked. */
import { TunnelError } from '../error.js';
import type { ServiceInfo } from '../session/hello.js';
import { Approvals } from './approvals.js';
import type { Report } from './events.js';
import { type Grant, Policy, type Presented, type RightsSource } from './policy.js';
import type { Service } from './spec.js';

export interface AdmissionOptions {
  readonly services: readonly Service[];
  readonly rights: readonly RightsSource[];
  readonly report: Report;
  /** Peers without a right wait for a person to decide; otherwise they are denied. */
  readonly ask?: boolean | undefined;
  /** How long they wait, milliseconds. */
  readonly approvalTimeoutMs?: number | undefined;
}

export class Admission {
  readonly policy: Policy;
  readonly approvals: Approvals | undefined;
  #closed = false;

  constructor({ services, rights, report, ask, approvalTimeoutMs: timeoutMs }: AdmissionOptions) {
    const offered = () => this.policy.offered;
    this.approvals = ask
      ? new Approvals({ report, offered, ...(timeoutMs === undefined ? {} : { timeoutMs }) })
      : undefined;
    this.policy = new Policy(services, [...rights, ...(this.approvals ? [this.approvals] : [])]);
  }

  /**
   * Undefined denies. `wait` is called when it takes longer, and answers what fires when the peer has
   * gone. Throws LIMIT, TIMEOUT where nobody decided, SHUTDOWN, and UNAVAILABLE where what the peer takes
   * by coming cannot be written down.
   */
  async admit(presented: Presented, from: string, wait: () => AbortSignal): Promise<Grant | undefined> {
    const { policy, approvals } = this;
    const { peer, wants } = presented;
    await policy.prepare(presented);
    const claim = policy.claim(presented);
    if (!claim) return undefined;
    const isMissing = (service: ServiceInfo) =>
      !policy.covers(claim, service) && !policy.isDenied(peer, service);
    // A right to something else than what it wants does not help a peer: that is asked for too.
    const isSettled = () => (wants ? !wants.some(isMissing) : policy.isAlive(claim));
    let isLate = false;
    if (approvals && !isSettled()) {
      const outcome = await approvals.ask({
        presented,
        from,
        signal: wait(),
        settled: () => {
          if (!isSettled() && !policy.isDenied(peer)) return undefined;
          return policy.isAlive(claim) ? 'allowed' : 'denied';
        },
      });
      isLate = outcome === 'expired';
    }
    if (this.#closed) throw new TunnelError('SHUTDOWN', 'the peer is shutting down');
    if (policy.isAlive(claim)) return claim;
    if (isLate) throw new TunnelError('TIMEOUT', 'nobody there decided about it in time');
    return undefined;
  }

  close(): void {
    this.#closed = true;
    this.approvals?.close();
  }
}
