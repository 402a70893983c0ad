/** What a config file of `tunnel up` says once, for everything in it. */
import type { DialFlags } from '../network-flags.js';

export interface Common {
  readonly identity: string;
  readonly network: DialFlags;
  readonly shareStats: boolean;
  readonly resumeTimeout: string;
}

/** Of the command line, which counts more than the file. */
export type Given = Partial<DialFlags & { readonly identity: string; readonly 'share-stats': boolean }>;
