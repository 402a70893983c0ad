/** What commands print: JSON events, one a line, or plain lines for people. */
import type { TunnelError } from '../error.js';
import { printable } from '../session/frame.js';
import { redactTicket } from '../session/ticket.js';
import type { TunnelEvent } from '../tunnel/events.js';
import { reloadText } from '../tunnel/status-events.js';
import type { Log } from './log.js';
import { PeerNames } from './peer-names.js';
import { Spinner } from './spinner.js';

export interface Output {
  /** An event of the running tunnel. */
  report(event: TunnelEvent): void;
  /** `json` as an event where JSON is asked for, `lines` otherwise. */
  print(json: { readonly event: string } & Record<string, unknown>, lines: readonly string[]): void;
  /** As `print`, in the place of what was printed before: not written to the terminal while that is muted. */
  reprint(json: { readonly event: string } & Record<string, unknown>, lines: readonly string[]): void;
  /** While true, reports are not written to the terminal; a log file goes on. */
  mute(muted: boolean): void;
  close(): void;
}

/** Milliseconds between two writes of JSON lines. */
const WRITE_EVERY_MS = 10;

export function jsonOutput(log: Log): Output {
  // A pipe is written to synchronously, and wakes who reads it: a thousand connections a second make two
  // thousand lines. So the first line after a pause goes out in its turn of the loop, those that follow
  // close behind in one write.
  let waiting = '';
  let writtenAt = Number.NEGATIVE_INFINITY;
  const flush = () => {
    if (waiting === '') return;
    const lines = waiting;
    waiting = '';
    writtenAt = performance.now();
    process.stdout.write(lines);
  };
  const write = (line: string) => {
    if (waiting === '') {
      const pause = WRITE_EVERY_MS - (performance.now() - writtenAt);
      if (pause > 0) setTimeout(flush, pause);
      else setImmediate(flush);
    }
    waiting += `${line}\n`;
  };
  process.on('exit', flush);
  return {
    report(event) {
      const line = eventLine(event);
      // Those of channels have names, numbers and codes only, and there are many.
      write(event.event.startsWith('channel.') ? line : redactTicket(line));
      if (event.event === 'error') log.write('debug', `${event.code} ${event.message}`);
    },
    print: (event) => write(eventLine(event)),
    reprint: (event) => write(eventLine(event)),
    mute: () => undefined,
    close: flush,
  };
}

/** The time comes second. It is put there as text, since copying an event costs more than writing it. */
export function eventLine(event: object & { readonly event: string }): string {
  const text = JSON.stringify(event);
  const name = `{"event":${JSON.stringify(event.event)}`;
  const time = `"time":"${new Date().toISOString()}"`;
  return text.startsWith(name) ? `${name},${time}${text.slice(name.length)}` : `{${time},${text.slice(1)}`;
}

export function plainOutput(log: Log, names: PeerNames = new PeerNames()): Output {
  const spinner = new Spinner();
  let muted = false;
  const line = (text: string) => {
    if (!muted) spinner.interrupted(() => process.stdout.write(`${redactTicket(text)}\n`));
  };
  const logged = (level: 'warn' | 'debug', text: string) => {
    if (!muted || log.toFile) spinner.interrupted(() => log.write(level, text));
  };
  const sessions = new SessionLines(spinner, line, names);
  const print: Output['print'] = (json, lines) => {
    spinner.interrupted(() => process.stdout.write(`${lines.join('\n')}\n`));
    if (json.event === 'ready' && !sessions.hasAny) spinner.start('waiting for a peer');
  };
  return {
    print,
    reprint(json, lines) {
      if (!muted) print(json, lines);
    },
    mute(now) {
      muted = now;
      spinner.mute(now);
    },
    close: () => spinner.stop(),
    report(event) {
      switch (event.event) {
        case 'listening':
          line(
            `listening on ${event.local}${event.protocol === 'udp' ? ' (UDP)' : ''} → ${event.service} @ ${names.label(event.peer)}`,
          );
          break;
        case 'session':
          sessions.session(event);
          break;
        case 'resume':
          sessions.resume(event);
          break;
        case 'path':
          line(
            `path to ${names.label(event.peer)} is now ${event.path} ${event.remote} (was ${event.previous}), ${event.rttMs} ms`,
          );
          break;
        case 'approval':
          for (const text of approvalLines(event, names)) line(text);
          break;
        case 'channel.open':
          logged(
            'debug',
            `channel ${event.id} ${event.service} @ ${names.label(event.peer)} open, ${event.path}`,
          );
          break;
        case 'channel.close':
          logged(
            'debug',
            `channel ${event.id} ${event.service} @ ${names.label(event.peer)} closed: ${event.reason}, ` +
              `${event.bytesIn} B in, ${event.bytesOut} B out, ${event.durationMs} ms${packets(event)}`,
          );
          break;
        case 'udp.totals':
          logged('debug', `UDP ${event.service ?? '(no service)'}: ${event.flows} flows${packets(event)}`);
          break;
        case 'reload':
          line(reloadText(event));
          break;
        case 'notice':
          line(
            `note: ${event.peer === undefined ? '' : `${names.label(event.peer)} `}${sentence(event.message, event.hint)}`,
          );
          break;
        case 'error':
          logged('warn', `${event.code} ${sentence(event.message, event.hint)}`);
      }
    },
  };
}

function approvalLines(
  { peer, services, decision, from }: Extract<TunnelEvent, { event: 'approval' }>,
  names: PeerNames,
): readonly string[] {
  const who = names.label(peer);
  switch (decision) {
    case 'pending':
      return [
        '',
        `‼ ${who} asks to be let in to ${services.join(', ')}, from ${printable(from)}`,
        `  ${peer}`,
        `  let it in:  tunnel peers allow ${peer}`,
        `  or not:     tunnel peers deny ${peer}        (with --once it is asked again the next time)`,
        '',
      ];
    case 'expired':
      return [`${who} was not let in: nobody decided in time`];
    case 'withdrawn':
      return [`${who} does not ask any more`];
    default:
      return [`${who} was ${decision}: ${services.join(', ')}`];
  }
}

/** What a UDP flow adds to the line of a channel. */
function packets(event: {
  readonly packetsIn?: number;
  readonly packetsOut?: number;
  readonly dropped?: Readonly<Record<string, number>>;
}): string {
  if (event.packetsIn === undefined) return '';
  const dropped = Object.entries(event.dropped ?? {}).map(([reason, count]) => `${count} ${reason}`);
  return `, ${event.packetsIn} packets in, ${event.packetsOut} out${dropped.length > 0 ? `, dropped: ${dropped.join(', ')}` : ''}`;
}

/** The lines about a peer's sessions. One for each thing that changed, not for each try. */
class SessionLines {
  readonly #line: (text: string) => void;
  readonly #spinner: Spinner;
  readonly #names: PeerNames;
  /** What the last line said, by peer. */
  readonly #told = new Map<string, string>();
  /** Peers whose session has not been told to be lost. */
  readonly #connected = new Set<string>();
  readonly #dialled = new Set<string>();

  constructor(spinner: Spinner, line: (text: string) => void, names: PeerNames) {
    this.#spinner = spinner;
    this.#line = line;
    this.#names = names;
  }

  /** Whether any peer is there, or dialled. */
  get hasAny(): boolean {
    return this.#connected.size + this.#dialled.size > 0;
  }

  session(event: Extract<TunnelEvent, { event: 'session' }>): void {
    const peer = this.#names.label(event.peer);
    switch (event.state) {
      case 'connecting':
        this.#dialled.add(event.peer);
        if (event.approval === undefined) {
          this.#spinner.start(`connecting to ${peer}`);
          break;
        }
        this.#spinner.start(`waiting for approval by ${peer}`);
        if (this.#told.get(event.peer) !== event.approval)
          this.#line(`waiting for approval: somebody at ${peer} has to let you in`);
        this.#told.set(event.peer, event.approval);
        break;
      case 'connected':
        this.#spinner.stop();
        this.#told.delete(event.peer);
        this.#connected.add(event.peer);
        this.#line(`connected to ${peer} over ${event.path}, ${event.rttMs} ms`);
        break;
      case 'reconnecting':
        this.#reconnecting(event, peer);
        break;
      case 'closed':
        this.#spinner.stop();
        this.#told.delete(event.peer);
        this.#line(`session with ${peer} closed${event.error ? `: ${event.error.message}` : ''}`);
    }
  }

  resume(event: Extract<TunnelEvent, { event: 'resume' }>): void {
    const down = seconds(event.downMs);
    this.#line(`${subject(event)}back after ${down}, ${event.resumed} resumed, ${event.lost} lost`);
  }

  #reconnecting(event: Extract<TunnelEvent, { event: 'session' }>, peer: string): void {
    const why = event.error?.message ?? 'unknown reason';
    const { waiting = 0 } = event;
    const held = `${waiting} connection${waiting === 1 ? '' : 's'} waiting`;
    this.#spinner.start(`connecting to ${peer}, ${held}`);
    const told = this.#told.get(event.peer);
    if (told === why) return;
    this.#told.set(event.peer, why);
    if (this.#connected.delete(event.peer)) {
      this.#line(`${subject(event)}path to ${peer} lost (${why}), ${held}`);
    } else {
      const next = event.nextTryMs === undefined ? '' : `; next try in ${seconds(event.nextTryMs)}`;
      this.#line(`no session with ${peer}: ${why}${next}`);
    }
  }
}

function subject({ services }: { readonly services?: readonly string[] }): string {
  return services && services.length > 0 ? `${services.join(', ')}: ` : '';
}

function seconds(ms: number): string {
  return ms < 10_000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 1000)} s`;
}

/** One line about an error that ends the program. */
export function describeError(error: TunnelError): string {
  return redactTicket(`${error.code} ${sentence(error.message, error.hint)}`);
}

function sentence(message: string, hint: string | undefined): string {
  return hint === undefined ? message : `${message} (${hint})`;
}
