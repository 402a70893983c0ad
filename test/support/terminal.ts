/** A real terminal for tests: a program in a tmux server of its own, its screen read and its keys pressed. */
import { execFileSync, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { eventually } from './eventually.js';

export const NO_TMUX = spawnSync('tmux', ['-V']).error ? 'tmux is not installed' : undefined;
const TIMEOUT_MS = 30_000;
/** Each look at a screen is a process. */
const LOOK_MS = 40;

export interface TerminalOptions {
  readonly columns?: number;
  readonly rows?: number;
  readonly env?: Readonly<Record<string, string>>;
}

export class Terminal {
  readonly #socket = `tunnel-test-${randomBytes(6).toString('hex')}`;

  /** Runs `command` with `sh -c`; when it has ended, `EXIT <code>` is printed and the screen stays. */
  constructor(command: string, { columns = 80, rows = 24, env = {} }: TerminalOptions = {}) {
    const settings = Object.entries({ TERM: 'tmux-256color', ...env }).map(
      ([key, value]) => `${key}='${value}'`,
    );
    const script = `env -u CI -u NO_COLOR ${settings.join(' ')} ${command}; echo EXIT $?; stty -a; exec cat`;
    this.#tmux('-f', '/dev/null', 'new-session', '-d', '-x', String(columns), '-y', String(rows), script);
  }

  /** What is on the screen, without colours; `styled` with their escape sequences, and with all its spaces. */
  screen({ styled = false }: { readonly styled?: boolean } = {}): string {
    return this.#tmux('capture-pane', '-p', ...(styled ? ['-e', '-N'] : []));
  }

  /** tmux' names of keys: `q`, `Enter`, `Tab`, `C-c`, `Escape`, `Up`. */
  press(...keys: string[]): void {
    this.#tmux('send-keys', ...keys);
  }

  type(text: string): void {
    this.#tmux('send-keys', '-l', text);
  }

  resize(columns: number, rows: number): void {
    this.#tmux('resize-window', '-x', String(columns), '-y', String(rows));
  }

  /** Whether the program has the alternate screen, and shows the cursor. */
  modes(): { alternate: boolean; cursor: boolean } {
    const [alternate, cursor] = this.#tmux('display-message', '-p', '#{alternate_on} #{cursor_flag}')
      .trim()
      .split(' ');
    return { alternate: alternate === '1', cursor: cursor === '1' };
  }

  /** The screen as soon as it matches, or shows what a function of it says. */
  async until(sought: RegExp | ((screen: string) => boolean), timeoutMs = TIMEOUT_MS): Promise<string> {
    let screen = '';
    const found = await eventually(
      () => {
        screen = this.screen();
        return typeof sought === 'function' ? sought(screen) : sought.test(screen);
      },
      timeoutMs,
      LOOK_MS,
    );
    if (!found) throw new Error(`no ${sought} on the screen:\n${screen}`);
    return screen;
  }

  /** The pid of the program in it. */
  pid(): number {
    const shell = this.#tmux('display-message', '-p', '#{pane_pid}').trim();
    return Number(execFileSync('ps', ['--ppid', shell, '-o', 'pid='], { encoding: 'utf8' }).trim());
  }

  close(): void {
    spawnSync('tmux', ['-L', this.#socket, 'kill-server']);
  }

  #tmux(...args: string[]): string {
    return execFileSync('tmux', ['-L', this.#socket, ...args], { encoding: 'utf8' });
  }
}
