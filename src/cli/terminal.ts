/** What a terminal is good for. */

/** Whether text on it may be drawn over: not where it is dumb, and not in the log of a CI run. */
export function canRedraw(
  { isTTY }: { readonly isTTY?: boolean },
  { TERM, CI = '' }: NodeJS.ProcessEnv = process.env,
): boolean {
  return isTTY === true && TERM !== 'dumb' && CI === '';
}
