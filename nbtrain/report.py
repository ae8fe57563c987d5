"""The report of a run as HTML: a state goes in, a fragment for a notebook's output comes out.

It has inline styles and nothing else: no script, nothing to load, and colours of the front end's
theme with fallbacks. Where styles are taken away (GitHub) plain text and a table remain.
"""

from __future__ import annotations

import math
from html import escape

from . import phrases, plot
from .colours import RULE, TONES, TRAINING, VALIDATION
from .formats import clean, plural
from .phrases import Row
from .runs_table import runs_html as runs_html
from .runs_table import runs_text as runs_text
from .runtime.events import Failed, Warned
from .state import RunState, WorkerState
from .text_report import line as line
from .text_report import text as text

#: Above this many workers the strip shows their signs without their numbers.
_NUMBERED = 16

#: Above this many workers the strip is left to a sentence.
_DRAWN = 512

#: At most this many restarts, and this many warnings, are shown.
_SHOWN = 5

_FONT = "var(--jp-ui-font-family,system-ui,-apple-system,'Segoe UI',sans-serif)"
_CODE = "var(--jp-code-font-family,ui-monospace,Menlo,Consolas,monospace)"
_QUIET = "opacity:.75"
_HEADS = {"now": "so far", "training": "training", "validation": "validation"}


def html(state: RunState, now: float) -> str:
    """Return the report; `now` is Unix time, for what is counted since an event."""
    parts = [
        _title(state, now),
        _facts(state),
        _workers(state),
        _bars(state),
        _numbers(state),
        _trouble(state),
        _next(state),
    ]
    return (
        f'<div role="group" aria-label="Training run {_text(state.name)}" style="font-family:{_FONT};'
        "font-size:13px;line-height:1.5;max-width:860px;padding:6px 2px;"
        'color:var(--jp-ui-font-color1,inherit);font-variant-numeric:tabular-nums">'
        + "".join(parts)
        + "</div>"
    )


# -- what it is doing ---------------------------------------------------------------------------


def _title(state: RunState, now: float) -> str:
    colour = TONES[phrases.tone(state)]
    status, *rest = phrases.title(state, now)
    words = "".join(f' <span style="{_QUIET}">·</span> {_text(part)}' for part in rest)
    return (
        '<div style="font-size:15px;overflow-wrap:anywhere">'
        f'<strong style="font-weight:600">{_text(state.name)}</strong>'
        f' <span style="{_QUIET}">·</span>'
        f' <strong style="font-weight:600;color:{colour}">{_text(status)}</strong>{words}</div>'
    )


def _facts(state: RunState) -> str:
    facts = [plural(len(state.workers), "worker"), *phrases.facts(state)]
    return f'<div style="{_QUIET};font-size:12px">{_text(" · ".join(facts))}</div>'


def _workers(state: RunState) -> str:
    if state.status == "succeeded" or not state.workers:
        return ""
    few = len(state.workers) <= _NUMBERED
    strip = "".join((_chip if few else _dot)(w) for w in state.workers[:_DRAWN])
    crew = _text(phrases.crew(state))
    speed = _text(phrases.speed(state)) if state.live else ""
    look = "gap:4px" if few else "gap:1px;letter-spacing:1px"
    return (
        '<div style="display:flex;flex-wrap:wrap;align-items:center;gap:2px 10px;margin:6px 0">'
        f'<span role="img" aria-label="workers: {crew}" style="display:flex;flex-wrap:wrap;{look}">'
        f"{strip}</span> <span>{crew}{' · ' if crew and speed else ''}{speed}</span></div>"
    )


def _chip(worker: WorkerState) -> str:
    colour = TONES[phrases.TONES.get(worker.phase, "quiet")]
    style = (
        "display:inline-block;min-width:2.5em;padding:0 4px;box-sizing:border-box;font-size:12px;"
        f"text-align:center;line-height:18px;border:1px solid {colour};border-radius:4px;"
        f"color:{colour}"
    )
    sign = _text(phrases.sign(worker))
    said = _text(phrases.describe(worker))
    return f'<span title="{said}" style="{style}">{sign}&#8239;{worker.index}</span> '


def _dot(worker: WorkerState) -> str:
    colour = TONES[phrases.TONES.get(worker.phase, "quiet")]
    said, sign = _text(phrases.describe(worker)), _text(phrases.sign(worker))
    return f'<span title="{said}" style="color:{colour}">{sign}</span>'


def _bars(state: RunState) -> str:
    """Return the bars of epochs and steps; they stay in place from the start to the end."""
    if not state.live and state.status != "lost":
        return ""
    epochs, steps = state.epochs or 0, state.steps or 0
    done = len([n for n in state.epoch_numbers if n >= state.first_epoch])
    asked = max(epochs - state.first_epoch, 0)
    in_epoch = min(state.step / steps, 1.0) if steps > 0 else 0.0
    over = state.epoch in state.epoch_numbers
    part = (done + (0.0 if over else in_epoch)) / asked if asked else 0.0
    bars = _bar("epochs", part, f"{done}/{asked}" if asked else "")
    bars += _bar("steps", in_epoch, f"{state.step}/{steps}" if steps else f"{state.step}")
    return (
        '<div style="display:grid;grid-template-columns:max-content minmax(40px,1fr) max-content;'
        f'align-items:center;gap:2px 10px;margin:6px 0">{bars}</div>'
    )


def _bar(label: str, part: float, said: str) -> str:
    percent = min(max(part, 0.0), 1.0) * 100
    return (
        f'<div style="font-size:12px">{label} </div>'
        f'<div role="progressbar" aria-label="{label}" aria-valuemin="0" aria-valuemax="100"'
        f' aria-valuenow="{percent:.0f}" aria-valuetext="{said}" style="height:8px;border-radius:4px;'
        f'overflow:hidden;background:var(--jp-layout-color3,rgba(128,128,128,.3))">'
        f'<div style="width:{percent:.1f}%;height:100%;background:{TRAINING}"></div></div>'
        f'<div style="font-size:12px;text-align:right;min-width:5em">{said}</div>'
    )


# -- loss and metrics ---------------------------------------------------------------------------


def _numbers(state: RunState) -> str:
    rows = phrases.rows(state)
    if not rows and state.started_at is None:
        return ""
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:12px 20px;align-items:flex-start;margin:8px 0">'
        f"{_table(state, rows)}{_plots(state)}</div>"
    )


def _table(state: RunState, rows: list[Row]) -> str:
    if not rows:
        return ""
    shown = phrases.columns(state, rows)
    cell = f"padding:2px 0 2px 14px;text-align:right;border:none;border-bottom:1px solid {RULE}"
    left = (
        f"padding:2px 0;text-align:left;font-weight:400;border:none;border-bottom:1px solid {RULE}"
    )
    head = "".join(
        f'<th scope="col" style="{cell};font-weight:400;min-width:5em;{_QUIET}">{_HEADS[name]}</th>'
        for name in shown
    )
    body = ""
    for row in rows:
        values = "".join(f'<td style="{cell}">{_text(getattr(row, name))}</td>' for name in shown)
        body += f'<tr style="background:none"><th scope="row" style="{left}">{_text(row.name)}</th>{values}</tr>'
    return (
        '<table style="border-collapse:collapse;border:none;margin:0;font-size:13px;'
        f'font-variant-numeric:tabular-nums;table-layout:auto">'
        f'<caption style="text-align:left;caption-side:top;padding:0;color:inherit;{_QUIET};'
        f'font-size:12px">{_caption(state)}</caption>'
        f'<thead><tr style="background:none"><th scope="col" style="{left}"></th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _caption(state: RunState) -> str:
    if not state.epoch_numbers:
        return f"epoch {state.epoch + 1}"
    return f"after epoch {state.epoch_numbers[-1] + 1}"


def _plots(state: RunState) -> str:
    if not state.curve and not state.epoch_numbers:
        return ""
    metric = phrases.metric(state)
    panels = [_panel(state, "loss")] + ([_panel(state, metric)] if metric else [])
    return "".join(
        f'<div style="flex:1 1 195px;min-width:0;max-width:280px">{panel}</div>' for panel in panels
    )


def _panel(state: RunState, name: str) -> str:
    lines = [plot.Line("training", phrases.series(state, name), TRAINING, "circle")]
    if name == "loss":
        lines.insert(0, plot.Line("running", state.curve, TRAINING))
    legend = _key(TRAINING, "●", "training")
    validation = phrases.series(state, f"val_{name}")
    if validation:
        lines.append(plot.Line("validation", validation, VALIDATION, "square"))
        legend += _key(VALIDATION, "■", "validation")
    ends = [n + 1 for n in state.epoch_numbers] + [math.ceil(x) for x, _ in state.curve]
    return (
        plot.svg(name, lines, float(state.first_epoch), float(max(ends)))
        + f'<div style="font-size:11px;text-align:right">{legend}</div>'
    )


def _key(colour: str, mark: str, label: str) -> str:
    return f' <span style="color:{colour}">{mark}</span> <span style="{_QUIET}">{label}</span>'


# -- trouble ------------------------------------------------------------------------------------


def _trouble(state: RunState) -> str:
    parts = [_note("warn", _text(said)) for said in phrases.alarms(state)]
    parts += [_note("warn", _text(phrases.restarted(r))) for r in state.restarts[-_SHOWN:]]
    hidden = len(state.warnings) - _SHOWN
    if hidden > 0:
        parts.append(_note("warn", f"{hidden} warnings before these"))
    parts += [_note("warn", _warning(warned)) for warned in state.warnings[-_SHOWN:]]
    error = state.error
    if error is not None:
        parts.append(_note("bad", _error(error)))
    elif state.message and state.status != "succeeded":
        tone = "quiet" if state.status == "stopped" else "bad"
        parts.append(_note(tone, _lines(state.message)))
    return "".join(parts)


def _note(tone: str, content: str) -> str:
    return (
        f'<div style="border-left:3px solid {TONES[tone]};padding:1px 0 1px 8px;margin:6px 0;'
        f'overflow-wrap:anywhere">{content}</div>'
    )


def _warning(warned: Warned) -> str:
    who = "" if warned.worker is None else f"worker {warned.worker}: "
    first, _, rest = clean(warned.message).strip().partition("\n")
    if not rest:
        return escape(who + first)
    return f"<details><summary>{escape(who + first)}</summary>{_pre(escape(rest))}</details>"


def _error(failed: Failed) -> str:
    heading = f"<strong>{_text(phrases.headline(failed))}</strong>"
    shown = "\n".join(_traced(code, marked) for code, marked in phrases.traceback_lines(failed))
    advice = "<br>".join(escape(said) for said in phrases.advice(failed))
    if shown:
        return f"{heading}{_pre(shown)}{advice}"
    return f"{heading}<br>{advice}"


def _traced(line: str, marked: bool) -> str:
    if not marked:
        return escape(line)
    return (
        '<mark style="background:rgba(224,72,62,.2);color:inherit;font-weight:600">'
        f"→{escape(line[1:])}</mark>"
    )


def _pre(content: str) -> str:
    return (
        f'<pre style="font-family:{_CODE};font-size:12px;line-height:1.45;margin:4px 0;padding:6px 8px;'
        "white-space:pre-wrap;overflow-wrap:anywhere;max-height:30em;overflow:auto;color:inherit;"
        f'background:rgba(128,128,128,.1);border-radius:4px">{content}</pre>'
    )


def _next(state: RunState) -> str:
    style = (
        f"font-family:{_CODE};font-size:12px;color:inherit;background:rgba(128,128,128,.13);"
        "padding:1px 4px;border-radius:3px"
    )
    steps = " · ".join(
        f'<span style="white-space:nowrap"><code style="{style}">{_text(code)}</code>'
        f' <span style="{_QUIET}">{_text(does)}</span></span>'
        for code, does in phrases.next_steps(state)
    )
    return f'<div style="font-size:12px;margin-top:8px">{steps}</div>'


def _lines(value: str) -> str:
    return escape(clean(value)).replace("\n", "<br>")


def _text(value: object) -> str:
    return escape(clean(value))


__all__ = ["html", "line", "runs_html", "runs_text", "text"]
