/**
 * Frames that nobody waits for, held back a moment so that they travel with the next one: each packet of
 * its own costs both machines a system call, a turn of two threads and the waking of an event loop.
 */

/** Calls `release` when it is time; answers how to take that back. */
export type HoldBack = (release: () => void) => () => void;

/**
 * Until the event loop has asked the system for news once: what a client sends with its connect has been
 * read by then. Costs a connection whose server speaks first nothing that could be measured.
 */
export const untilPolled: HoldBack = (release) => {
  // The first one may still come in this turn of the loop; between the two it polls.
  let next = setImmediate(() => {
    next = setImmediate(release);
  });
  return () => clearImmediate(next);
};

/** How long an answer may take to have the frames before it ride along, milliseconds. */
const ANSWER_MS = 1;

/** For as long as a local service usually takes to answer. */
export const untilAnswered: HoldBack = (release) => {
  const timer = setTimeout(release, ANSWER_MS);
  return () => clearTimeout(timer);
};
