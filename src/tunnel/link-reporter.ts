/** Lets the channels of a forward follow its link, and tells of both. */
import { TunnelError, type TunnelErrorCode } from '../error.js';
import { peerIsGone, whereToAsk } from '../session/gone-peer.js';
import type { PeerSession } from '../session/handshake.js';
import type { LinkState } from '../session/link.js';
import type { NodeId } from '../session/node-id.js';
import type { OpenedChannels } from '../session/opened-channels.js';
import type { SessionPath } from '../session/session.js';
import type { Report } from './events.js';
import type { FactsSource } from './relayed.js';
import { reportConnected } from './report-session.js';

export interface Entries {
  /** What they are for. */
  services(): readonly string[];
  /** Connections that wait for a session. */
  held(): number;
}

export interface LinkReporterOptions {
  readonly peer: NodeId;
  readonly report: Report;
  readonly facts?: FactsSource | undefined;
  /** After so long another link follows one that was denied, milliseconds; none unless given. */
  readonly retryDeniedMs?: number | undefined;
}

/** What a peer may think better of. */
export const DENIALS: ReadonlySet<TunnelErrorCode> = new Set(['DENIED', 'VERSION']);

export class LinkReporter {
  readonly #peer: NodeId;
  readonly #report: Report;
  readonly #facts: FactsSource | undefined;
  readonly #channels: OpenedChannels;
  readonly #retryDeniedMs: number | undefined;
  readonly #entries: Entries;
  /** Where the peer's machine was while there was a session, if it can be asked. */
  #address: string | undefined;
  #looking: AbortController | undefined;

  constructor(options: LinkReporterOptions, channels: OpenedChannels, entries: Entries) {
    this.#peer = options.peer;
    this.#report = options.report;
    this.#facts = options.facts;
    this.#channels = channels;
    this.#retryDeniedMs = options.retryDeniedMs;
    this.#entries = entries;
  }

  onState(state: LinkState): void {
    const peer = this.#peer;
    const services = this.#entries.services();
    switch (state.state) {
      case 'connected': {
        this.#looking?.abort();
        this.#looking = undefined;
        this.#follow(state.peer);
        const downMs = state.downMs === undefined ? undefined : Math.round(state.downMs);
        const attached = this.#channels.attach(state.peer);
        reportConnected(state.peer, this.#report, {
          ...(downMs === undefined ? {} : { back: { downMs, services } }),
          facts: this.#facts,
        });
        if (downMs === undefined) break;
        void attached.then(({ resumed, lost }) =>
          this.#report({ event: 'resume', peer, services, downMs, resumed, lost }),
        );
        break;
      }
      case 'connecting':
        this.#report({ event: 'session', peer, state: 'connecting' });
        break;
      case 'reconnecting':
        this.#report({
          event: 'session',
          peer,
          state: 'reconnecting',
          error: { code: state.error.code, message: state.error.message },
          nextTryMs: Math.round(state.nextTryMs),
          downMs: Math.round(state.downMs),
          waiting: this.#channels.waiting + this.#entries.held(),
          services,
        });
        this.#lookForPeer();
        break;
      case 'closed': {
        this.#looking?.abort();
        const error = state.error && { code: state.error.code, message: state.error.message };
        const nextTryMs = error && DENIALS.has(error.code) ? this.#retryDeniedMs : undefined;
        this.#report({
          event: 'session',
          peer,
          // It is only this link that has ended.
          state: nextTryMs === undefined ? 'closed' : 'reconnecting',
          ...(error ? { error } : {}),
          ...(nextTryMs === undefined ? {} : { nextTryMs, services }),
        });
      }
    }
  }

  /** A person at the peer is asked. */
  onPending(): void {
    this.#report({ event: 'session', peer: this.#peer, state: 'connecting', approval: 'pending' });
  }

  #follow({ session, remote }: PeerSession): void {
    const note = (path: SessionPath) => {
      this.#address = whereToAsk(path, remote);
    };
    note(session.path);
    session.onPathChange(note);
  }

  /** Connections that wait for a process that has ended need not wait any longer. */
  #lookForPeer(): void {
    if (this.#looking || this.#address === undefined || this.#channels.waiting === 0) return;
    this.#looking = new AbortController();
    void peerIsGone(this.#address, this.#looking.signal).then((gone) => {
      if (gone) {
        this.#channels.abortWaiting(
          new TunnelError(
            'PEER_GONE',
            'the peer is not running any more, and its end of the connection is gone',
          ),
        );
      }
    });
  }
}
