/** How a peer is written on the command line: a ticket or a node ID. */
import { TunnelError } from '../error.js';
import { parseNodeId } from '../session/node-id.js';
import { isTicket, parseTicket, type Ticket } from '../session/ticket.js';

/** Throws BAD_TICKET or BAD_NODE_ID; never quotes a token. */
export function parsePeer(text: string): Ticket {
  // Copied from a screen or a mail it may have line breaks in it; a ticket itself has no spaces.
  const joined = text.replace(/\s+/g, '');
  if (isTicket(joined)) return parseTicket(joined);
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(text)) {
    throw new TunnelError('BAD_TICKET', `'${text.replace(/:\/\/.*/s, '://…')}' is no ticket of ours`, {
      hint: "copy the whole line that 'tunnel expose' printed, in quotes: 'tunnel://<node-id>?addr=…&token=…'",
    });
  }
  return { nodeId: parseNodeId(text), direct: [], relays: [], token: undefined };
}
