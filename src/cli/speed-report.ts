/** What `tunnel speed` shows: a bar while it measures, then the figures. */
import { bytes, loss, rate } from '../tui/format.js';
import type { RoundTripFigures } from '../tunnel/round-trips.js';
import type { Measured } from '../tunnel/speed.js';
import type { DatagramResult, Progress, SpeedResult } from '../tunnel/speed-client.js';
import { progressBar } from './progress.js';
import { Spinner } from './spinner.js';

const NAMES = { down: 'download', up: 'upload' } as const;

type JsonEvent = { readonly event: string } & Record<string, unknown>;

/** Events where JSON is asked for; a bar where there is a terminal; nothing elsewhere. */
export class SpeedProgress {
  readonly #spinner = new Spinner();
  readonly #print: ((event: JsonEvent) => void) | undefined;

  constructor(print: ((event: JsonEvent) => void) | undefined) {
    this.#print = print;
  }

  /** To be called when nothing else has the terminal any more. */
  start(): void {
    if (!this.#print) this.#spinner.start('measuring the path at rest');
  }

  show({ direction, done, ms, bytes, bytesPerSecond }: Progress): void {
    if (this.#print) this.#print({ event: 'speed', direction, ms, bytes, bytesPerSecond });
    else this.#spinner.start(`${NAMES[direction].padEnd(8)} ${progressBar(done)} ${speed(bytesPerSecond)}`);
  }

  stop(): void {
    this.#spinner.stop();
  }
}

export function speedEvent({ path, remote, rttMs, down, up }: Measured): JsonEvent {
  return { event: 'summary', path, remote, ...defined({ rttMs }), down: defined(down), up: defined(up) };
}

export function speedLines({ path, remote, rttMs, down, up }: Measured): readonly string[] {
  return [
    `path      ${path}, ${remote}`,
    ...(rttMs ? [`at rest   round trip ${times(rttMs)}`] : []),
    `download  ${line(down, rttMs)}`,
    `upload    ${line(up, rttMs)}`,
  ];
}

function line(result: SpeedResult | DatagramResult, atRest: RoundTripFigures | undefined): string {
  const { bytesPerSecond, lossRatio, rttMs } = result;
  const parts = [speed(bytesPerSecond)];
  if ('jitterMs' in result) {
    parts.push(`${result.received} of ${result.sent} datagrams, jitter ${result.jitterMs} ms`);
  } else {
    parts.push(`${bytes(result.bytes)} in ${(result.durationMs / 1000).toFixed(1)} s`);
  }
  if (lossRatio !== undefined) parts.push(loss(lossRatio));
  if (rttMs) {
    const more = atRest ? rttMs.p50 - atRest.p50 : 0;
    parts.push(`round trip under load ${times(rttMs)}${more >= 1 ? `, ${more.toFixed(0)} ms more` : ''}`);
  }
  return parts.join('; ');
}

function times({ min, p50, max }: RoundTripFigures): string {
  return `${min} / ${p50} / ${max} ms (min, p50, max)`;
}

function speed(bytesPerSecond: number): string {
  return `${((bytesPerSecond * 8) / 1e6).toFixed(bytesPerSecond < 1.25e6 ? 2 : 0)} Mbit/s (${rate(bytesPerSecond)})`;
}

/** Without what is not known: JSON would leave it out, and the types say so. */
function defined(fields: object): Record<string, unknown> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}
