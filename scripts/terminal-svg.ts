/** Draws a terminal's screen, as text with SGR sequences, as an SVG that needs no font of its own. */

const CELL = { width: 8.4, height: 18 };
const PADDING = 14;
const TITLE_HEIGHT = 30;
const BACKGROUND = '#11151c';
const FOREGROUND = '#d5dae3';
const PALETTE = ['#11151c', '#ff7b72', '#56d364', '#e3b341', '#79c0ff', '#d2a8ff', '#56d4dd', '#d5dae3'];
const FONT =
  "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace";

interface Style {
  readonly color: string | undefined;
  readonly bold: boolean;
  readonly dim: boolean;
  readonly inverse: boolean;
}

interface Run {
  readonly column: number;
  readonly text: string;
  readonly style: Style;
}

const PLAIN: Style = { color: undefined, bold: false, dim: false, inverse: false };

export interface TerminalDrawing {
  readonly columns: number;
  readonly rows: number;
  readonly title: string;
}

export function drawTerminal(screen: string, { columns, rows, title }: TerminalDrawing): string {
  const width = Math.ceil(columns * CELL.width + 2 * PADDING);
  const height = rows * CELL.height + 2 * PADDING + TITLE_HEIGHT;
  let style = PLAIN;
  const shapes = screen
    .split('\n')
    .slice(0, rows)
    .flatMap((line, row) => {
      const parsed = parse(line, style);
      style = parsed.style;
      return parsed.runs.map((run) => drawRun(run, row));
    });
  const lights = ['#ff5f57', '#febc2e', '#28c840']
    .map((fill, index) => `<circle cx="${20 + index * 20}" cy="16" r="6" fill="${fill}"/>`)
    .join('');
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="${FONT}" font-size="14">`,
    `<title>The dashboard of ${escapeXml(title)}</title>`,
    `<rect width="${width}" height="${height}" rx="8" fill="${BACKGROUND}"/>`,
    lights,
    `<text x="${width / 2}" y="21" fill="#8b949e" text-anchor="middle">${escapeXml(title)}</text>`,
    ...shapes,
    '</svg>',
    '',
  ].join('\n');
}

function drawRun({ column, text, style }: Run, row: number): string {
  const x = PADDING + column * CELL.width;
  const top = TITLE_HEIGHT + PADDING + row * CELL.height;
  const cells = [...text].length;
  const width = cells * CELL.width;
  const color = style.color ?? FOREGROUND;
  const box = style.inverse
    ? `<rect x="${x.toFixed(1)}" y="${top}" width="${width.toFixed(1)}" height="${CELL.height}" fill="${color}"/>`
    : '';
  if (text.trim() === '') return box;
  const attributes = [
    `x="${x.toFixed(1)}"`,
    `y="${top + 13}"`,
    // Whatever font it is, a column stays a column.
    `textLength="${width.toFixed(1)}"`,
    'lengthAdjust="spacingAndGlyphs"',
    'xml:space="preserve"',
    `fill="${style.inverse ? BACKGROUND : color}"`,
    ...(style.bold ? ['font-weight="bold"'] : []),
    ...(style.dim ? ['opacity="0.6"'] : []),
  ];
  return `${box}<text ${attributes.join(' ')}>${escapeXml(text)}</text>`;
}

function parse(line: string, before: Style): { runs: readonly Run[]; style: Style } {
  const runs: Run[] = [];
  let style = before;
  let column = 0;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: an escape sequence begins with one
  for (const part of line.split(/(\x1b\[[0-9;]*m)/)) {
    if (part.startsWith('\x1b')) {
      style = applySgr(style, part.slice(2, -1));
    } else if (part !== '') {
      runs.push({ column, text: part, style });
      column += [...part].length;
    }
  }
  return { runs, style };
}

function applySgr(before: Style, codes: string): Style {
  let style = before;
  for (const code of codes.split(';').map(Number)) {
    if (code === 0) style = PLAIN;
    else if (code === 1) style = { ...style, bold: true };
    else if (code === 2) style = { ...style, dim: true };
    else if (code === 7) style = { ...style, inverse: true };
    else if (code === 22) style = { ...style, bold: false, dim: false };
    else if (code === 27) style = { ...style, inverse: false };
    else if (code === 39) style = { ...style, color: undefined };
    else if (code >= 30 && code <= 37) style = { ...style, color: PALETTE[code - 30] };
    else if (code >= 90 && code <= 97) style = { ...style, color: PALETTE[code - 90] };
  }
  return style;
}

function escapeXml(text: string): string {
  return text.replace(/[<>&"]/g, (character) => `&#${character.charCodeAt(0)};`);
}
