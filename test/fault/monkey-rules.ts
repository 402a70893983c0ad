/** What must be true of a connection when it is over, whatever happened under it. */
import type { Party } from '../support/party.js';

/** In words, what is wrong between the two sides. `far` is undefined when the connection never arrived. */
export function violations(near: Party, far: Party | undefined): string[] {
  if (!far) return near.didReset ? [] : [`never arrived at the service; near ${near}`];
  const found = [...sideViolations('near', near, far), ...sideViolations('far', far, near)];
  return found.map((rule) => `${rule}; near ${near}; far ${far}`);
}

function* sideViolations(name: string, side: Party, other: Party): Generator<string> {
  if (side.wrongAt !== undefined) yield `${name} got a wrong byte at ${side.wrongAt}`;
  if (side.received > other.sent) yield `${name} got more than was sent`;
  if (side.didReset) return;
  switch (side.seen) {
    case 'end':
      if (!other.finished) yield `${name} saw an end that nobody made`;
      if (side.received !== other.sent) yield `${name} saw an end before all bytes`;
      // It had ended both ways before the reset could reach it, or the reset has to arrive.
      if (other.didReset && !side.isComplete) yield `${name} was never told of a reset`;
      break;
    case 'reset':
      if (!other.didReset) yield `${name} saw a reset that nobody made`;
      break;
    case 'open':
      yield other.didReset ? `${name} was never told of a reset` : `${name} never saw an end`;
  }
}
