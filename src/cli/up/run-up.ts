/** Runs a config file until it is told to end. */
import { loadIdentity } from '../../session/identity.js';
import { fileStamp } from '../../tunnel/safe-file.js';
import type { ViewFlags } from '../dashboard.js';
import { ExposeRights } from '../expose-rights.js';
import { onHangUp } from '../hang-up.js';
import { type Observation, observe } from '../observe.js';
import type { Output } from '../output.js';
import { identityPath, type Paths } from '../paths.js';
import { type PeerNames, peersFile } from '../peer-names.js';
import { serve } from '../serve.js';
import { listenForShutdown } from '../shutdown.js';
import { commonDifferences } from './changes.js';
import type { Common, Given } from './common.js';
import { parseConfig } from './config.js';
import { type ConfigText, findConfig, readConfig } from './config-file.js';
import { Reloader } from './reloader.js';
import { Tunnels } from './tunnels.js';

export interface UpOptions {
  readonly flags: ViewFlags & { readonly config?: string | undefined };
  /** Those of the flags that were written: they count more than the file. */
  readonly given: Given;
  readonly output: Output;
  readonly paths: Paths;
  readonly names: PeerNames;
}

/** Answers the exit code. Throws what keeps any of it from starting, and what ended the last of it. */
export async function runUp({ flags, given, output, paths, names }: UpOptions): Promise<number> {
  const place = findConfig(flags.config, paths);
  const file = peersFile(paths);
  const rights = await ExposeRights.open(file);
  names.from((nodeId) => rights.book.nameOf(nodeId));
  const parse = (source: ConfigText, running?: Common) =>
    parseConfig(source, { given, book: rights.book.book, paths, running });
  // Before it is read: what comes in between is noticed at the first look.
  const known = fileStamp(place.path);
  const first = await readConfig(place);
  const { common, ...plans } = await parse(first);
  const shutdown = listenForShutdown();
  let reloader: Reloader | undefined;
  const endHangUp = onHangUp(() => void reloader?.reload());
  let observation: Observation | undefined;
  let tunnels: Tunnels | undefined;
  try {
    const { identity, created } = await loadIdentity(identityPath(paths, common.identity));
    observation = await observe({
      command: 'up',
      nodeId: identity.nodeId,
      identity: common.identity,
      runtime: paths.runtime,
      flags: { ...flags, 'share-stats': common.shareStats },
      output,
      shutdown,
      nameOf: (nodeId) => names.nameOf(nodeId),
      decide: (decision) => rights.decide(decision),
    });
    const { report } = observation;
    rights.report = report;
    const running = await Tunnels.start(plans, {
      paths,
      identity,
      identityName: common.identity,
      rights,
      observation,
      peersFile: file,
      label: (nodeId) => names.label(nodeId),
    });
    tunnels = running;
    let banner = running.expose?.announce(output.print, { created });
    if (!banner) {
      const ready = { event: 'ready', nodeId: identity.nodeId, services: [], pid: process.pid };
      output.print(ready, [`${place.path} runs, and offers nothing`]);
    }
    reloader = new Reloader({
      path: place.path,
      known,
      text: first.text,
      report,
      read: () => readConfig(place),
      apply: async (source) => {
        // The names of peers may mean others.
        await rights.book.look();
        const config = await parse(source, common);
        const { isOfferNew, restart, ...changes } = await running.follow(config);
        const left = [...commonDifferences(common, config.common), ...restart];
        report({ event: 'reload', file: place.path, ...changes, restart: left });
        if (isOfferNew) banner = running.expose?.announce(output.reprint, { created: false });
      },
    });
    await observation.start(running.source, () => (running.expose ? banner : undefined));
    return await serve(running, shutdown);
  } finally {
    await reloader?.close();
    await tunnels?.close(0);
    await observation?.close();
    rights.book.close();
    endHangUp();
    shutdown.dispose();
  }
}
