/** What commands print: JSON events, one a line, or plain lines for people. */
import type { TunnelError } from '../error.js';
import { shortNodeId } from '../session/node-id.js';
import { redactTicket } from '../session/ticket.js';
import type { TunnelEvent } from '../tunnel/events.js';
import type { Log } from './log.js';
import { Spinner } from './spinner.js';

export interface Output {
  /** An event of the running tunnel. */
  report(event: TunnelEvent): void;
  /** `json` as an event where JSON is asked for, `lines` otherwise. */
  print(json: { readonly event: string } & Record<string, unknown>, lines: readonly string[]): void;
  /** While true, reports are not written to the terminal; a log file goes on. */
  mute(muted: boolean): void;
  close(): void;
}

export function jsonOutput(log: Log): Output {
  // Lines of one turn of the loop go out in one write: a pipe is written to synchronously, and a
  // thousand connections a second make two thousand lines.
  let waiting = '';
  const flush = () => {
    if (waiting !== '') process.stdout.write(waiting);
    waiting = '';
  };
  const write = (event: object & { readonly event: string }) => {
    const { event: name, ...fields } = event;
    if (waiting === '') setImmediate(flush);
    waiting += `${JSON.stringify({ event: name, time: new Date().toISOString(), ...fields })}\n`;
  };
  return {
    report(event) {
      write(event);
      if (event.event === 'error') log.write('debug', `${event.code} ${event.message}`);
    },
    print: write,
    mute: () => undefined,
    close: flush,
  };
}

export function plainOutput(log: Log): Output {
  const spinner = new Spinner();
  let muted = false;
  const line = (text: string) => {
    if (!muted) spinner.interrupted(() => process.stdout.write(`${text}\n`));
  };
  const logged = (level: 'warn' | 'debug', text: string) => {
    if (!muted || log.toFile) spinner.interrupted(() => log.write(level, text));
  };
  return {
    print: (_json, lines) => spinner.interrupted(() => process.stdout.write(`${lines.join('\n')}\n`)),
    mute(now) {
      muted = now;
      spinner.mute(now);
    },
    close: () => spinner.stop(),
    report(event) {
      switch (event.event) {
        case 'listening':
          line(`listening on ${event.local} → ${event.service} @ ${shortNodeId(event.peer)}`);
          break;
        case 'session':
          reportSession(event, spinner, line);
          break;
        case 'path':
          line(
            `path to ${shortNodeId(event.peer)} is now ${event.path} (was ${event.previous}), ${event.rttMs} ms`,
          );
          break;
        case 'channel.open':
          logged(
            'debug',
            `channel ${event.id} ${event.service} @ ${shortNodeId(event.peer)} open, ${event.path}`,
          );
          break;
        case 'channel.close':
          logged(
            'debug',
            `channel ${event.id} ${event.service} @ ${shortNodeId(event.peer)} closed: ${event.reason}, ` +
              `${event.bytesIn} B in, ${event.bytesOut} B out, ${event.durationMs} ms`,
          );
          break;
        case 'error':
          logged('warn', `${event.code} ${sentence(event.message, event.hint)}`);
      }
    },
  };
}

function reportSession(
  event: Extract<TunnelEvent, { event: 'session' }>,
  spinner: Spinner,
  line: (text: string) => void,
): void {
  const peer = shortNodeId(event.peer);
  switch (event.state) {
    case 'connecting':
      spinner.start(`connecting to ${peer}`);
      break;
    case 'connected':
      spinner.stop();
      line(`connected to ${peer} over ${event.path}, ${event.rttMs} ms`);
      break;
    case 'reconnecting': {
      const wait = ((event.nextTryMs ?? 0) / 1000).toFixed(1);
      line(`no session with ${peer}: ${event.error?.message ?? 'unknown reason'}; next try in ${wait} s`);
      spinner.start(`connecting to ${peer}`);
      break;
    }
    case 'closed':
      spinner.stop();
      line(`session with ${peer} closed${event.error ? `: ${event.error.message}` : ''}`);
  }
}

/** One line about an error that ends the program. */
export function describeError(error: TunnelError): string {
  return redactTicket(`${error.code} ${sentence(error.message, error.hint)}`);
}

function sentence(message: string, hint: string | undefined): string {
  return hint === undefined ? message : `${message} (${hint})`;
}
