/** What a running expose knows of who may connect beside its tickets: the peers book, and who asks. */
import { shortNodeId } from '../session/node-id.js';
import type { Approvals } from '../tunnel/approvals.js';
import { errorEvent, type Report, type TunnelEvent } from '../tunnel/events.js';
import { EVERY_SERVICE, recordDecision } from '../tunnel/peers-book.js';
import { LiveBook, type PeersFile } from '../tunnel/peers-file.js';
import type { Decision } from '../tunnel/status.js';

export class ExposeRights {
  readonly book: LiveBook;
  /** Nothing is told before something listens. */
  report: Report = () => undefined;
  approvals: Approvals | undefined;

  private constructor(book: LiveBook) {
    this.book = book;
  }

  /** Throws BAD_STATE for a book that is damaged or not private. What goes wrong with it later is reported. */
  static async open(file: PeersFile): Promise<ExposeRights> {
    const rights: ExposeRights = new ExposeRights(
      await LiveBook.open(file, (error) => rights.report(errorEvent(error))),
    );
    return rights;
  }

  /** Answers false when the peer does not wait any more. Throws when it cannot be written to the book. */
  async decide({ id, allowed, always }: Decision): Promise<boolean> {
    const question = this.approvals?.find(id);
    if (!this.approvals || !question) return false;
    if (!always) return this.approvals.decide(id, allowed);
    const { peer, rights } = question;
    // Who is not wanted is not wanted for anything.
    const services = allowed && rights !== 'all' ? rights : [EVERY_SERVICE];
    await this.book.update((book) => recordDecision(book, peer, { allowed, services }));
    // The book lets it in now, and not this decision: taken out of the book, it is out.
    this.approvals.recheck();
    return true;
  }
}

export function publicNotice(nodeId: string): TunnelEvent {
  return {
    event: 'notice',
    code: 'public',
    message: `THIS IS PUBLIC: anyone who learns the node ID ${shortNodeId(nodeId)} may connect, without a ticket and without being asked`,
    hint: 'end it and leave --public out to change that',
  };
}
