import { readFile } from 'node:fs/promises';

/** PEM certificates that this user trusts beside those of the web's authorities, as all of Node does; '' for none. */
export async function extraRoots(): Promise<string> {
  const file = process.env.NODE_EXTRA_CA_CERTS;
  // Node itself warns where it cannot be read, and goes on.
  return file ? readFile(file, 'utf8').catch(() => '') : '';
}
