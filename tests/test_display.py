"""Displays of live runs: in a real kernel, in a terminal, in a log."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

from nbtrain.display import INTERVAL_S, LiveDisplay, news, waiting
from nbtrain.runtime.events import Warned
from nbtrain.state import RunState, initial

from . import event_streams as streams
from .event_streams import T0, state

ROOT = Path(__file__).parents[1]

#: Cells begin with a run that goes on when `go` says so; it stands for what `Run` does.
PREAMBLE = """
import threading
from nbtrain.display import LiveDisplay
from nbtrain.state import fold, initial
from tests import event_streams as streams

class Made:
    def __init__(self, events):
        self.state = initial("digits", "id", "local", 2, streams.T0, 5)
        self.events = list(events)
        self.display = LiveDisplay(lambda: self.state)
    def go(self, count=10**9):
        while self.events and count:
            self.state = fold(self.state, self.events.pop(0))
            self.display.update()
            count -= 1
        if not self.state.live:
            self.display.close()
    def go_in_thread(self, count=10**9):
        thread = threading.Thread(target=self.go, args=(count,))
        thread.start()
        return thread
made = Made(streams.whole())
"""


def executed(*cells: str) -> list[list[nbformat.NotebookNode]]:
    """Run cells in a real kernel, as nbconvert and papermill do; return each cell's outputs."""
    sources = [PREAMBLE, *map(textwrap.dedent, cells)]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
    client = NotebookClient(notebook, timeout=60, kernel_name="python3")
    client.execute(cwd=str(ROOT), env={**os.environ, "PYTHONPATH": str(ROOT)})
    return [cell.outputs for cell in notebook.cells[1:]]


def title(output: nbformat.NotebookNode) -> str:
    return output.data["text/plain"].splitlines()[0]


def test_executed_notebook_holds_the_final_report_of_a_run_that_ends_in_a_later_cell():
    shown, later, last = executed(
        "made.display.show()",
        "thread = made.go_in_thread(); thread.join(); print('later')",
        "print('last')",
    )
    (report,) = shown
    assert title(report).startswith("digits · trained · 5 epochs")
    assert "trained" in report.data["text/html"]
    assert [o.text for o in later] == ["later\n"]
    assert [o.text for o in last] == ["last\n"]


def test_update_from_between_two_cells_comes_again_with_the_next_cell(tmp_path):
    # nbclient and papermill read only what has a running cell for its parent.
    wait = f"""
    import pathlib, time
    def between():
        while not pathlib.Path({str(tmp_path / "go")!r}).exists():
            time.sleep(0.01)
        made.go()
    threading.Thread(target=between).start()
    """
    with kernel() as client:
        for cell in (PREAMBLE, "made.display.show()", textwrap.dedent(wait)):
            client.execute_interactive(cell, timeout=60, output_hook=lambda _: None)
        (tmp_path / "go").touch()
        between = updates_until(client, lambda m: "trained" in report_of(m))
        cell = client.execute("pass")
        again = updates_until(client, lambda m: m["parent_header"]["msg_id"] == cell)
    assert all(m["parent_header"]["msg_id"] != cell for m in between)
    assert report_of(again[-1]) == report_of(between[-1])


@contextlib.contextmanager
def kernel():
    """Start a kernel that finds this checkout, and end it."""
    manager, client = start_new_kernel(
        cwd=str(ROOT), env={**os.environ, "PYTHONPATH": str(ROOT)}, startup_timeout=60
    )
    try:
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def updates_until(client, condition):
    """Return the updates of displays up to the one for which the condition holds."""
    found = []
    while not found or not condition(found[-1]):
        message = client.get_iopub_msg(timeout=30)
        if message["msg_type"] == "update_display_data":
            found.append(message)
    return found


def report_of(message):
    return message["content"]["data"]["text/plain"]


def test_run_that_goes_on_after_the_last_cell_leaves_its_latest_report():
    shown, _ = executed("made.display.show()", "made.go(60)")
    assert title(shown[0]).startswith("digits · training · epoch 3/5")


def test_printing_in_another_cell_stays_in_that_cell():
    shown, printed = executed(
        "made.display.show()",
        """
        thread = made.go_in_thread()
        for i in range(2000):
            print(i)
        thread.join()
        """,
    )
    assert [o.output_type for o in shown] == ["display_data"]
    assert "".join(o.text for o in printed).split() == [str(i) for i in range(2000)]


def test_report_shown_twice_is_kept_up_to_date_twice():
    first, second, _ = executed("made.display.show()", "made.display.show()", "made.go()")
    assert title(first[0]) == title(second[0])
    assert "trained" in title(first[0])


def test_shown_under_capture_it_says_nothing_and_does_no_harm():
    shown, later = executed("%%capture kept\nmade.display.show()", "made.go(); kept.show()")
    assert shown == []
    assert title(later[0]).startswith("digits · ")


class Publisher:
    """Stands for ipykernel's."""

    pub_socket = None

    def __init__(self) -> None:
        self.sent: list[dict[str, object]] = []
        self.final = threading.Event()

    def publish(self, data, *, transient, update=False, **_):
        self.sent.append({"data": data, "id": transient["display_id"], "update": update})
        if "trained" in data["text/plain"]:
            self.final.set()


class Shell:
    """Stands for the shell of a kernel."""

    kernel = object()

    def __init__(self) -> None:
        self.display_pub = Publisher()
        self.events = self
        self.registered: list[object] = []

    def register(self, _name, function):
        self.registered.append(function)

    def unregister(self, _name, function):
        self.registered.remove(function)


class Source:
    """A run whose state is put in from outside."""

    def __init__(self, begun: RunState) -> None:
        self.state = begun


@pytest.fixture
def shell(monkeypatch):
    """A notebook's shell, which keeps what is sent."""
    made = Shell()
    monkeypatch.setattr("nbtrain.display.kernel_shell", lambda: made)
    return made


def test_many_updates_make_few_messages_and_the_last_one_comes(shell):
    source = Source(initial("digits", workers=2, created=T0, epochs=5))
    display = LiveDisplay(lambda: source.state, clock=lambda: T0)
    began = time.monotonic()
    display.show()
    for count in range(1, 90):
        source.state = state(streams.whole()[:count])
        display.update()
    source.state = state(streams.whole())
    display.update()
    assert shell.display_pub.final.wait(10)
    display.close()
    sent = shell.display_pub.sent
    # The first, the last, and one an interval: a busy machine takes longer, and may send more.
    assert len(sent) <= 2 + (time.monotonic() - began) / INTERVAL_S
    assert [m["update"] for m in sent] == [False] + [True] * (len(sent) - 1)
    assert len({m["id"] for m in sent}) == 1


def test_nothing_is_sent_when_nothing_changed(shell):
    display = LiveDisplay(lambda: state(streams.partial()), clock=lambda: T0)
    display.show()
    display.update()
    display.send()
    display.close()
    assert len(shell.display_pub.sent) == 1


def test_cells_are_not_followed_when_the_run_has_ended(shell):
    display = LiveDisplay(lambda: state(streams.whole()), clock=lambda: T0)
    display.show()
    assert len(shell.registered) == 2
    for function in list(shell.registered):
        function(None)
    assert shell.registered == []


def test_kernel_that_shuts_down_is_no_error(shell, monkeypatch):
    source = Source(state(streams.partial()))
    display = LiveDisplay(lambda: source.state, clock=lambda: T0)
    display.show()

    def closed(*_args, **_options):
        raise RuntimeError("socket is closed")

    monkeypatch.setattr(shell.display_pub, "publish", closed)
    source.state = state(streams.whole())
    display.close()


# -- terminals and logs -------------------------------------------------------------------------


def test_outside_a_notebook_one_line_is_printed(capsys):
    LiveDisplay(lambda: state(streams.partial())).show()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("digits: training, epoch 3/5")
    assert err.endswith("(digits.wait() shows how it gets on)\n")


def test_log_has_a_line_for_each_epoch_and_change(capsys):
    source = Source(initial("digits", "id", "local", 2, T0, 5))
    with waiting(source):
        source.state = state(streams.partial())
        source.state = state(streams.whole())
    lines = capsys.readouterr().err.splitlines()
    assert sum(": epoch " in one for one in lines) == 5
    assert lines[-1].startswith("digits: trained, 5 epochs in ")


def test_waiting_for_a_run_that_has_ended_says_nothing(capsys):
    with waiting(Source(state(streams.whole()))):
        pass
    assert capsys.readouterr() == ("", "")


def test_news_are_told_once():
    before: RunState | None = None
    told = []
    events = streams.with_restart()
    for count in range(len(events) + 1):
        after = state(events[:count])
        told += news(before, after)
        before = after
    twice = {one for one in told if told.count(one) > 1}
    assert twice == {"digits: training"}  # before the restart and after it
    assert "digits: worker 1 was lost in epoch 3 (killed by SIGKILL)" in told
    assert sum(": epoch " in one for one in told) == 5


def test_warnings_are_news():
    events = streams.partial()
    before = state(events)
    after = state([*events, Warned(code="x", message="odd", seq=9999)])
    assert news(before, after) == ["digits: warning: odd"]


def test_terminal_shows_a_live_report_and_leaves_one_line():
    code = """
    import sys, time
    from nbtrain.display import waiting
    from tests import event_streams as streams
    class Run:
        state = streams.state(streams.partial())
    with waiting(Run):
        time.sleep(0.5)
        Run.state = streams.state(streams.whole())
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stderr=theirs,
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "90", "LINES": "30"},
    )
    os.close(theirs)
    seen = b""
    try:
        while piece := os.read(ours, 4096):
            seen += piece
    except OSError:  # how a pty says that the other end is closed
        pass
    os.close(ours)
    assert process.wait(30) == 0
    words = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    assert "epoch 3/5, step 12/45" in words
    assert "█" in words
    assert words.rstrip().splitlines()[-1].startswith("digits: trained, 5 epochs")


def test_import_takes_nothing_heavy_along():
    heavy = ("rich", "numpy", "IPython")
    code = f"import nbtrain.display, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "[]\n"
