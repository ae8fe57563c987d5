"""The report of a run as text, for terminals, logs and front ends without HTML."""

from __future__ import annotations

from collections.abc import Callable

from . import phrases
from .formats import cells, cut, number, one_line, plural, wrapped
from .plot import sparkline
from .state import RunState

_CODES = {"busy": "34", "good": "32", "bad": "31", "warn": "33", "quiet": "2", "bold": "1"}

#: Lines of a traceback, and of a warning, that are shown.
_TRACEBACK, _WARNING = 30, 3

#: At most this many restarts, and this many warnings, are shown.
_SHOWN = 5

Paint = Callable[[str, str], str]


def text(state: RunState, now: float, width: int = 80, color: bool = False) -> str:
    """Return the report as a few lines of at most `width` columns; no line's end at the end."""
    width = max(width, 20)
    paint = _paint if color else _plain
    lines = [_title(state, now, width, paint)]
    if state.live or state.status == "lost":
        lines += [_crew(state, width, paint), *_bars(state, width, paint)]
    else:
        lines.append(paint("quiet", cut(_facts(state), width)))
    lines += _numbers(state, width, paint)
    lines += _trouble(state, width, paint)
    lines.append(paint("quiet", cut(_next(state), width)))
    return "\n".join(lines)


def line(state: RunState, now: float, width: int = 80) -> str:
    """Return how the run is, in one line of at most `width` columns."""
    parts = phrases.title(state, now)
    values = state.logs if state.live else (state.epoch_logs or ({},))[-1]
    parts += [f"{one_line(k)} {number(v)}" for k, v in values.items()]
    if state.live and phrases.speed(state):
        parts.append(phrases.speed(state))
    if state.error is not None:
        parts.append(one_line(state.error.message))
    return cut(f"{one_line(state.name)}: " + ", ".join(one_line(p) for p in parts), max(width, 1))


def _paint(tone: str, content: str) -> str:
    return f"\x1b[{_CODES[tone]}m{content}\x1b[0m" if content else ""


def _plain(_tone: str, content: str) -> str:
    return content


def _title(state: RunState, now: float, width: int, paint: Paint) -> str:
    name = one_line(state.name)
    status, *rest = phrases.title(state, now)
    whole = " · ".join((name, status, *rest))
    if cells(whole) > width:
        return cut(whole, width)
    tail = "".join(f" · {part}" for part in rest)
    return f"{paint('bold', name)} · {paint(phrases.tone(state), status)}{tail}"


def _facts(state: RunState) -> str:
    return " · ".join((plural(len(state.workers), "worker"), *phrases.facts(state)))


def _crew(state: RunState, width: int, paint: Paint) -> str:
    head = plural(len(state.workers), "worker")
    rest = " · ".join(p for p in (phrases.crew(state), phrases.speed(state)) if p)
    if len(state.workers) > 32:
        return cut(f"{head} · {rest}", width)
    signs = "".join(phrases.sign(w) for w in state.workers)
    if cells(f"{head} {signs} {rest}") > width:
        return cut(f"{head} {signs} {rest}", width)
    coloured = "".join(
        paint(phrases.TONES.get(w.phase, "quiet"), phrases.sign(w)) for w in state.workers
    )
    return f"{head} {coloured} {rest}"


def _bars(state: RunState, width: int, paint: Paint) -> list[str]:
    if state.started_at is None:
        return []
    bars = phrases.bars(state)
    room = min(width - 8 - max(cells(bar.said) for bar in bars), 50)
    if room < 5:
        return []
    return [f"{bar.name:<6} {_bar(bar.part, room, paint)} {bar.said}" for bar in bars]


def _bar(part: float, room: int, paint: Paint) -> str:
    eighths = round(part * room * 8)
    full, rest = divmod(eighths, 8)
    filled = "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")
    return paint("busy", filled) + paint("quiet", "░" * (room - len(filled)))


def _numbers(state: RunState, width: int, paint: Paint) -> list[str]:
    rows = phrases.rows(state)
    shown = phrases.columns(state, rows)
    if not rows or not shown:
        return []
    first = min(max(cells(row.name) for row in rows), max(width // 3, 8))
    head = _cells("", ["so far" if c == "now" else c for c in shown], first)
    lines = [paint("quiet", cut(head, width))]
    for row in rows:
        said = _cells(cut(row.name, first), [getattr(row, c) for c in shown], first)
        room = min(width - cells(said) - 3, 24)
        curve = sparkline(phrases.series(state, row.name), room) if room > 3 else ""
        lines.append(f"{cut(said, width)}   {paint('busy', curve)}" if curve else cut(said, width))
    return lines


def _cells(name: str, values: list[str], first: int) -> str:
    return name + " " * (first - cells(name)) + "".join(f"  {value:>10}" for value in values)


def _trouble(state: RunState, width: int, paint: Paint) -> list[str]:
    lines: list[str] = []
    said = [*phrases.alarms(state), *map(phrases.restarted, state.restarts[-_SHOWN:])]
    said += map(phrases.warning, state.warnings[-_SHOWN:])
    for one in said:
        pieces = wrapped(one, width - 2)
        more = ["…"] if len(pieces) > _WARNING else []
        for i, piece in enumerate([*pieces[:_WARNING], *more]):
            lines.append(("  " if i else paint("warn", "!") + " ") + piece)
    return lines + _ending(state, width, paint)


def _ending(state: RunState, width: int, paint: Paint) -> list[str]:
    error = state.error
    if error is None:
        if not state.message or state.status == "succeeded":
            return []
        tone = "quiet" if state.status == "stopped" else "bad"
        return [paint(tone, piece) for piece in wrapped(state.message, width)]
    lines = [paint("bad", piece) for piece in wrapped(f"✕ {phrases.headline(error)}", width)]
    traced = phrases.traceback_lines(error)
    for content, marked in traced[-_TRACEBACK:]:
        pieces = wrapped(f"→{content[1:]}" if marked else content, width - 2, "  ") or [""]
        lines += [paint("bold", piece) if marked else piece for piece in pieces]
    for content in phrases.advice(error):
        lines += wrapped(content, width - 2, "  ")
    return lines


def _next(state: RunState) -> str:
    return " · ".join(f"{code} {does}" for code, does in phrases.next_steps(state))
