/** How many columns a text takes. Asked of every cell of every frame, so what is common is answered at once. */
import stringWidth from 'string-width';

/** ASCII, and what this view draws with: all one column each. */
const NARROW = /^[\x20-\x7e…─▁▂▃▄▅▆▇▏●◌▲▼←↑↓→›▸‼×✖]*$/;

export function columnsOf(text: string): number {
  return NARROW.test(text) ? text.length : stringWidth(text);
}
