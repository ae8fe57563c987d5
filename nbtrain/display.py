"""Showing a run while it goes on: in a notebook, in a terminal, in a log."""

from __future__ import annotations

import contextlib
import contextvars
import math
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from . import phrases
from .formats import cut, duration, number, one_line, plural
from .report import html
from .state import RunState
from .text_report import line, text
from .view import view

if TYPE_CHECKING:
    from .widget import RunWidget

#: A notebook's display is updated at most this often, in seconds.
INTERVAL_S = 0.4

#: What is counted ("pulling the image, 40 s") goes on this often, in seconds.
TICK_S = 1.0

#: So long a front end that could answer is waited for before the report is sent as HTML instead
#: of a widget, in seconds.
PATIENCE_S = 5.0

#: Under this type the end of a run is kept in notebooks; JupyterLab with nbtrain draws it.
MIME = "application/vnd.nbtrain.run+json"

#: How long the end of a display waits for the last update to be sent.
_JOIN_S = 5.0

Source = Callable[[], RunState]


class _Shown(Protocol):
    """What can be waited for: a Run."""

    @property
    def state(self) -> RunState: ...


class LiveDisplay:
    """The report of a run in a notebook's output, kept up to date until the run has ended.

    Outside a notebook `show` prints one line: there nothing may be drawn while the user types
    (see `waiting`).

    Parameters
    ----------
    source
        Gives the state; called from a thread.
    clock
        Gives Unix time.
    answers
        What the buttons of a widget may ask for (see `widget.RunWidget`).
    """

    def __init__(
        self,
        source: Source,
        clock: Callable[[], float] = time.time,
        answers: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        self._source, self._clock, self._answers = source, clock, dict(answers or {})
        self._widget: RunWidget | None = None
        self._shown_at = 0.0
        self._shell = kernel_shell()
        self._id = uuid.uuid4().hex
        self._shown = self._closed = False
        self._changed = threading.Event()
        self._sending = threading.RLock()
        self._thread: threading.Thread | None = None
        self._last: dict[str, Any] = {}
        self._cells = _Cells(self)

    def show(self) -> None:
        """Show the report here; shown again, both outputs are kept up to date."""
        state = self._source()
        if self._shell is None:
            print(_announced(state), file=sys.stderr)
            return
        with self._sending:
            if self._widget is None and state.live:
                self._widget = _widget(self._shell, state, self._clock(), self._answers)
            self._last, self._shown_at = self._rendered(state), time.monotonic()
            drawn = self._widget.mime() if self._widget is not None and state.live else {}
            self._shell.display_pub.publish(
                self._last | drawn, metadata={}, transient={"display_id": self._id}
            )
            if not self._shown:
                self._cells.watch(self._shell.events)
            self._shown, self._closed = True, False
        if state.live:
            self._start()

    def update(self) -> None:
        """Say that the state has changed; from any thread, as often as it does."""
        self._changed.set()
        if self._shown and not self._closed:
            self._start()

    def close(self) -> None:
        """Send the state as it is now, and no more."""
        self._closed = True
        self._changed.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_JOIN_S)
        self.send()

    def send(self, *, again: bool = False) -> None:
        """Send the report if it changed; with `again` also if it did not."""
        if not self._shown:
            return
        with self._sending:
            state = self._source()
            if self._is_drawn(state):
                return
            report = self._rendered(state)
            publisher = self._publisher()
            if publisher is None or (report == self._last and not again):
                return
            self._last = report
            self._cells.note()
            # In an empty context ipykernel takes the cell that runs now for the parent. That is
            # what nbclient needs: it merges updates only if they come from the cell it waits for.
            # Front ends go by the display id alone.
            with contextlib.suppress(Exception):  # the kernel is shutting down: nobody looks
                contextvars.Context().run(
                    publisher.publish,
                    report,
                    metadata={},
                    transient={"display_id": self._id},
                    update=True,
                )

    def _start(self) -> None:
        with self._sending:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._keep_sending, name="nbtrain-display", daemon=True
                )
                self._thread.start()

    def _keep_sending(self) -> None:
        while not self._closed:
            self._changed.wait(TICK_S)
            self._changed.clear()
            self.send()
            if not self._source().live:
                # Should a new head go on with the run, `update` starts another thread.
                return
            time.sleep(INTERVAL_S)

    def _publisher(self) -> Any:
        """Return the kernel's publisher; None while %%capture has put its own in its place."""
        publisher = None if self._shell is None else self._shell.display_pub
        return publisher if hasattr(publisher, "pub_socket") else None

    def _rendered(self, state: RunState) -> dict[str, Any]:
        now = self._clock()
        report: dict[str, Any] = {"text/html": html(state, now), "text/plain": text(state, now)}
        if self._widget is not None and not state.live:
            report[MIME] = view(state, now)
        return report

    def _is_drawn(self, state: RunState) -> bool:
        """Have the widget draw a state; tell whether that is all there is to do.

        It is not at the end: a notebook that is opened later has the report and no widget. Nor is
        it where no widget comes to be seen, because the front end has none.
        """
        if self._widget is None:
            return False
        self._widget.draw(state, self._clock())
        if not state.live:
            return False
        if self._widget.drawn.is_set() or not self._is_overdue():
            return True
        self._widget = None
        return False

    def _is_overdue(self) -> bool:
        """Tell whether a front end that draws widgets would have answered by now."""
        assert self._widget is not None
        begin = self._shown_at if self._widget.reachable else self._cells.idle_since
        return time.monotonic() - begin > PATIENCE_S

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self._closed or not self._source().live


class _Cells:
    """Has a display sent again at the end of a cell.

    Whoever runs a notebook without a front end (nbclient, papermill) reads only what is sent while
    a cell runs: an update from between two cells would be missing in the file, and so would one
    that the last cell was quicker than.
    """

    def __init__(self, display: LiveDisplay) -> None:
        self._display = display
        self._running = True
        self._missed = False
        self._events: Any = None
        self.idle_since = math.inf

    def watch(self, events: Any) -> None:
        """Begin to follow the cells."""
        self._events = events
        events.register("pre_run_cell", self._begin)
        events.register("post_run_cell", self._end)

    def note(self) -> None:
        """Take down that an update is being sent."""
        self._missed = self._missed or not self._running

    def _begin(self, _info: object = None) -> None:
        self._running, self.idle_since = True, math.inf

    def _end(self, _result: object = None) -> None:
        over = self._display.over
        self._display.send(again=self._missed)
        self._running, self._missed, self.idle_since = False, False, time.monotonic()
        if over:
            self._events.unregister("pre_run_cell", self._begin)
            self._events.unregister("post_run_cell", self._end)


@contextlib.contextmanager
def waiting(
    run: _Shown, *, shown: bool = True, clock: Callable[[], float] = time.time
) -> Iterator[None]:
    """Show how a run gets on while the caller waits for it.

    In a notebook its display does that already, or is shown for the time being if not `shown`. In
    a terminal a live report is drawn; elsewhere a line is written per epoch and change.
    """
    state = run.state
    if not state.live:
        yield
        return
    if kernel_shell() is not None:
        with contextlib.nullcontext() if shown else _displayed(run, clock):
            yield
        return
    with _drawn(run, clock) if is_terminal() else _written(run):
        yield


@contextlib.contextmanager
def _displayed(run: _Shown, clock: Callable[[], float]) -> Iterator[None]:
    display = LiveDisplay(lambda: run.state, clock)
    display.show()
    try:
        yield
    finally:
        display.close()


@contextlib.contextmanager
def _drawn(run: _Shown, clock: Callable[[], float]) -> Iterator[None]:
    """Draw the report in place, at the foot of the terminal."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True)

    def report() -> Text:
        drawn = text(run.state, clock(), width=console.width - 1, color=not console.no_color)
        return Text.from_ansi(drawn, no_wrap=True)

    try:
        with Live(console=console, get_renderable=report, refresh_per_second=5, transient=True):
            yield
    finally:
        print(line(run.state, clock(), console.width), file=sys.stderr)


@contextlib.contextmanager
def _written(run: _Shown) -> Iterator[None]:
    """Write a line for whatever is new."""
    over = threading.Event()
    file = sys.stderr

    def write() -> None:
        told: RunState | None = None
        while True:
            last = over.is_set()
            state = run.state
            for said in news(told, state):
                print(said, file=file, flush=True)
            told = state
            if last:
                return
            over.wait(0.25)

    thread = threading.Thread(target=write, name="nbtrain-lines", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(_JOIN_S)


def news(before: RunState | None, after: RunState) -> list[str]:
    """Return lines for a log: what is in the state `after` and was not in `before`."""
    name = one_line(after.name)
    epochs = before.epoch_numbers if before else ()
    status = before.status if before else ""
    lines = [_epoch_line(after, i) for i, n in enumerate(after.epoch_numbers) if n not in epochs]
    warned = before.warnings if before else ()
    lines += [f"warning: {one_line(w.message)}" for w in after.warnings if w not in warned]
    restarts = len(before.restarts) if before else 0
    lines += [phrases.restarted(r) for r in after.restarts[restarts:]]
    if after.ended and not (before and before.ended):
        return [*(f"{name}: {said}" for said in lines), line(after, after.last_time, 400)]
    # Validation comes and goes with every epoch.
    doing = before.doing if before else ""
    if _begun(doing) != _begun(after.doing) != "" or (
        after.status != status and {after.status, status} != {"training", "validating"}
    ):
        lines.append(_status_line(after))
    return [f"{name}: {said}" for said in lines]


def _begun(doing: str) -> str:
    """Return what a start is at, without how far it is."""
    return doing.partition(":")[0]


def _status_line(state: RunState) -> str:
    if state.status == "starting":
        return state.doing or f"{plural(len(state.workers), 'worker')} starting"
    return one_line(phrases.title(state, state.last_time)[0])


def _epoch_line(state: RunState, index: int) -> str:
    of = "" if state.epochs is None else f"/{state.epochs}"
    values = ", ".join(f"{one_line(k)} {number(v)}" for k, v in state.epoch_logs[index].items())
    took = duration(state.epoch_seconds[index])
    return f"epoch {state.epoch_numbers[index] + 1}{of} in {took}: {values}"


def _announced(state: RunState) -> str:
    said = line(state, time.time(), 200)
    return f"{said} ({one_line(state.name)}.wait() shows how it gets on)" if state.live else said


def _widget(
    shell: Any, state: RunState, now: float, answers: dict[str, Callable[..., Any]]
) -> RunWidget | None:
    """Return a widget where a person may look at it, else None.

    Whoever runs a notebook without a front end (nbclient, papermill) can't ask for input either.
    """
    if not getattr(shell.kernel, "_allow_stdin", False):
        return None
    try:
        from .widget import RunWidget, script
    except ImportError:
        return None
    return RunWidget(state, now, answers) if script() else None


def warm_up_in_background() -> None:
    """Import in a notebook what widgets need, so that the first of them appears at once."""

    def warm_up() -> None:
        with contextlib.suppress(ImportError):
            from . import widget  # noqa: F401

    if kernel_shell() is not None:
        threading.Thread(target=warm_up, name="nbtrain-widgets", daemon=True).start()


def kernel_shell() -> Any:
    """Return IPython's shell where it belongs to a kernel (a notebook), else None."""
    # Looked up and not imported: where IPython runs, it is loaded.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell if getattr(shell, "kernel", None) is not None else None


def is_terminal() -> bool:
    """Tell whether what is written to stderr is read by a person."""
    return bool(getattr(sys.stderr, "isatty", lambda: False)())


@contextlib.contextmanager
def passing() -> Iterator[Callable[[str], None]]:
    """Give a function that shows a line in place of the one before; none is left at the end.

    A log keeps the first one.
    """
    shell = kernel_shell()
    shown = _Passing() if shell is None else _PassingInNotebook(shell)
    try:
        yield shown.tell
    finally:
        shown.clear()


class _Passing:
    """A line at the foot of a terminal, or in a log."""

    def __init__(self) -> None:
        self._told: float | None = None

    def tell(self, said: str) -> None:
        now = time.monotonic()
        if self._told is not None and (now - self._told < INTERVAL_S or not self._replaces()):
            return
        self._show(said, first=self._told is None)
        self._told = now

    def clear(self) -> None:
        if self._told is not None and self._replaces():
            self._show("", first=False)

    def _replaces(self) -> bool:
        return is_terminal()

    def _show(self, said: str, *, first: bool) -> None:
        if not is_terminal():
            print(said, file=sys.stderr, flush=True)
            return
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[K{cut(said, width)}", end="", file=sys.stderr, flush=True)


class _PassingInNotebook(_Passing):
    """A line in the output of the cell that runs."""

    def __init__(self, shell: Any) -> None:
        super().__init__()
        self._shell, self._id = shell, uuid.uuid4().hex

    def _replaces(self) -> bool:
        return True

    def _show(self, said: str, *, first: bool) -> None:
        self._shell.display_pub.publish(
            {"text/plain": said}, metadata={}, transient={"display_id": self._id}, update=not first
        )
