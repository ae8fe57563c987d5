"""The report of a run as HTML: a state goes in, a fragment for a notebook's output comes out.

It has inline styles and nothing else: no script, nothing to load, and colours of the front end's
theme with fallbacks. Where styles are taken away (GitHub) plain text and a table remain.
"""

from __future__ import annotations

import math

from . import phrases, plot
from .formats import clean, plural
from .markup import (
    CODE,
    FONT,
    QUIET,
    RULE,
    TINT,
    TONES,
    TRACK,
    TRAINING,
    VALIDATION,
    Html,
    div,
    element,
    html_of,
    lines,
    span,
)
from .phrases import Row
from .runs_table import runs_html, runs_text
from .runtime.events import Failed, Warned
from .state import RunState, WorkerState
from .text_report import line, text

__all__ = ["html", "line", "runs_html", "runs_text", "text"]

#: Above this many workers the strip shows their signs without their numbers.
_NUMBERED = 16

#: At most this many signs are drawn; the sentence beside them counts all workers.
_DRAWN = 512

#: At most this many restarts, and this many warnings, are shown.
_SHOWN = 5

_HEADS = {"now": "so far", "training": "training", "validation": "validation"}


def html(state: RunState, now: float) -> str:
    """Return the report; `now` is Unix time, for what is counted since an event."""
    return div(
        f"font-family:{FONT};font-size:13px;line-height:1.5;max-width:860px;padding:6px 2px;"
        "color:var(--jp-ui-font-color1,inherit);font-variant-numeric:tabular-nums",
        _title(state, now),
        _facts(state),
        _workers(state),
        _bars(state),
        _numbers(state),
        _trouble(state),
        _next(state),
        role="group",
        aria_label=f"Training run {state.name}",
    )


# -- what it is doing ---------------------------------------------------------------------------


def _title(state: RunState, now: float) -> Html:
    bold = "font-weight:600"
    status, *rest = phrases.title(state, now)
    dot = html_of(" ", span(QUIET, "·"), " ")
    parts = [
        element("strong", state.name, style=bold),
        element("strong", status, style=f"{bold};color:{TONES[phrases.tone(state)]}"),
        *map(html_of, rest),
    ]
    return div("font-size:15px;overflow-wrap:anywhere", Html(dot.join(parts)))


def _facts(state: RunState) -> Html:
    facts = [plural(len(state.workers), "worker"), *phrases.facts(state)]
    return div(f"{QUIET};font-size:12px", " · ".join(facts))


def _workers(state: RunState) -> Html:
    if state.status == "succeeded" or not state.workers:
        return Html()
    few = len(state.workers) <= _NUMBERED
    crew = phrases.crew(state)
    said = [crew, phrases.speed(state)] if state.live else [crew]
    return div(
        "display:flex;flex-wrap:wrap;align-items:center;gap:2px 10px;margin:6px 0",
        span(
            "display:flex;flex-wrap:wrap;" + ("gap:4px" if few else "gap:1px;letter-spacing:1px"),
            *map(_chip if few else _dot, state.workers[:_DRAWN]),
            role="img",
            aria_label=f"workers: {crew}",
        ),
        " ",
        span("", " · ".join(part for part in said if part)),
    )


def _chip(worker: WorkerState) -> Html:
    colour = TONES[phrases.TONES.get(worker.phase, "quiet")]
    chip = span(
        f"display:inline-block;min-width:2.5em;padding:0 4px;box-sizing:border-box;font-size:12px;"
        f"text-align:center;line-height:18px;border:1px solid {colour};border-radius:4px;"
        f"color:{colour}",
        f"{phrases.sign(worker)}\u202f{worker.index}",
        title=phrases.tooltip(worker),
    )
    return html_of(chip, " ")


def _dot(worker: WorkerState) -> Html:
    colour = TONES[phrases.TONES.get(worker.phase, "quiet")]
    return span(f"color:{colour}", phrases.sign(worker), title=phrases.tooltip(worker))


def _bars(state: RunState) -> Html:
    if not state.live and state.status != "lost":
        return Html()
    return div(
        "display:grid;grid-template-columns:max-content minmax(40px,1fr) max-content;"
        "align-items:center;gap:2px 10px;margin:6px 0",
        *(part for bar in phrases.bars(state) for part in _bar(bar)),
    )


def _bar(bar: phrases.Bar) -> list[Html]:
    percent = f"{bar.part * 100:.1f}"
    # Spans, so that it is one line where styles are taken away.
    filled = span(f"display:block;width:{percent}%;height:100%;background:{TRAINING}")
    track = span(
        f"display:block;height:8px;border-radius:4px;overflow:hidden;background:{TRACK}",
        filled,
        role="progressbar",
        aria_label=bar.name,
        aria_valuemin=0,
        aria_valuemax=100,
        aria_valuenow=percent,
        aria_valuetext=bar.said,
    )
    return [
        span("font-size:12px", f"{bar.name} "),
        track,
        html_of(span("font-size:12px;text-align:right;min-width:5em", bar.said), " "),
    ]


# -- loss and metrics ---------------------------------------------------------------------------


def _numbers(state: RunState) -> Html:
    rows = phrases.rows(state)
    if not rows:
        return Html()
    return div(
        "display:flex;flex-wrap:wrap;gap:12px 24px;align-items:flex-start;margin:8px 0",
        _table(state, rows),
        _plots(state),
    )


def _table(state: RunState, rows: list[Row]) -> Html:
    shown = phrases.columns(state, rows)
    # All that JupyterLab has rules of its own for is said here.
    cell = f"padding:2px 0 2px 14px;text-align:right;border:none;border-bottom:{RULE}"
    left = f"padding:2px 0;text-align:left;font-weight:400;border:none;border-bottom:{RULE}"
    over = f"{cell};font-weight:400;min-width:5em;{QUIET}"
    plain = "background:none"
    heads = (element("th", _HEADS[name], style=over, scope="col") for name in shown)
    body = (
        element(
            "tr",
            element("th", row.name, style=left, scope="row"),
            *(element("td", getattr(row, name), style=cell) for name in shown),
            style=plain,
        )
        for row in rows
    )
    return element(
        "table",
        element(
            "caption",
            _caption(state),
            style=f"text-align:left;caption-side:top;padding:0;color:inherit;{QUIET};font-size:12px",
        ),
        element("thead", element("tr", element("td", style=left), *heads, style=plain)),
        element("tbody", *body),
        style="border-collapse:collapse;border:none;margin:0;font-size:13px;"
        "font-variant-numeric:tabular-nums;table-layout:auto",
    )


def _caption(state: RunState) -> str:
    if not state.epoch_numbers:
        return f"epoch {state.epoch + 1}"
    return f"after epoch {state.epoch_numbers[-1] + 1}"


def _plots(state: RunState) -> Html:
    if not state.curve and not state.epoch_numbers:
        return Html()
    names = [name for name in ("loss", phrases.metric(state)) if name]
    panels = (div("flex:1 1 0;min-width:0;max-width:280px", _panel(state, n)) for n in names)
    return div("display:flex;flex:1 1 300px;min-width:0;gap:16px", *panels)


def _panel(state: RunState, name: str) -> Html:
    curves = [plot.Line("training", phrases.series(state, name), TRAINING, "circle")]
    if name == "loss":
        curves.insert(0, plot.Line("running", state.curve, TRAINING))
    validation = phrases.series(state, f"val_{name}")
    if validation:
        curves.append(plot.Line("validation", validation, VALIDATION, "square"))
    ends = [n + 1 for n in state.epoch_numbers] + [math.ceil(x) for x, _ in state.curve]
    return plot.svg(name, curves, float(state.first_epoch), float(max(ends)))


# -- trouble ------------------------------------------------------------------------------------


def _trouble(state: RunState) -> Html:
    notes = [_note("warn", said) for said in phrases.alarms(state)]
    notes += [_note("warn", phrases.restarted(r)) for r in state.restarts[-_SHOWN:]]
    hidden = len(state.warnings) - _SHOWN
    if hidden > 0:
        notes.append(_note("warn", f"{plural(hidden, 'warning')} before these"))
    notes += [_note("warn", _warning(warned)) for warned in state.warnings[-_SHOWN:]]
    if state.error is not None:
        notes.append(_note("bad", _error(state.error)))
    elif state.message and state.status != "succeeded":
        tone = "quiet" if state.status == "stopped" else "bad"
        notes.append(_note(tone, lines(state.message)))
    return html_of(*notes)


def _note(tone: str, content: str) -> Html:
    style = f"border-left:3px solid {TONES[tone]};padding:1px 0 1px 8px;margin:6px 0"
    return div(f"{style};overflow-wrap:anywhere", content)


def _warning(warned: Warned) -> Html:
    first, _, rest = phrases.warning(warned).partition("\n")
    if not rest:
        return html_of(first)
    return element("details", element("summary", first, style="cursor:pointer"), _pre(rest))


def _error(failed: Failed) -> Html:
    heading = element("strong", phrases.headline(failed))
    traced = [_traced(code, marked) for code, marked in phrases.traceback_lines(failed)]
    advice = lines("\n".join(phrases.advice(failed)))
    if traced:
        return html_of(heading, _pre(Html("\n".join(traced))), advice)
    return html_of(heading, Html("<br>"), advice)


def _traced(code: str, marked: bool) -> Html:
    if not marked:
        return html_of(code)
    style = "background:rgba(224,72,62,.2);color:inherit;font-weight:600"
    return element("mark", f"→{code[1:]}", style=style)


def _pre(content: str) -> Html:
    return element(
        "pre",
        content,
        style=f"font-family:{CODE};font-size:12px;line-height:1.45;margin:4px 0;padding:6px 8px;"
        "white-space:pre-wrap;overflow-wrap:anywhere;max-height:30em;overflow:auto;color:inherit;"
        f"background:{TINT};border-radius:4px",
    )


def _next(state: RunState) -> Html:
    code = f"font-family:{CODE};font-size:12px;color:inherit;background:{TINT};padding:1px 4px"
    steps = [
        span(
            "white-space:nowrap",
            element("code", clean(typed), style=f"{code};border-radius:3px"),
            " ",
            span(QUIET, does),
        )
        for typed, does in phrases.next_steps(state)
    ]
    return div("font-size:12px;margin-top:8px", Html(" · ".join(steps)))
