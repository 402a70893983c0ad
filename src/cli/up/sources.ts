/** Several running parts as one thing to look at. */
import type { PeerSession } from '../../session/handshake.js';
import type { Approval, ChannelFigures, Reach, StatusSource } from '../../tunnel/status.js';

export class Sources implements StatusSource {
  readonly #parts = new Set<StatusSource>();

  add(part: StatusSource): void {
    this.#parts.add(part);
  }

  delete(part: StatusSource): void {
    this.#parts.delete(part);
  }

  channel(id: number): ChannelFigures | undefined {
    for (const part of this.#parts) {
      const figures = part.channel(id);
      if (figures) return figures;
    }
    return undefined;
  }

  *sessions(): Iterable<PeerSession> {
    for (const part of this.#parts) yield* part.sessions();
  }

  /** Missing where nothing is offered. */
  get reach(): (() => Reach) | undefined {
    return [...this.#parts].find((part) => part.reach)?.reach;
  }

  resetChannel(id: number): boolean {
    return [...this.#parts].some((part) => part.resetChannel(id));
  }

  approvals(): readonly Approval[] {
    return [...this.#parts].flatMap((part) => part.approvals?.() ?? []);
  }
}
