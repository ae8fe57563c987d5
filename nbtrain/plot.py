"""A small plot of curves: SVG for HTML reports, a sparkline for text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .formats import clean, number

Points = Sequence[tuple[float, float]]

#: At most this many points of a line are drawn, and this many get a mark of their own.
_DRAWN, _MARKED = 200, 40

_WIDTH, _HEIGHT = 240.0, 124.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 42.0, 6.0, 19.0, 18.0

#: Of the values' range, above and below.
_MARGIN = 0.06

_BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Line:
    """One curve; `mark` is "circle", "square" or "" for a thin line without points."""

    label: str
    points: Points
    colour: str
    mark: str = ""


@dataclass(frozen=True)
class _Frame:
    """Maps values to the drawing."""

    x0: float
    x1: float
    y0: float
    y1: float

    def place(self, point: tuple[float, float]) -> tuple[float, float]:
        across = (point[0] - self.x0) / (self.x1 - self.x0)
        up = (point[1] - self.y0) / (self.y1 - self.y0)
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
        )


def svg(name: str, lines: Sequence[Line], first: float, last: float) -> str:
    """Return a plot over the epochs from `first` to `last` as an SVG element."""
    frame = _frame(lines, first, last)
    drawn = "".join(_line(line, frame) for line in lines)
    return (
        f'<svg role="img" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" width="{_WIDTH:g}"'
        f' height="{_HEIGHT:g}" font-size="10.5" fill="currentColor" xmlns="http://www.w3.org/2000/svg"'
        ' style="display:block;width:100%;height:auto;font-family:inherit;'
        'font-variant-numeric:tabular-nums">'
        f"<title>{_text(name)}</title><desc>{_text(_described(name, lines))}</desc>"
        f"{_axes(name, frame)}{drawn}</svg>"
    )


def _frame(lines: Sequence[Line], first: float, last: float) -> _Frame:
    whole = [p[1] for line in lines if line.mark for p in line.points if math.isfinite(p[1])]
    every = [p[1] for line in lines for p in line.points if math.isfinite(p[1])]
    if not every:
        return _Frame(first, max(last, first + 1), 0.0, 1.0)
    y0, y1 = min(every), max(every)
    if len(set(whole)) > 1:
        # The first steps' loss would flatten all that comes later: it may leave the frame.
        low, high = min(whole), max(whole)
        y0, y1 = max(y0, low - (high - low)), min(y1, high + (high - low))
    margin = (y1 - y0) * _MARGIN or abs(y1) * 0.1 or 1.0
    return _Frame(first, max(last, first + 1), y0 - margin, y1 + margin)


def _axes(name: str, frame: _Frame) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    margin = (frame.y1 - frame.y0) * _MARGIN / (1 + 2 * _MARGIN)
    low, high = frame.y0 + margin, frame.y1 - margin
    labels = []
    for value in (low, high):
        y = frame.place((frame.x0, value))[1]
        labels.append(
            f'<text x="{_LEFT - 5:g}" y="{y + 3.5:.1f}" text-anchor="end" opacity=".75">'
            f"{_text(number(value))}</text>"
        )
    ends = (
        f'<text x="{_LEFT:g}" y="{_HEIGHT - 5:g}" opacity=".75">{frame.x0:g}</text>'
        f'<text x="{right:g}" y="{_HEIGHT - 5:g}" text-anchor="end" opacity=".75">'
        f"{frame.x1:g} {'epoch' if frame.x1 == 1 else 'epochs'}</text>"
    )
    heading = f'<text x="{_LEFT:g}" y="11" font-weight="600">{_text(name)}</text>'
    rule = f"M{_LEFT:g} {_TOP:g}V{bottom:g}H{right:g}"
    axes = f'<path d="{rule}" fill="none" stroke="currentColor" stroke-opacity=".3"/>'
    return heading + axes + "".join(labels) + ends


def _line(line: Line, frame: _Frame) -> str:
    points = _spread(line.points, _DRAWN)
    drawn = "".join(_path(piece, line, frame) for piece in _pieces(points, frame))
    if not line.mark or len(line.points) > _MARKED:
        return drawn
    return drawn + "".join(
        _mark(line, *frame.place(point)) for point in points if math.isfinite(point[1])
    )


def _path(points: Points, line: Line, frame: _Frame) -> str:
    if len(points) < 2:
        return ""
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(frame.place, points))
    look = 'stroke-width="1.8"' if line.mark else 'stroke-width="1" stroke-opacity=".6"'
    dashes = ' stroke-dasharray="5 3"' if line.mark == "square" else ""
    return (
        f'<polyline points="{places}" fill="none" {look}{dashes} stroke-linejoin="round"'
        f' style="stroke:{line.colour}"/>'
    )


def _mark(line: Line, x: float, y: float) -> str:
    if line.mark == "square":
        shape = f'<rect x="{x - 2.6:.1f}" y="{y - 2.6:.1f}" width="5.2" height="5.2"'
    else:
        shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.8"'
    return f'{shape} style="fill:{line.colour}"/>'


def _pieces(points: Points, frame: _Frame) -> list[list[tuple[float, float]]]:
    """Return the stretches between values that are not finite or beyond the frame."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if frame.y0 <= point[1] <= frame.y1:
            pieces[-1].append(point)
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _spread(points: Points, most: int) -> Points:
    """Return at most `most` of the points, evenly, the first and the last among them."""
    if len(points) <= most:
        return points
    step = (len(points) - 1) / (most - 1)
    return [points[round(i * step)] for i in range(most)]


def _described(name: str, lines: Sequence[Line]) -> str:
    said = [
        f"{line.label} from {number(line.points[0][1])} to {number(line.points[-1][1])}"
        for line in lines
        if line.points and line.mark
    ]
    return f"{clean(name)} by epoch" + (": " if said else "") + ", ".join(said)


def _text(value: str) -> str:
    return escape(clean(value))


def sparkline(points: Points, width: int) -> str:
    """Return the curve as blocks of different height, × where a value is not finite."""
    values = [p[1] for p in _spread(points, max(width, 2))] if width > 1 else []
    finite = [v for v in values if math.isfinite(v)]
    if len(values) < 2 or not finite:
        return "×" * len(values)
    low, high = min(finite), max(finite)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((v - low) * scale)] if math.isfinite(v) else "×" for v in values)
