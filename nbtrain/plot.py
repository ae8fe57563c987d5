"""A small plot of curves: SVG for HTML reports, a sparkline for text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .formats import clean, cut, number, plural
from .markup import Html, element, html_of

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
    ticks: tuple[float, ...] = ()

    def place(self, point: tuple[float, float]) -> tuple[float, float]:
        across = (point[0] - self.x0) / (self.x1 - self.x0)
        up = (point[1] - self.y0) / (self.y1 - self.y0)
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
        )


def svg(name: str, lines: Sequence[Line], first: float, last: float) -> Html:
    """Return a plot over the epochs from `first` to `last` as an SVG element.

    Who takes the drawing away (GitHub) may leave its texts: none is there but what is seen, and
    there is space between them.
    """
    frame = _frame(lines, first, last)
    return element(
        "svg",
        _axes(name, frame),
        *(_line(line, frame) for line in lines),
        _legend([line for line in lines if line.mark]),
        role="img",
        aria_label=_described(name, lines),
        viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        width=f"{_WIDTH:g}",
        height=f"{_HEIGHT:g}",
        font_size="10.5",
        fill="currentColor",
        style="display:block;width:100%;height:auto;font-family:inherit;"
        "font-variant-numeric:tabular-nums",
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
    ticks = (y0, y1) if y1 > y0 else (y0,)
    return _Frame(first, max(last, first + 1), y0 - margin, y1 + margin, ticks)


def _axes(name: str, frame: _Frame) -> Html:
    right, foot = f"{_WIDTH - _RIGHT:g}", f"{_HEIGHT - 5:g}"
    rule = f"M{_LEFT:g} {_TOP:g}V{_HEIGHT - _BOTTOM:g}H{right}"
    labels = [
        _label(number(y), f"{_LEFT - 5:g}", f"{frame.place((frame.x0, y))[1] + 3.5:.1f}", "end")
        for y in frame.ticks
    ]
    return html_of(
        element("text", cut(name, 32), x=f"{_LEFT:g}", y="11", font_weight="600"),
        element("path", d=rule, fill="none", stroke="currentColor", stroke_opacity=".3"),
        *labels,
        _label(f"{frame.x0:g}", f"{_LEFT:g}", foot, "start"),
        _label(plural(int(frame.x1), "epoch"), right, foot, "end"),
    )


def _legend(lines: Sequence[Line]) -> Html:
    """Return the names of the lines, in the middle below the axis."""
    signs = {"circle": "●", "square": "■"}
    keys = (
        html_of(
            element("tspan", signs[line.mark], style=f"fill:{line.colour}"),
            element("tspan", f" {line.label}  ", opacity=".75"),
        )
        for line in lines
    )
    middle = f"{_LEFT + (_WIDTH - _LEFT - _RIGHT) * 0.4:g}"
    names = element(
        "text", *keys, x=middle, y=f"{_HEIGHT - 5:g}", text_anchor="middle", font_size="9.5"
    )
    return html_of(" ", names)


def _label(said: str, x: str, y: str, anchor: str) -> Html:
    return html_of(" ", element("text", said, x=x, y=y, text_anchor=anchor, opacity=".75"))


def _line(line: Line, frame: _Frame) -> Html:
    points = spread(line.points, _DRAWN)
    pieces = _pieces(points, frame)
    marked = line.mark and len(points) <= _MARKED
    marks = [_mark(line, *frame.place(p)) for piece in pieces for p in piece] if marked else []
    return html_of(*(_path(piece, line, frame) for piece in pieces), *marks)


def _path(points: Points, line: Line, frame: _Frame) -> Html:
    if len(points) < 2:
        return Html()
    look = (
        {"stroke_width": "1.8"} if line.mark else {"stroke_width": "1.2", "stroke_opacity": ".75"}
    )
    if line.mark == "square":
        look["stroke_dasharray"] = "5 3"
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(frame.place, points))
    style = f"stroke:{line.colour}"
    return element(
        "polyline", points=places, fill="none", stroke_linejoin="round", style=style, **look
    )


def _mark(line: Line, x: float, y: float) -> Html:
    style = f"fill:{line.colour}"
    if line.mark == "square":
        at = {"x": f"{x - 2.6:.1f}", "y": f"{y - 2.6:.1f}"}
        return element("rect", style=style, width="5.2", height="5.2", **at)
    return element("circle", style=style, cx=f"{x:.1f}", cy=f"{y:.1f}", r="2.8")


def _pieces(points: Points, frame: _Frame) -> list[list[tuple[float, float]]]:
    """Return the stretches between values that are not finite or beyond the frame."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if frame.y0 <= point[1] <= frame.y1:
            pieces[-1].append(point)
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def spread(points: Points, most: int) -> Points:
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


def sparkline(points: Points, width: int) -> str:
    """Return the curve as blocks of different height, × where a value is not finite."""
    values = [p[1] for p in spread(points, max(width, 2))] if width > 1 else []
    finite = [v for v in values if math.isfinite(v)]
    if len(values) < 2 or not finite:
        return "×" * len(values)
    low, high = min(finite), max(finite)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((v - low) * scale)] if math.isfinite(v) else "×" for v in values)
