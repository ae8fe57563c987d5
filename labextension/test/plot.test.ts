import { draw, pieces, scale } from '../src/plot';
import { Plot } from '../src/run';

function plot(...lines: Plot['lines']): Plot {
  return { name: 'loss', first: 0, last: 3, lines };
}

test('a loss that is not finite breaks the line and nothing else', () => {
  const line = {
    label: 'training',
    points: [
      [1, 2],
      [2, null],
      [3, 1]
    ] as [number, number | null][]
  };
  const at = scale(plot(line));
  expect(pieces(line, at).map(piece => piece.length)).toEqual([1, 1]);
  expect(draw(plot(line)).getAttribute('aria-label')).toBe(
    'loss by epoch: training from 2.00 to 1.00'
  );
});

test('the first steps leave the frame where they would flatten the rest', () => {
  const running = { label: 'running', points: [[0.1, 100], [1, 2]] as [number, number][] }; // prettier-ignore
  const training = { label: 'training', points: [[1, 2], [2, 1]] as [number, number][] }; // prettier-ignore
  expect(scale(plot(running, training)).y1).toBeLessThan(5);
});

test('a flat curve and none at all have a frame too', () => {
  const flat = { label: 'training', points: [[1, 0.5], [2, 0.5]] as [number, number][] }; // prettier-ignore
  for (const lines of [[flat], []]) {
    const { y0, y1 } = scale(plot(...lines));
    expect(y1).toBeGreaterThan(y0);
  }
});
