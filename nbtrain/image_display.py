"""Showing how a build, a push, a save or a load gets on: in a notebook, in a terminal, in a log."""

from __future__ import annotations

import contextlib
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from . import markup
from .display import is_terminal, kernel_shell
from .formats import duration, one_line, size
from .images.progress import Progress, Watch
from .markup import Html, div, span

if TYPE_CHECKING:
    from rich.console import RenderableType

#: What is shown is updated at most this often, in seconds.
INTERVAL_S = 0.2
#: Layers that are on their way are shown up to this many.
MOST = 6
#: A log gets a line whenever so much more of the bytes is through.
_TENTH = 0.1


@dataclass(frozen=True)
class Row:
    """A line of what is shown: a bar where `fraction` is known."""

    name: str
    fraction: float | None
    detail: str


@contextlib.contextmanager
def shown() -> Iterator[Watch]:
    """Yield who is to be told of the progress, and shows it."""
    shell = kernel_shell()
    if shell is not None:
        yield _Notebook(shell)
    elif is_terminal():
        with _Terminal() as terminal:
            yield terminal
    else:
        yield _Lines()


# -- what is to be said: pure ---------------------------------------------------------------------


def rows(progress: Progress, seconds: float) -> list[Row]:
    """Return the rows: of the whole, then of the layers that are on their way."""
    told = [Row(progress.title, progress.fraction, _whole(progress, seconds))]
    moving = [
        Row(name, layer.done / layer.total, f"{size(layer.done)} of {size(layer.total)}")
        for name, layer in progress.layers.items()
        if layer.total and not layer.finished
    ]
    return told + moving[:MOST]


def _whole(progress: Progress, seconds: float) -> str:
    if progress.ended:
        return f"{'failed' if progress.error else 'done'} in {duration(seconds)}"
    parts = []
    if progress.steps:
        parts.append(f"step {progress.step} of {progress.steps}")
    if progress.layers:
        parts.append(f"{progress.layers_finished} of {len(progress.layers)} layers")
    done, total = progress.bytes
    if total:
        parts.append(f"{size(done)} of {size(max(done, total))}")
    return ", ".join(parts)


def saying(progress: Progress) -> str:
    """Return what a build is at: its instruction, and the last line that it wrote."""
    if progress.ended or not progress.doing:
        return ""
    last = f" · {one_line(progress.said[-1])}" if progress.said else ""
    return f"{progress.doing[:60]}{last}"


def news(before: Progress | None, after: Progress, seconds: float) -> list[str]:
    """Return lines for a log: what is in `after` and was not in `before`."""
    first = before is None
    old = before or replace(after, layers={}, step=0, done=0, total=0, ended=False)
    lines = [after.title] if first else []
    if after.step != old.step:
        lines.append(f"step {after.step}/{after.steps}: {after.doing[:100]}")
    for name, layer in after.layers.items():
        if layer.finished and not (name in old.layers and old.layers[name].finished):
            lines.append(f"layer {name}: {'there already' if layer.there else size(layer.total)}")
    if after.total and not after.ended and _tenths(after) > _tenths(old):
        lines.append(_whole(after, seconds))
    if after.ended and not old.ended:
        lines.append(f"{after.title}: {_whole(after, seconds)}")
    return lines


def _tenths(progress: Progress) -> int:
    return int((progress.fraction or 0.0) / _TENTH)


def html(progress: Progress, seconds: float) -> Html:
    """Return the progress as an HTML fragment."""
    lines = [_bar(row) for row in rows(progress, seconds)]
    if said := saying(progress):
        lines.append(div(f"{markup.QUIET};font-family:{markup.CODE};font-size:12px", said[:160]))
    return div(f"font-family:{markup.FONT};font-size:13px", *lines)


def _bar(row: Row) -> Html:
    name = span("display:inline-block;min-width:16em;margin-right:1em", row.name)
    if row.fraction is None:
        return div("margin:2px 0", name, row.detail)
    filled = div(
        f"height:6px;border-radius:3px;background:{markup.TRAINING};width:{row.fraction:.1%}"
    )
    track = div(
        f"display:inline-block;vertical-align:middle;width:16em;height:6px;border-radius:3px;"
        f"margin-right:1em;background:{markup.TRACK}",
        filled,
        role="progressbar",
        aria_valuenow=f"{row.fraction:.0%}",
    )
    return div("margin:2px 0", name, track, row.detail)


def text(progress: Progress, seconds: float) -> str:
    """Return the progress as text."""
    said = saying(progress)
    lines = [
        f"{r.name}  {'' if r.fraction is None else f'{r.fraction:.0%}  '}{r.detail}".rstrip()
        for r in rows(progress, seconds)
    ]
    return "\n".join([*lines, said] if said else lines)


# -- where it is shown ----------------------------------------------------------------------------


class _Paced:
    """Counts the time, and keeps updates apart; the first and the last always come through."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._shown = 0.0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def due(self, progress: Progress) -> bool:
        now = time.monotonic()
        if not progress.ended and now - self._shown < INTERVAL_S:
            return False
        self._shown = now
        return True


class _Notebook(_Paced):
    """An output of the cell, updated in place."""

    def __init__(self, shell: Any) -> None:
        super().__init__()
        self._publisher, self._id, self._update = shell.display_pub, uuid.uuid4().hex, False

    def __call__(self, progress: Progress) -> None:
        if not self.due(progress):
            return
        seconds = self.seconds
        self._publisher.publish(
            {"text/html": html(progress, seconds), "text/plain": text(progress, seconds)},
            metadata={},
            transient={"display_id": self._id},
            update=self._update,
        )
        self._update = True


class _Terminal(_Paced):
    """Bars at the foot of the terminal, and one line when it is over."""

    def __enter__(self) -> _Terminal:
        from rich.console import Console
        from rich.live import Live

        self._progress: Progress | None = None
        self._live = Live(
            console=Console(stderr=True),
            get_renderable=self._drawn,
            refresh_per_second=5,
            transient=True,
        )
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()
        if self._progress is not None and self._progress.ended:
            print(text(self._progress, self.seconds), file=sys.stderr)

    def __call__(self, progress: Progress) -> None:
        self._progress = progress

    def _drawn(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        if self._progress is None:
            return Text()
        said = Text(saying(self._progress), style="dim", no_wrap=True, overflow="ellipsis")
        return Group(_table(rows(self._progress, self.seconds)), said)


def _table(drawn: Sequence[Row]) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for row in drawn:
        done = None if row.fraction is None else row.fraction * 100
        bar = ProgressBar(total=100, completed=done or 0, width=30, pulse=done is None)
        table.add_row(Text(row.name, no_wrap=True), bar, Text(row.detail, no_wrap=True))
    return table


class _Lines(_Paced):
    """A line for whatever is new."""

    def __init__(self) -> None:
        super().__init__()
        self._last: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        for line in news(self._last, progress, self.seconds):
            print(line, file=sys.stderr, flush=True)
        self._last = progress


# -- a table of images ----------------------------------------------------------------------------


def columns(values: Sequence[Sequence[str]]) -> str:
    """Return rows of text in columns."""
    widths = [max(map(len, column)) for column in zip(*values, strict=True)]
    return "\n".join(
        "  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)).rstrip() for row in values
    )


def table_html(values: Sequence[Sequence[str]]) -> Html:
    """Return rows as an HTML table; the first has the heads."""
    style = f"text-align:left;padding:3px 14px 3px 0;border:none;border-bottom:{markup.RULE}"
    heads, *others = values
    return markup.element(
        "table",
        markup.element("tr", *(markup.element("th", v, style=style, scope="col") for v in heads)),
        *(
            markup.element("tr", *(markup.element("td", v, style=style) for v in row))
            for row in others
        ),
        style="border-collapse:collapse;font-size:13px;margin:0",
    )
