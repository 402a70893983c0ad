/** Figures as people read them. */

const BYTE_UNITS = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];

/** `1.1 MB`: powers of 1000, three digits at most. */
export function bytes(count: number): string {
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < BYTE_UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : 1;
  return `${value.toFixed(digits)} ${BYTE_UNITS[unit]}`;
}

export function rate(perSecond: number): string {
  return `${bytes(perSecond)}/s`;
}

/** `48.1 MB/s`, or `idle`. */
export function rateOrIdle(perSecond: number): string {
  return perSecond === 0 ? 'idle' : rate(perSecond);
}

/** `4s`, `3m12s`, `3h12m`, `2d5h`. */
export function duration(milliseconds: number): string {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m${pad(seconds % 60)}s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)}h${pad(Math.floor(seconds / 60) % 60)}m`;
  return `${Math.floor(seconds / 86_400)}d${Math.floor(seconds / 3600) % 24}h`;
}

/** `00:03:11`. */
export function clockDuration(milliseconds: number): string {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  return [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60].map(pad).join(':');
}

/** The local time of day of an ISO time. */
export function timeOfDay(iso: string): string {
  const date = new Date(iso);
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map(pad).join(':');
}

export function roundTrip(rttMs: number): string {
  if (rttMs < 1) return `${rttMs.toFixed(2)} ms`;
  return `${rttMs.toFixed(rttMs < 10 ? 1 : 0)} ms`;
}

export function loss(ratio: number | undefined): string {
  return ratio === undefined ? '' : `${(ratio * 100).toFixed(1)}% lost`;
}

/** `3f9a…c21e`. */
export function shortId(id: string): string {
  return id.length <= 9 ? id : `${id.slice(0, 4)}…${id.slice(-4)}`;
}

/** Not the full block: bars of one row would run into those of the row above. */
const BARS = '▁▂▃▄▅▆▇';

/** The last `columns` values as bars, relative to the highest of them; blank where nothing moved. */
export function sparkline(values: readonly number[], columns: number): string {
  const shown = values.slice(-columns);
  const highest = Math.max(...shown, 1);
  const bars = shown.map((value) =>
    value === 0 ? ' ' : BARS[Math.min(BARS.length - 1, Math.floor((value / highest) * BARS.length))],
  );
  return bars.join('').padStart(columns);
}

function pad(value: number): string {
  return String(value).padStart(2, '0');
}
