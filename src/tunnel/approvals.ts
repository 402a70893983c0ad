/**
 * Peers that wait for a person to let them in. Bounded in number, by peer and in time: who asks is a
 * stranger. A decision is about one question as it was shown, so nothing can be slipped in after it.
 */
import { TunnelError } from '../error.js';
import type { ServiceInfo } from '../session/hello.js';
import type { NodeId } from '../session/node-id.js';
import type { ApprovalDecision, Report } from './events.js';
import { LIMITS } from './limits.js';
import type { Held, Presented, RightsSource, ServiceSet } from './policy.js';
import { RateLimit } from './rate-limit.js';
import { formatService } from './spec.js';
import type { Approval } from './status.js';

/** Sessions that wait for the same answer. */
const MAX_SESSIONS = 16;
const TIMEOUT_MS = 5 * 60_000;
/** Who was denied is not asked about again at once. */
const REST_MS = 10_000;
/** Processes that were let in this once, and peers that were denied; the oldest are forgotten. */
const MAX_REMEMBERED = 4096;
const REPORTS_PER_SECOND = 10;
const MAX_SHOWN_SERVICES = 16;

export interface ApprovalsOptions {
  readonly report: Report;
  /** All that this process offers; what a peer asks for that does not say. */
  readonly offered: () => readonly ServiceInfo[];
  readonly timeoutMs?: number;
  readonly maxPending?: number;
}

/** The host of `ip:port`; undefined for a relay's URL. */
function hostOf(from: string): string | undefined {
  return from.includes('://') ? undefined : /^(.*):\d+$/.exec(from)?.[1];
}

export interface Question {
  readonly presented: Presented;
  /** Where it comes from: `ip:port`, or the relay's URL. */
  readonly from: string;
  /** Fires when the peer has gone. */
  readonly signal: AbortSignal;
  /** What other rights say by now: a decision is not needed any more. */
  settled(): 'allowed' | 'denied' | undefined;
}

type Outcome = Exclude<ApprovalDecision, 'pending'>;

interface Waiting {
  readonly question: Question;
  settle(outcome: Outcome): void;
}

interface Pending {
  readonly approval: Approval;
  readonly peer: NodeId;
  /** Undefined for a peer that does not say: everything. */
  readonly wants: readonly ServiceInfo[] | undefined;
  readonly waiting: Set<Waiting>;
  readonly timer: NodeJS.Timeout;
  readonly isReported: boolean;
}

export class Approvals implements RightsSource {
  readonly #options: ApprovalsOptions;
  readonly #pending = new Map<string, Pending>();
  /** What processes were let in for, by peer and process. */
  readonly #once = new Map<string, ReadonlySet<string> | 'all'>();
  /** When peers may ask again; monotonic. */
  readonly #resting = new Map<NodeId, number>();
  readonly #reports = new RateLimit(REPORTS_PER_SECOND);
  #lastId = 0;

  constructor(options: ApprovalsOptions) {
    this.#options = options;
  }

  /** What was allowed once is for the process that asked, as long as this one runs. */
  admit({ peer, instanceId }: Presented): Held {
    const key = `${peer} ${instanceId}`;
    return {
      current: () => {
        const services = this.#once.get(key);
        return services === undefined ? undefined : { services, via: 'approval' };
      },
    };
  }

  /** Those that wait, the longest first. */
  list(): readonly Approval[] {
    return [...this.#pending.values()].map(({ approval }) => approval);
  }

  /** Resolves with what was decided. Throws LIMIT when too many wait, and DENIED where it was denied lately. */
  ask(question: Question): Promise<Outcome> {
    const { peer, wants } = question.presented;
    if ((this.#resting.get(peer) ?? 0) > performance.now())
      throw new TunnelError('DENIED', 'the peer was denied a moment ago');
    const key = JSON.stringify([peer, wants?.map(rightOf).sort()]);
    const pending = this.#pending.get(key) ?? this.#begin(key, question);
    if (pending.waiting.size >= MAX_SESSIONS)
      throw new TunnelError('LIMIT', 'the peer waits for approval in too many sessions');
    return new Promise((resolve) => {
      const { signal } = question;
      const withdraw = () => {
        pending.waiting.delete(waiting);
        if (pending.waiting.size === 0) this.#end(key, pending, 'withdrawn');
        resolve('withdrawn');
      };
      const waiting: Waiting = {
        question,
        settle: (outcome) => {
          signal.removeEventListener('abort', withdraw);
          resolve(outcome);
        },
      };
      pending.waiting.add(waiting);
      signal.addEventListener('abort', withdraw, { once: true });
      if (signal.aborted) withdraw();
    });
  }

  /** Whose question that is, and the rights that allowing it would give. */
  find(id: number): { readonly peer: NodeId; readonly rights: readonly string[] | 'all' } | undefined {
    for (const { approval, peer, wants } of this.#pending.values()) {
      if (approval.id === id) return { peer, rights: wants?.map(rightOf) ?? 'all' };
    }
    return undefined;
  }

  /** Answers the question of that id; false when it does not wait any more. */
  decide(id: number, allowed: boolean): boolean {
    for (const [key, pending] of this.#pending) {
      if (pending.approval.id !== id) continue;
      if (allowed) {
        for (const { question } of pending.waiting) {
          const { peer, instanceId } = question.presented;
          this.#remember(`${peer} ${instanceId}`, pending.wants);
        }
      } else {
        remember(this.#resting, pending.peer, performance.now() + REST_MS);
      }
      this.#end(key, pending, allowed ? 'allowed' : 'denied');
      return true;
    }
    return false;
  }

  /** Other rights have changed: who may come in by them, or may not at all, waits no longer. */
  recheck(): void {
    for (const [key, pending] of [...this.#pending]) {
      for (const waiting of [...pending.waiting]) {
        const settled = waiting.question.settled();
        if (settled === undefined) continue;
        pending.waiting.delete(waiting);
        waiting.settle(settled);
        if (pending.waiting.size === 0) this.#end(key, pending, settled);
      }
    }
  }

  /** Nobody is let in by a question any more. */
  close(): void {
    for (const [key, pending] of [...this.#pending]) this.#end(key, pending, 'withdrawn');
  }

  #begin(key: string, { presented, from }: Question): Pending {
    const { peer, wants } = presented;
    const { maxPending = LIMITS.approvals, timeoutMs = TIMEOUT_MS, offered } = this.#options;
    const pendings = [...this.#pending.values()];
    const ofPeer = pendings.filter((one) => one.peer === peer).length;
    const address = hostOf(from);
    // Behind a relay everybody has its address.
    const ofAddress =
      address === undefined ? 0 : pendings.filter((one) => hostOf(one.approval.from) === address).length;
    if (
      this.#pending.size >= maxPending ||
      ofPeer >= LIMITS.approvalsPerPeer ||
      ofAddress >= LIMITS.approvalsPerAddress
    )
      throw new TunnelError('LIMIT', 'too many wait for approval already; try again later');
    this.#lastId += 1;
    const asks = wants ?? offered();
    const approval: Approval = {
      id: this.#lastId,
      peer,
      services: asks.slice(0, MAX_SHOWN_SERVICES).map(({ name, protocol }) => formatService(name, protocol)),
      everything: wants === undefined,
      more: Math.max(0, asks.length - MAX_SHOWN_SERVICES),
      from,
      since: new Date().toISOString(),
      until: new Date(Date.now() + timeoutMs).toISOString(),
    };
    const pending: Pending = {
      approval,
      peer,
      wants,
      waiting: new Set(),
      timer: setTimeout(() => this.#end(key, pending, 'expired'), timeoutMs),
      isReported: this.#reports.take() !== undefined,
    };
    pending.timer.unref();
    this.#pending.set(key, pending);
    if (pending.isReported) this.#report(approval, 'pending');
    return pending;
  }

  #end(key: string, pending: Pending, outcome: Outcome): void {
    if (!this.#pending.delete(key)) return;
    clearTimeout(pending.timer);
    if (pending.isReported || outcome === 'allowed' || outcome === 'denied')
      this.#report(pending.approval, outcome);
    for (const waiting of pending.waiting) waiting.settle(outcome);
  }

  #remember(key: string, wants: readonly ServiceInfo[] | undefined): void {
    const known = this.#once.get(key);
    const services: ServiceSet =
      wants === undefined || known === 'all' ? 'all' : new Set([...(known ?? []), ...wants.map(rightOf)]);
    remember(this.#once, key, services);
  }

  #report({ id, peer, services, from }: Approval, decision: ApprovalDecision): void {
    this.#options.report({ event: 'approval', id, peer: peer as NodeId, services, decision, from });
  }
}

function remember<K, V>(map: Map<K, V>, key: K, value: V): void {
  map.delete(key);
  map.set(key, value);
  if (map.size <= MAX_REMEMBERED) return;
  for (const oldest of map.keys()) {
    map.delete(oldest);
    break;
  }
}

/** As rights name it: this protocol only. */
function rightOf({ name, protocol }: ServiceInfo): string {
  return `${name}/${protocol}`;
}
