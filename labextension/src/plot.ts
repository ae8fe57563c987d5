/** Curves over the epochs as SVG; looks like `nbtrain/plot.py`, whose drawings are for saved files. */

import { s } from './dom';
import { Curve, Plot } from './run';

const WIDTH = 260;
const HEIGHT = 132;
const FRAME = { left: 44, right: 6, top: 20, bottom: 18 };

/** Of the range of values, above and below. */
const MARGIN = 0.06;

/** Up to so many points get a mark of their own. */
const MARKED = 40;

type Point = [number, number];

interface Scale {
  y0: number;
  y1: number;
  ticks: number[];
  x(value: number): number;
  y(value: number): number;
}

export function number(value: number): string {
  const size = Math.abs(value);
  if (value === 0) {
    return '0';
  }
  return size >= 1e4 || size < 1e-3 ? value.toExponential(1) : value.toPrecision(3);
}

function finite(lines: Curve[]): number[] {
  return lines.flatMap(line =>
    line.points.map(point => point[1]).filter((y): y is number => y !== null)
  );
}

export function scale(plot: Plot): Scale {
  const every = finite(plot.lines);
  let y0 = Math.min(...every, Infinity);
  let y1 = Math.max(...every, -Infinity);
  if (!every.length) {
    [y0, y1] = [0, 1];
  }
  const whole = finite(plot.lines.filter(line => line.label !== 'running'));
  const [low, high] = [Math.min(...whole), Math.max(...whole)];
  if (high > low) {
    // The first steps' loss would flatten all that comes later: it may leave the frame.
    y0 = Math.max(y0, low - (high - low));
    y1 = Math.min(y1, high + (high - low));
  }
  const ticks = y1 > y0 ? [y0, y1] : [y0];
  const margin = (y1 - y0) * MARGIN || Math.abs(y1) * 0.1 || 1;
  const [bottom, top] = [y0 - margin, y1 + margin];
  const across = (WIDTH - FRAME.left - FRAME.right) / Math.max(plot.last - plot.first, 1e-9);
  const up = (HEIGHT - FRAME.top - FRAME.bottom) / (top - bottom);
  return {
    y0: bottom,
    y1: top,
    ticks,
    x: value => FRAME.left + (value - plot.first) * across,
    y: value => HEIGHT - FRAME.bottom - (value - bottom) * up
  };
}

/** The stretches between values that are not finite or leave the frame. */
export function pieces(line: Curve, at: Scale): Point[][] {
  const found: Point[][] = [[]];
  for (const [x, y] of line.points) {
    if (y !== null && y >= at.y0 && y <= at.y1) {
      found[found.length - 1].push([at.x(x), at.y(y)]);
    } else if (found[found.length - 1].length) {
      found.push([]);
    }
  }
  return found.filter(piece => piece.length);
}

function curve(line: Curve, at: Scale): SVGElement {
  const parts = pieces(line, at);
  const paths = parts
    .filter(piece => piece.length > 1)
    .map(piece =>
      s('polyline', { points: piece.map(p => p.map(c => c.toFixed(1)).join(',')).join(' ') })
    );
  const marks =
    line.label === 'running' || line.points.length > MARKED
      ? []
      : parts.flat().map(([x, y]) => mark(line.label, x, y));
  return s('g', { class: `nbt-curve nbt-${line.label}` }, ...paths, ...marks);
}

function mark(label: string, x: number, y: number): SVGElement {
  return label === 'validation'
    ? s('rect', { x: (x - 2.5).toFixed(1), y: (y - 2.5).toFixed(1), width: 5, height: 5 })
    : s('circle', { cx: x.toFixed(1), cy: y.toFixed(1), r: 2.6 });
}

function text(said: string, x: number, y: number, anchor: string, kind = 'nbt-tick'): SVGElement {
  return s('text', { x, y, 'text-anchor': anchor, class: kind }, said);
}

function described(plot: Plot): string {
  const said = plot.lines
    .filter(line => line.label !== 'running' && line.points.length)
    .map(line => {
      const values = line.points.map(point => (point[1] === null ? 'nan' : number(point[1])));
      return `${line.label} from ${values[0]} to ${values[values.length - 1]}`;
    });
  return `${plot.name} by epoch${said.length ? `: ${said.join(', ')}` : ''}`;
}

export function draw(plot: Plot): SVGElement {
  const at = scale(plot);
  const right = WIDTH - FRAME.right;
  const foot = HEIGHT - 5;
  const names = plot.lines.map(line => line.label).filter(label => label !== 'running');
  const keys = names.map(label =>
    s(
      'tspan',
      {},
      s('tspan', { class: `nbt-key nbt-${label}` }, label === 'validation' ? '■' : '●'),
      ` ${label}  `
    )
  );
  return s(
    'svg',
    {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      class: 'nbt-plot',
      role: 'img',
      'aria-label': described(plot)
    },
    s('path', {
      class: 'nbt-axis',
      d: `M${FRAME.left} ${FRAME.top}V${HEIGHT - FRAME.bottom}H${right}`
    }),
    text(plot.name.slice(0, 32), FRAME.left, 12, 'start', 'nbt-name'),
    ...at.ticks.map(y => text(number(y), FRAME.left - 5, at.y(y) + 3.5, 'end')),
    text(String(plot.first), FRAME.left, foot, 'start'),
    text(`${plot.last} epoch${plot.last === 1 ? '' : 's'}`, right, foot, 'end'),
    s('text', { x: FRAME.left + 18, y: foot, class: 'nbt-tick nbt-legend' }, ...keys),
    ...plot.lines.map(line => curve(line, at))
  );
}
