/** The dashboard as it is shipped, one file, mounted on a terminal that only takes frames. */
import { PassThrough, Writable } from 'node:stream';
import type { StatusFeed } from '../../src/tunnel/status.js';
import { RecordedActions } from './figures.js';

export interface BuiltDashboard {
  /** The next frame that is painted. */
  nextFrame(): Promise<string>;
  unmount(): void;
}

export async function mountBuilt(feed: StatusFeed, columns: number, rows: number): Promise<BuiltDashboard> {
  const built = new URL('../../dist/tui/dashboard.js', import.meta.url).href;
  const { mount } = (await import(built)) as typeof import('../../src/tui/dashboard.js');
  let painted: (frame: string) => void = () => undefined;
  const screen = new Writable({
    decodeStrings: false,
    write: (frame, _encoding, done) => {
      painted(String(frame));
      done();
    },
  });
  const nothing = () => undefined;
  const mounted = mount(
    { feed, actions: new RecordedActions(), color: true, endsTunnel: true, onQuit: nothing },
    Object.assign(new PassThrough(), {
      isTTY: true,
      setRawMode: nothing,
      ref: nothing,
      unref: nothing,
    }) as unknown as NodeJS.ReadStream,
    Object.assign(screen, { columns, rows, isTTY: true }) as unknown as NodeJS.WriteStream,
    (error) => {
      throw error;
    },
  );
  return {
    nextFrame: () =>
      new Promise((resolve) => {
        painted = resolve;
      }),
    unmount: () => mounted.unmount(),
  };
}
