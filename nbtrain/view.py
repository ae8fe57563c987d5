"""The report of a run as data: what the widget, JupyterLab's sidebar and its tabs draw.

A state goes in, one dict comes out that JSON can carry and whose size is bounded, however long
the run and however many its workers. All words are those of `phrases`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from . import phrases, plot
from .formats import clean, plural
from .state import RunState

#: Changes when a reader of this data would have to.
VERSION = 1

#: At most this many workers are drawn one by one, and this many points of a curve.
WORKERS, POINTS = 512, 200

#: At most this many restarts, this many warnings, and this much text of a traceback, are shown.
_SHOWN, _LINES, _COLUMNS = 5, 60, 400


def view(state: RunState, now: float) -> dict[str, Any]:
    """Return what is to be drawn of a run; `now` is Unix time, for what is counted."""
    rows = phrases.rows(state)
    return {
        **summary(state, now),
        "version": VERSION,
        "facts": [plural(len(state.workers), "worker"), *phrases.facts(state)],
        "workers": [_worker(worker) for worker in state.workers[:WORKERS]],
        "crew": phrases.crew(state) if state.workers else "",
        "speed": phrases.speed(state) if state.live else "",
        "memory": phrases.memory(state) if state.live else "",
        "bars": [
            {"name": bar.name, "part": round(bar.part, 4), "said": bar.said}
            for bar in phrases.bars(state)
        ],
        "caption": _caption(state),
        "columns": phrases.columns(state, rows),
        "rows": [
            {"name": r.name, "now": r.now, "training": r.training, "validation": r.validation}
            for r in rows
        ],
        "plots": _plots(state),
        "notes": _notes(state),
        "error": _error(state),
        # A recording has no id: there is no run to do anything with.
        "next": [list(step) for step in phrases.next_steps(state)] if state.id else [],
        "attach": f"nbtrain.attach({clean(state.id)!r})" if state.id else "",
    }


def summary(state: RunState, now: float) -> dict[str, Any]:
    """Return what a list of runs shows of one."""
    doing, *rest = phrases.title(state, now)
    return {
        "id": state.id,
        "name": clean(state.name),
        "backend": clean(state.backend),
        "context": clean(state.context),
        "status": state.status,
        "tone": phrases.tone(state),
        "live": state.live,
        "created": state.created,
        "ended": state.ended_at,
        "doing": doing,
        "rest": rest,
        "part": round(phrases.bars(state)[0].part, 4),
        "metric": _metric(state),
        "crowd": len(state.workers),
    }


def _worker(worker: Any) -> dict[str, Any]:
    rate, memory = phrases.figures(worker)
    return {
        "sign": phrases.sign(worker),
        "tone": phrases.TONES.get(worker.phase, "quiet"),
        "about": phrases.describe(worker),
        "rate": rate,
        "memory": memory,
    }


def _metric(state: RunState) -> str:
    name = phrases.metric(state) or "loss"
    for row in phrases.rows(state):
        if row.name == name:
            return f"{name} {row.validation or row.training or row.now}"
    return ""


def _caption(state: RunState) -> str:
    if not state.epoch_numbers:
        return f"epoch {state.epoch + 1}"
    return f"after epoch {state.epoch_numbers[-1] + 1}"


# -- curves -------------------------------------------------------------------------------------


def _plots(state: RunState) -> list[dict[str, Any]]:
    if not state.curve and not state.epoch_numbers:
        return []
    ends = [n + 1 for n in state.epoch_numbers] + [math.ceil(x) for x, _ in state.curve]
    last = max(*ends, state.first_epoch + 1)
    names = [name for name in ("loss", phrases.metric(state)) if name]
    return [
        {
            "name": clean(name),
            "first": state.first_epoch,
            "last": last,
            "lines": _lines(state, name),
        }
        for name in names
    ]


def _lines(state: RunState, name: str) -> list[dict[str, Any]]:
    curves = [("training", phrases.series(state, name))]
    if name == "loss":
        curves.insert(0, ("running", list(state.curve)))
    if validation := phrases.series(state, f"val_{name}"):
        curves.append(("validation", validation))
    return [{"label": label, "points": _points(points)} for label, points in curves if points]


def _points(points: Sequence[tuple[float, float]]) -> list[list[float | None]]:
    """Return few enough points, short enough numbers, and None for what JSON has no number for."""
    return [
        [float(f"{x:.5g}"), float(f"{y:.5g}") if math.isfinite(y) else None]
        for x, y in plot.spread(points, POINTS)
    ]


# -- trouble ------------------------------------------------------------------------------------


def _notes(state: RunState) -> list[dict[str, str]]:
    """Return messages, each with its first line and the rest of them."""
    notes = [("warn", said) for said in phrases.alarms(state)]
    notes += [("warn", phrases.restarted(restart)) for restart in state.restarts[-_SHOWN:]]
    hidden = len(state.warnings) - _SHOWN
    if hidden > 0:
        notes.append(("warn", f"{plural(hidden, 'warning')} before these"))
    notes += [("warn", phrases.warning(warned)) for warned in state.warnings[-_SHOWN:]]
    if state.error is None and state.message and state.status != "succeeded":
        notes.append(("quiet" if state.status == "stopped" else "bad", clean(state.message)))
    return [_note(tone, said) for tone, said in notes]


def _note(tone: str, said: str) -> dict[str, str]:
    first, _, rest = said.partition("\n")
    return {"tone": tone, "text": first[:_COLUMNS], "more": rest[: _LINES * _COLUMNS]}


def _error(state: RunState) -> dict[str, Any] | None:
    failed = state.error
    if failed is None:
        return None
    traced = phrases.traceback_lines(failed)[-_LINES:]
    return {
        "headline": phrases.headline(failed),
        "traceback": [[line[:_COLUMNS], marked] for line, marked in traced],
        "advice": [line[:_COLUMNS] for line in phrases.advice(failed)[:_LINES]],
    }
