/** What UDP flows report: their beginning and end as channels, and what holds for all of them once. */
import type { PeerSession } from '../session/handshake.js';
import type { NodeId } from '../session/node-id.js';
import type { Report } from './events.js';
import type { Flow } from './flow.js';
import type { FlowCounters } from './flow-counters.js';
import type { FlowCount } from './flow-messages.js';
import type { ChannelFigures } from './status.js';
import { SOCKET_BUFFER_BYTES } from './udp-socket.js';

/** Why a flow ended. */
export type FlowEnd =
  | 'idle'
  | 'evicted'
  | 'denied'
  | 'refused'
  /** The other side ended it. */
  | 'closed'
  /** The peer's process is another one now, and knows nothing of it. */
  | 'peer-restarted'
  | 'shutdown';

export interface UdpReportOptions {
  readonly report: Report;
  /** Where flows are shown beside channels, with ids of the same kind. */
  readonly flows: ShownFlows;
}

export interface ShownFlows {
  /** Answers the flow's id for `channel.open` and `channel.close`. */
  begin(figures: (id: number) => ChannelFigures): number;
  end(id: number): void;
}

export class UdpReport {
  readonly #options: UdpReportOptions;
  #saidSmallBuffers = false;

  constructor(options: UdpReportOptions) {
    this.#options = options;
  }

  /** Answers what reports the end, given the peer's own count where it is known. */
  opened(
    flow: Flow,
    peer: PeerSession,
    place: Pick<ChannelFigures, 'local' | 'client' | 'target'>,
  ): (reason: FlowEnd, theirs: FlowCount | undefined) => void {
    const facts = {
      peer: peer.peer,
      service: flow.service,
      protocol: 'udp' as const,
      path: peer.session.path.kind,
    };
    const id = this.#options.flows.begin((given) => flowFigures(flow, { id: given, ...facts, ...place }));
    const described = { id, ...facts };
    this.#options.report({ event: 'channel.open', ...described });
    return (reason, theirs) => {
      const { packetsIn, packetsOut, bytesIn, bytesOut, dropped } = flow.counters;
      this.#options.flows.end(id);
      this.#options.report({
        event: 'channel.close',
        ...described,
        reason,
        bytesIn,
        bytesOut,
        packetsIn,
        packetsOut,
        dropped,
        ...(theirs ? lost(flow.counters, theirs) : {}),
        durationMs: Math.round(performance.now() - flow.openedAt),
      });
    };
  }

  /** Once for all sockets of the process. `bytes` is what the system gave. */
  socketBuffers(bytes: number): void {
    if (bytes >= SOCKET_BUFFER_BYTES || this.#saidSmallBuffers) return;
    this.#saidSmallBuffers = true;
    this.#options.report({
      event: 'notice',
      code: 'small-socket-buffers',
      message: `UDP sockets got buffers of ${Math.round(bytes / 1024)} KiB where ${SOCKET_BUFFER_BYTES / 1024} were asked for, so bursts may be lost`,
      hint: `sysctl -w net.core.rmem_max=${SOCKET_BUFFER_BYTES} net.core.wmem_max=${SOCKET_BUFFER_BYTES}`,
    });
  }

  /** To be called once for each session that has UDP services. */
  session({ peer, session }: PeerSession): void {
    if (!session.reliableDatagrams) return;
    this.#options.report({
      event: 'notice',
      code: 'udp-not-on-datagrams',
      peer,
      message: `UDP goes over ${session.path.kind} in order on one stream, where one lost packet delays all behind it`,
    });
  }

  totals(peer: NodeId | undefined, service: string | undefined, flows: number, counters: FlowCounters): void {
    this.#options.report({
      event: 'udp.totals',
      ...(peer === undefined ? {} : { peer }),
      ...(service === undefined ? {} : { service }),
      flows,
      ...counters.totals(),
    });
  }
}

/** Packets that one side sent and the other never saw anything of. */
export function lost(own: FlowCounters, theirs: FlowCount): { lostIn: number; lostOut: number } {
  return {
    lostIn: Math.max(0, theirs.sent - own.seen),
    lostOut: Math.max(0, own.packetsOut - theirs.seen),
  };
}

/** Counters that are read from the flow whenever they are asked for. */
function flowFigures(
  flow: Flow,
  facts: Pick<
    ChannelFigures,
    'id' | 'peer' | 'service' | 'protocol' | 'path' | 'local' | 'client' | 'target'
  >,
): ChannelFigures {
  const { counters } = flow;
  return {
    ...facts,
    state: 'open',
    unackedBytes: 0,
    window: 0,
    get bytesIn() {
      return counters.bytesIn;
    },
    get bytesOut() {
      return counters.bytesOut;
    },
    get ageMs() {
      return performance.now() - flow.openedAt;
    },
    get drops() {
      return Object.values(counters.dropped).reduce((sum, count) => sum + count, 0);
    },
  };
}
