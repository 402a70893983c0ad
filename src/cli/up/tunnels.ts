/** What a config file runs, in one process: at most one expose, and a forward for each peer. */
import { isDeepStrictEqual } from 'node:util';
import { TunnelError, toTunnelError } from '../../error.js';
import { DetachedChannels } from '../../session/detached.js';
import type { NodeId } from '../../session/node-id.js';
import { OpenedChannels } from '../../session/opened-channels.js';
import { Descriptors } from '../../tunnel/descriptors.js';
import { errorEvent } from '../../tunnel/events.js';
import type { Listening } from '../../tunnel/forward.js';
import { type ForwardSpec, isSameSpec, type Service } from '../../tunnel/spec.js';
import type { StatusSource } from '../../tunnel/status.js';
import type { ExposePlan } from '../expose-plan.js';
import {
  type ExposeContext,
  ExposeService,
  fixedDifferences,
  offeredServices,
  withFixedOf,
} from '../expose-service.js';
import { type ForwardContext, type ForwardPlan, ForwardService, isSameLink } from '../forward-service.js';
import type { ForegroundService } from '../serve.js';
import { DRAIN_MS } from '../shutdown.js';
import { type Changes, changesOf, type Plans } from './changes.js';
import { Sources } from './sources.js';

/** Whoever denies may think better of it, and then nobody here should have to do anything. */
const RETRY_DENIED_MS = 60_000;

interface RunningExpose {
  readonly service: ExposeService;
  plan: ExposePlan;
}

interface RunningForward {
  readonly service: ForwardService;
  /** Of its specs those that could be bound. */
  plan: ForwardPlan;
}

interface PeerChannels {
  readonly channels: OpenedChannels;
  readonly resumeTimeoutMs: number;
}

export type TunnelsContext = ExposeContext & Pick<ForwardContext, 'peersFile'>;

export interface Followed extends Changes {
  /** Keys of the expose that say something else now, which counts only after a restart. */
  readonly restart: readonly string[];
  /** What is offered, or to whom, is not as it was. */
  readonly isOfferNew: boolean;
}

export class Tunnels implements ForegroundService {
  readonly #context: TunnelsContext;
  readonly #sources = new Sources();
  readonly #detached = new DetachedChannels();
  readonly #descriptors = new Descriptors();
  /** Of every peer there was: a process numbers its channels to a peer once. */
  readonly #channels = new Map<NodeId, PeerChannels>();
  readonly #forwards = new Map<NodeId, RunningForward>();
  /** What accepts nothing any more, until its connections are over. */
  readonly #leaving = new Set<Promise<void>>();
  /** Ends all waiting for connections. */
  readonly #atOnce = new AbortController();
  #expose: RunningExpose | undefined;
  /** Resolves when the one before has given everything back. */
  #exposeGone: Promise<void> = Promise.resolve();
  #links = 0;
  #closing = false;
  #end: (error: TunnelError) => void = () => undefined;
  /** Resolves when everything has ended by itself, with the error of what ended last. */
  readonly ended: Promise<TunnelError | undefined>;
  readonly source: StatusSource = this.#sources;

  private constructor(context: TunnelsContext) {
    this.#context = context;
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
  }

  /** All of it, or nothing: throws what keeps any of it from starting. */
  static async start(plans: Plans, context: TunnelsContext): Promise<Tunnels> {
    const tunnels = new Tunnels(context);
    try {
      if (plans.expose) await tunnels.#startExpose(plans.expose);
      for (const plan of plans.forwards) await tunnels.#startForward(plan);
    } catch (error) {
      await tunnels.close(0);
      throw error;
    }
    return tunnels;
  }

  get expose(): ExposeService | undefined {
    return this.#expose?.service;
  }

  /**
   * Runs these from now on. What is the same goes on untouched; what is gone stops accepting, and its
   * connections end as at the end of the process. What cannot be started is reported, and tried again the
   * next time.
   */
  async follow(plans: Plans): Promise<Followed> {
    const before = this.#plans();
    const [wanted, isTimeoutLeft] = this.#withKnownTimeouts(plans.forwards);
    const ending = new Map<NodeId, Promise<void>>();
    // What goes before what comes: a port may move from one to the other.
    for (const [peer, running] of [...this.#forwards]) {
      const plan = wanted.get(peer);
      if (!plan || !isSameLink(running.plan, plan)) ending.set(peer, (await this.#leave(peer, running)).gone);
      else await this.#listen(running, { ...running.plan, specs: common(running.plan.specs, plan.specs) });
    }
    const restart = await this.#attempt(() => this.#followExpose(plans.expose));
    for (const [peer, plan] of wanted) {
      const running = this.#forwards.get(peer);
      if (running) await this.#listen(running, plan);
      else await this.#attempt(() => this.#startForward(plan, ending.get(peer)));
    }
    const after = this.#plans();
    return {
      ...changesOf(before, after, this.#context.label),
      restart: [...(restart ?? []), ...(isTimeoutLeft ? ['forward.resume-timeout'] : [])],
      isOfferNew: after.expose !== undefined && !isDeepStrictEqual(before.expose, after.expose),
    };
  }

  /** Takes no new connections, waits up to `drainMs` for the open ones, then resets what is left. */
  async close(drainMs: number, signal?: AbortSignal): Promise<void> {
    this.#closing = true;
    const end = () => this.#atOnce.abort();
    if (signal?.aborted) end();
    signal?.addEventListener('abort', end, { once: true });
    const services = [
      ...(this.#expose ? [this.#expose.service] : []),
      ...[...this.#forwards.values()].map(({ service }) => service),
    ];
    await Promise.all([
      ...services.map((service) => service.close(drainMs, this.#atOnce.signal)),
      ...this.#leaving,
    ]);
    signal?.removeEventListener('abort', end);
  }

  #plans(): Plans {
    return { expose: this.#expose?.plan, forwards: [...this.#forwards.values()].map(({ plan }) => plan) };
  }

  // ---- the expose

  async #startExpose(plan: ExposePlan): Promise<void> {
    // It has the lock on the identity, and its port.
    await this.#exposeGone;
    const service = await ExposeService.start(plan, this.#context);
    this.#expose = { service, plan };
    this.#sources.add(service.source);
    this.#context.observation.tunnels.offer(offeredServices(plan.services));
  }

  /** Answers the keys that differ and stay as they were. */
  async #followExpose(plan: ExposePlan | undefined): Promise<readonly string[]> {
    const running = this.#expose;
    if (!running) {
      if (plan) await this.#startExpose(plan);
      return [];
    }
    if (!plan) {
      this.#leaveExpose(running);
      return [];
    }
    const restart = fixedDifferences(running.plan, plan).map((key) => `expose.${key}`);
    const next = withFixedOf(running.plan, plan);
    if (isDeepStrictEqual(next, running.plan)) return restart;
    const { removed, drained } = await running.service.follow(next, this.#drain);
    running.plan = next;
    const { tunnels } = this.#context.observation;
    tunnels.offer(offeredServices(next.services));
    this.#track(
      drained.then(() => {
        // One that has come back meanwhile is there to stay.
        tunnels.withdraw(removed.filter((one) => !this.#isOffered(one)));
      }),
    );
    return restart;
  }

  #leaveExpose({ service, plan }: RunningExpose): void {
    this.#expose = undefined;
    this.#exposeGone = this.#track(
      service.close(DRAIN_MS, this.#atOnce.signal).then(() => {
        this.#sources.delete(service.source);
        this.#context.observation.tunnels.withdraw(offeredServices(plan.services));
      }),
    );
  }

  #isOffered({ name, protocol }: { readonly name: string; readonly protocol: string }): boolean {
    const services: readonly Service[] = this.#expose?.plan.services ?? [];
    return services.some((service) => service.name === name && service.target.protocol === protocol);
  }

  // ---- the forwards

  /** `after`: is not to dial before that. */
  async #startForward(plan: ForwardPlan, after?: Promise<void>): Promise<void> {
    const { identity, observation, peersFile } = this.#context;
    const { nodeId } = plan.peer;
    const { resumeTimeoutMs } = plan;
    const known = this.#channels.get(nodeId) ?? {
      resumeTimeoutMs,
      channels: new OpenedChannels({ detached: this.#detached, resumeTimeoutMs }),
    };
    this.#channels.set(nodeId, known);
    this.#links += 1;
    const service = await ForwardService.start(plan, {
      identity,
      peersFile,
      observation: { ...observation, report: observation.reportOf(`forward ${this.#links}`) },
      among: {
        retryDeniedMs: RETRY_DENIED_MS,
        after,
        shared: { channels: known.channels, descriptors: this.#descriptors },
      },
    });
    this.#forwards.set(nodeId, { service, plan });
    this.#sources.add(service.source);
    void service.ended.then((error) => this.#onEnded(nodeId, service, error));
  }

  /** By peer. How long its channels wait for a session stays as it was. Answers whether the plans say otherwise. */
  #withKnownTimeouts(plans: readonly ForwardPlan[]): readonly [ReadonlyMap<NodeId, ForwardPlan>, boolean] {
    let isLeft = false;
    const wanted = plans.map((plan): [NodeId, ForwardPlan] => {
      const { nodeId } = plan.peer;
      const { resumeTimeoutMs = plan.resumeTimeoutMs } = this.#channels.get(nodeId) ?? {};
      isLeft ||= resumeTimeoutMs !== plan.resumeTimeoutMs;
      return [nodeId, { ...plan, resumeTimeoutMs }];
    });
    return [new Map(wanted), isLeft];
  }

  /** Listens where the plan says, and no longer elsewhere. */
  async #listen(running: RunningForward, plan: ForwardPlan): Promise<void> {
    const { service } = running;
    const { removed, failed, drained } = await service.follow(plan, this.#drain);
    for (const { error } of failed) this.#context.observation.report(errorEvent(error));
    const left = failed.map(({ spec }) => spec);
    running.plan = { ...plan, specs: plan.specs.filter((spec) => !left.includes(spec)) };
    this.#track(drained.then(() => this.#unlist(removed, plan.peer.nodeId)));
  }

  /** Frees its ports at once. `gone` resolves when nothing of it is left. */
  async #leave(peer: NodeId, running: RunningForward): Promise<{ readonly gone: Promise<void> }> {
    const { service } = running;
    this.#forwards.delete(peer);
    const { removed, drained } = await service.follow({ ...running.plan, specs: [] }, this.#drain);
    const gone = drained
      .then(() => service.close(0, this.#atOnce.signal))
      .then(() => {
        this.#sources.delete(service.source);
        this.#unlist(removed, peer);
      });
    return { gone: this.#track(gone) };
  }

  /** One that ends must not end the others. */
  async #onEnded(peer: NodeId, service: ForwardService, error: TunnelError | undefined): Promise<void> {
    if (this.#closing || !error || this.#forwards.get(peer)?.service !== service) return;
    const { label, observation } = this.#context;
    this.#forwards.delete(peer);
    const { listening } = service;
    const reason = new TunnelError(error.code, `the forward to ${label(peer)} has ended: ${error.message}`, {
      hint: 'SIGHUP, or a change of the config file, starts it again',
      cause: error,
    });
    observation.report(errorEvent(reason));
    await service.close(0);
    this.#sources.delete(service.source);
    this.#unlist(listening, peer);
    if (!this.#expose && this.#forwards.size === 0) this.#end(error);
  }

  /** Shows them no longer, but for those that are there again. */
  #unlist(removed: readonly Listening[], peer: NodeId): void {
    const now = [...this.#forwards.values()].flatMap(({ service }) => service.listening);
    for (const { spec, local } of removed) {
      if (now.some((one) => one.local === local && one.spec.protocol === spec.protocol)) continue;
      this.#context.observation.tunnels.unlisten(spec.protocol, local, { service: spec.service, peer });
    }
  }

  // ---- helpers

  get #drain(): { readonly drainMs: number; readonly signal: AbortSignal } {
    return { drainMs: DRAIN_MS, signal: this.#atOnce.signal };
  }

  #track(work: Promise<void>): Promise<void> {
    this.#leaving.add(work);
    void work.finally(() => this.#leaving.delete(work));
    return work;
  }

  async #attempt<T>(work: () => Promise<T>): Promise<T | undefined> {
    try {
      return await work();
    } catch (error) {
      this.#context.observation.report(errorEvent(toTunnelError(error)));
      return undefined;
    }
  }
}

/** Those of the one that are in the other too. */
function common(specs: readonly ForwardSpec[], others: readonly ForwardSpec[]): readonly ForwardSpec[] {
  const left = [...others];
  return specs.filter((spec) => {
    const at = left.findIndex((other) => isSameSpec(spec, other));
    if (at >= 0) left.splice(at, 1);
    return at >= 0;
  });
}
