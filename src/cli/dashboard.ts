/** Shows the dashboard on this terminal, if it is one. */
import type { StatusActions, StatusFeed } from '../tunnel/status.js';
import { TerminalScreen } from './screen.js';
import { canRedraw } from './terminal.js';

export interface ViewFlags {
  readonly json: boolean;
  readonly plain: boolean;
}

/** Whether there is a terminal that can show it, and a person before it. */
export function canShowDashboard(
  { json, plain }: ViewFlags,
  { env, stdin, stdout }: Pick<NodeJS.Process, 'env' | 'stdin' | 'stdout'> = process,
): boolean {
  return !json && !plain && stdin.isTTY === true && canRedraw(stdout, env);
}

export interface DashboardOptions {
  readonly feed: StatusFeed;
  readonly actions: StatusActions;
  readonly endsTunnel: boolean;
  readonly invitation?: (() => readonly string[] | undefined) | undefined;
  onQuit(how: 'quit' | 'interrupt'): void;
  /** A line that something wrote to the terminal beside the screen. */
  onStray(line: string): void;
  /** The view failed, and has given the terminal back. */
  onCrash(error: unknown): void;
}

export interface OpenDashboard {
  close(): void;
}

/** Loads the view; call it early, so that it loads beside other things. */
export function loadDashboard(): Promise<typeof import('../tui/dashboard.js')> {
  // React decides by it when it is loaded; its development build keeps a record of every render.
  process.env.NODE_ENV ??= 'production';
  return import('../tui/dashboard.js');
}

export async function openDashboard(options: DashboardOptions): Promise<OpenDashboard> {
  const { mount } = await loadDashboard();
  const { stdin, stdout, stderr } = process;
  const { feed, actions, endsTunnel, invitation, onQuit, onStray } = options;
  // What SIGHUP is to a tunnel is not for its view to say.
  const fatalSignals = endsTunnel ? (['SIGQUIT'] as const) : (['SIGHUP', 'SIGQUIT'] as const);
  const screen = new TerminalScreen({ stdin, stdout, stderr, onStray, fatalSignals });
  screen.enter();
  const mounted = mount(
    { feed, actions, endsTunnel, invitation, onQuit, color: (process.env.NO_COLOR ?? '') === '' },
    stdin,
    // All that Ink uses of it: frames, the size, and when that changes.
    screen as unknown as NodeJS.WriteStream,
    (error) => {
      screen.leave();
      options.onCrash(error);
    },
  );
  return {
    close() {
      mounted.unmount();
      screen.leave();
    },
  };
}
