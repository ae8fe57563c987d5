"""A table of runs, as HTML and as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from . import phrases
from .formats import cells, clean, cut, duration, number
from .markup import RULE, TONES, Html, element
from .state import RunState

HEADS = ("name", "status", "workers", "epochs", "last", "took", "age", "id")

_NUMBERS = ("workers", "epochs", "took", "age")
_NONE = "No runs yet."

#: Columns of the table as text.
WIDTH = 120


def row(state: RunState, now: float) -> tuple[str, ...]:
    """Return a run's cells, in the order of `HEADS`."""
    done = len(state.epoch_numbers)
    epochs = f"{done}" if state.epochs is None else f"{done}/{state.epochs - state.first_epoch}"
    end = state.ended_at
    if end is None:
        end = now if state.live else state.last_time
    took = duration(max(end - state.created, 0.0)) if state.created else "–"
    if state.status == "stored":
        epochs = took = "–"  # nobody has read it yet
    return tuple(
        clean(value).replace("\n", " ")
        for value in (
            state.name,
            state.status,
            len(state.workers),
            epochs,
            _last(state),
            took,
            _age(now - state.created) if state.created else "–",
            state.id,
        )
    )


def runs_html(states: Sequence[RunState], now: float, problems: Sequence[str] = ()) -> str:
    """Return the table as an HTML fragment; below it what could not be asked."""
    table = _table(states, now) if states else element("p", _NONE)
    return element("div", table, *(element("p", p) for p in problems)) if problems else table


def _table(states: Sequence[RunState], now: float) -> Html:
    plain = "background:none"
    heads = (element("th", n, style=f"{_style(n)};font-weight:600", scope="col") for n in HEADS)
    return element(
        "table",
        element("thead", element("tr", *heads, style=plain)),
        element("tbody", *(element("tr", *_cells(s, now), style=plain) for s in states)),
        style="border-collapse:collapse;border:none;font-size:13px;margin:0;"
        "font-variant-numeric:tabular-nums;color:var(--jp-ui-font-color1,inherit)",
    )


def runs_text(states: Sequence[RunState], now: float, problems: Sequence[str] = ()) -> str:
    """Return the table as text, each line of at most `WIDTH` columns, and what was not asked."""
    lines = _lines(states, now) if states else [_NONE]
    return "\n".join([*lines, *map(clean, problems)])


def _lines(states: Sequence[RunState], now: float) -> list[str]:
    table = [HEADS, *(row(state, now) for state in states)]
    widths = [max(cells(r[i]) for r in table) for i in range(len(HEADS))]
    lines = []
    for values in table:
        padded = (
            " " * (w - cells(v)) + v if name in _NUMBERS else v + " " * (w - cells(v))
            for name, v, w in zip(HEADS, values, widths, strict=True)
        )
        lines.append(cut("  ".join(padded).rstrip(), WIDTH))
    return lines


def _cells(state: RunState, now: float) -> Iterator[Html]:
    for name, value in zip(HEADS, row(state, now), strict=True):
        style = _style(name)
        if name == "name":
            yield element("th", value, style=f"{style};font-weight:600", scope="row")
        elif name == "status":
            yield element("td", value, style=f"{style};color:{TONES[phrases.tone(state)]}")
        else:
            yield element("td", value, style=style)


def _style(name: str) -> str:
    align = "right" if name in _NUMBERS else "left"
    return (
        f"text-align:{align};padding:3px 14px 3px 0;border:none;border-bottom:{RULE};"
        "white-space:nowrap"
    )


def _last(state: RunState) -> str:
    """Return loss and metric of the last epoch, validation where there is one."""
    logs = state.epoch_logs[-1] if state.epoch_logs else {}
    said = []
    for name in ("loss", phrases.metric(state)):
        found = f"val_{name}" if f"val_{name}" in logs else name
        if found in logs:
            said.append(f"{found} {number(logs[found])}")
    return ", ".join(said)


def _age(seconds: float) -> str:
    """Return an age in one unit: of a run from yesterday nobody wants the minutes."""
    if seconds < 60:
        return "just now"
    return " ".join(duration(seconds).split()[:2]) + " ago"
