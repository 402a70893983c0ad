/** SHA-256, hex, of the crate's sources and lock file, as `buildInfo().sourceHash` should say. */
export function sourceHash(): string;
