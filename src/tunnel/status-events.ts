/** The events a person wants to look back at, as sentences, in a ring. */
import { basename } from 'node:path';
import { printable } from '../session/frame.js';
import type { TunnelEvent } from './events.js';
import type { StatusEvent } from './status.js';

const MAX_EVENTS = 500;
const MAX_TEXT = 300;

type Line = Pick<StatusEvent, 'level' | 'text'> & { readonly peer?: string };

export class EventRing {
  #events: StatusEvent[] = [];
  #seq = 0;
  #copy: readonly StatusEvent[] | undefined;

  observe(event: TunnelEvent, at: Date): void {
    const line = describe(event);
    if (line) this.add(line, at);
  }

  /** A line like the one before it is counted there. */
  add(line: Line, at: Date): void {
    const text = printable(line.text).slice(0, MAX_TEXT);
    const last = this.#events.at(-1);
    this.#copy = undefined;
    if (last && last.text === text && last.peer === line.peer) {
      this.#events[this.#events.length - 1] = { ...last, at: at.toISOString(), count: last.count + 1 };
      return;
    }
    this.#seq += 1;
    this.#events.push({ ...line, text, seq: this.#seq, at: at.toISOString(), count: 1 });
    if (this.#events.length > MAX_EVENTS) this.#events.shift();
  }

  snapshot(): readonly StatusEvent[] {
    this.#copy ??= [...this.#events];
    return this.#copy;
  }
}

/** Undefined for what a table shows better, or what would drown the rest. */
function describe(event: TunnelEvent): Line | undefined {
  switch (event.event) {
    case 'listening':
      return { level: 'info', text: `listening on ${event.local} → ${event.service}` };
    case 'session':
      return { ...sessionLine(event), peer: event.peer };
    case 'resume':
      return {
        level: event.lost > 0 ? 'warn' : 'info',
        peer: event.peer,
        text: `back after ${(event.downMs / 1000).toFixed(1)} s, ${event.resumed} resumed, ${event.lost} lost`,
      };
    case 'path':
      return {
        level: 'info',
        peer: event.peer,
        text: `path ${event.previous} → ${event.path} ${event.remote}, ${round(event.rttMs)} ms`,
      };
    case 'notice':
      if (event.code !== 'relayed') return undefined;
      return {
        level: 'warn',
        ...(event.peer === undefined ? {} : { peer: event.peer }),
        text: `${event.message} (${event.hint})`,
      };
    case 'channel.close':
      if (event.reason === 'eos') return undefined;
      return {
        level: 'warn',
        peer: event.peer,
        text: `a channel of ${event.service} ended: ${event.reason}`,
      };
    case 'approval':
      return {
        level: event.decision === 'pending' ? 'warn' : 'info',
        peer: event.peer,
        text:
          event.decision === 'pending'
            ? `asks to be let in to ${event.services.join(', ')}, from ${event.from}`
            : `${event.decision}: ${event.services.join(', ')}`,
      };
    case 'reload':
      return { level: event.restart.length > 0 ? 'warn' : 'info', text: reloadText(event) };
    case 'error':
      return {
        level: 'error',
        text: `${event.code} ${event.message}${event.hint === undefined ? '' : ` (${event.hint})`}`,
      };
    default:
      return undefined;
  }
}

/** `tunnel.toml read again: + expose web, − expose db; bind is as it was until a restart`. */
export function reloadText(event: Extract<TunnelEvent, { event: 'reload' }>): string {
  const { file, added, removed, changed, restart } = event;
  const changes = [
    ...added.map((one) => `+ ${one}`),
    ...removed.map((one) => `− ${one}`),
    ...changed.map((one) => `~ ${one}`),
  ];
  const left =
    restart.length > 0
      ? `; ${restart.join(', ')} ${restart.length === 1 ? 'is' : 'are'} as before until a restart`
      : '';
  return `${basename(file)} read again: ${changes.length > 0 ? changes.join(', ') : 'nothing has changed'}${left}`;
}

function sessionLine(event: Extract<TunnelEvent, { event: 'session' }>): Line {
  switch (event.state) {
    case 'connecting':
      return event.approval === undefined
        ? { level: 'info', text: 'connecting' }
        : { level: 'warn', text: 'waiting for approval by somebody there' };
    case 'connected':
      return { level: 'info', text: `connected over ${event.path}, ${round(event.rttMs ?? 0)} ms` };
    case 'reconnecting':
      return {
        level: 'warn',
        text: `no session: ${event.error?.message ?? 'unknown reason'}; ${event.waiting ?? 0} waiting`,
      };
    case 'closed':
      return {
        level: event.error ? 'warn' : 'info',
        text: `closed: ${event.error?.message ?? 'at its end'}`,
      };
  }
}

function round(rttMs: number): string {
  return rttMs < 10 ? rttMs.toFixed(1) : rttMs.toFixed(0);
}
