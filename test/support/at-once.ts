/**
 * What is promised within a second is had within this on a machine with other things to do. Only to tell
 * what comes by itself from what waits for the end of a time, none of which is so short.
 */
export const AT_ONCE_MS = 8_000;
