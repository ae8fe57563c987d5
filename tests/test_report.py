"""What reports say, in HTML and in text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings

from nbtrain import formats
from nbtrain.backend import Placement
from nbtrain.formats import cells
from nbtrain.report import html, line, runs_html, runs_text, text
from nbtrain.runtime.events import Ended, Failed, Phase, Warned
from nbtrain.state import RunState, fold, fold_all, initial, mark_lost, mark_stopping

from . import event_streams as streams
from .event_streams import T0, epoch, stamped, started, starting, state
from .test_state import event_lists


def parsed(fragment: str) -> ET.Element:
    """Parse HTML, which is to be well-formed as XML too but for `<br>` and entities."""
    return ET.fromstring(fragment.replace("<br>", "<br/>").replace("&nbsp;", " "))


def shown(run: RunState, seconds: float = 1.0) -> str:
    """Return the words of the HTML report."""
    words = "".join(parsed(html(run, run.last_time + seconds)).itertext())
    return re.sub(r"\s+", " ", words)


def said(run: RunState, seconds: float = 1.0, **options: int) -> str:
    """Return the text report."""
    return text(run, run.last_time + seconds, **options)


STATES = {
    "none": lambda: initial("digits", "x", "local", 2, T0, 5),
    "starting": lambda: state(stamped(starting())),
    "first": lambda: state(stamped([*started(), *list(epoch(0))[:3]])),
    "partial": lambda: state(streams.partial()),
    "whole": lambda: state(streams.whole()),
    "no validation": lambda: state(streams.whole(validation=False)),
    "restart": lambda: state(streams.with_restart()),
    "user error": lambda: state(streams.with_user_error()),
    "nan": lambda: state(streams.with_nan()),
    "warnings": lambda: state(streams.with_warnings()),
    "long": lambda: state(streams.long_run(500, 20), epochs=500),
    "64 workers": lambda: state(streams.partial(64), 64),
    "lost": lambda: mark_lost(state(streams.partial()), "its head process is gone"),
    "stopping": lambda: mark_stopping(state(streams.partial())),
}


@pytest.fixture(params=STATES)
def run(request: pytest.FixtureRequest) -> RunState:
    """A run of each sort."""
    return STATES[request.param]()


def test_html_is_well_formed_and_self_contained(run):
    fragment = html(run, run.last_time)
    tags = {one.tag for one in parsed(fragment).iter()}
    assert not tags & {"script", "style", "link", "img", "iframe"}
    assert not re.search(r"https?://|url\(|\son\w+=", fragment)


def test_html_of_any_run_is_small(run):
    assert len(html(run, run.last_time)) < 32_000


@pytest.mark.parametrize("width", [20, 40, 80, 120])
def test_no_line_of_text_is_too_wide(run, width):
    lines = said(run, width=width).splitlines()
    assert max(map(cells, lines)) <= width
    assert cells(line(run, run.last_time, width)) <= width
    assert len(lines) < 30


def test_colour_changes_no_word(run):
    coloured = text(run, run.last_time, color=True)
    assert re.sub(r"\x1b\[\d*m", "", coloured) == text(run, run.last_time)


def test_report_says_nothing_new_by_itself(run):
    assert html(run, run.last_time) == html(run, run.last_time)


@given(event_lists())
@settings(deadline=None, max_examples=60)
def test_any_state_can_be_drawn(items):
    run = fold_all(initial("x", workers=2, epochs=3), items)
    parsed(html(run, 20.0))
    assert max(map(cells, text(run, 20.0, width=50).splitlines())) <= 50
    assert "\n" not in line(run, 20.0, 60)
    parsed(runs_html([run], 20.0))
    assert runs_text([run], 20.0)


# -- what is said -------------------------------------------------------------------------------


def test_title_says_where_the_training_is():
    run = state(streams.partial())
    title = "digits · training · epoch 3/5, step 12/45 · 12 s left"
    assert shown(run).startswith(title)
    assert said(run).splitlines()[0] == title
    assert line(run, run.last_time + 1, 200).startswith(
        "digits: training, epoch 3/5, step 12/45, 12 s left, accuracy 0.8"
    )


def test_time_left_runs_down_between_events():
    run = state(streams.partial())
    assert "9 s left" in said(run, 4)
    assert "0 s left" in said(run, 400)


def test_start_says_which_worker_is_waited_for_and_how_long():
    run = state(stamped(list(starting())[:3]))
    run = fold(run, Placement(1, "pending", "pulling the image\ndetails"))
    for report in (shown(run, 40), said(run, 40)):
        assert "worker 1: pulling the image, 42 s" in report


def test_training_and_validation_stand_side_by_side():
    run = state(streams.whole())
    table = parsed(html(run, 0)).find(".//table")
    assert table is not None
    rows = [[("".join(cell.itertext())) for cell in row] for row in table.iter("tr")]
    assert rows[0] == ["", "training", "validation"]
    assert rows[1] == ["loss", "0.1546", "0.1777"]
    assert rows[2][0] == "accuracy"
    assert re.search(r"loss +0\.1546 +0\.1777 +█", said(run))


def test_running_values_have_a_column_while_the_run_is_live():
    assert "so far" in shown(state(streams.partial()))
    assert "so far" not in shown(state(streams.whole()))


def test_run_without_validation_has_no_such_column():
    run = state(streams.whole(validation=False))
    assert "validation" not in shown(run)
    assert "validation" not in said(run)


def test_plots_are_described():
    plots = parsed(html(state(streams.whole()), 0)).findall(".//svg")
    assert all(p.get("role") == "img" for p in plots)
    said = [p.get("aria-label") or "" for p in plots]
    assert [words.split()[0] for words in said] == ["loss", "accuracy"]
    assert "training from 1.203 to 0.1546" in said[0]


def test_plot_of_a_long_run_is_thin():
    run = state(streams.long_run(500, 20), epochs=500)
    for curve in parsed(html(run, 0)).findall(".//polyline"):
        assert len((curve.get("points") or "").split()) <= 200


def test_bars_are_labelled():
    bars = parsed(html(state(streams.partial()), 0)).findall(".//*[@role='progressbar']")
    assert [b.get("aria-label") for b in bars] == ["epochs", "steps"]
    assert [b.get("aria-valuetext") for b in bars] == ["2/5", "12/45"]
    assert bars[0].get("aria-valuenow") == "45.3"


def test_workers_can_be_told_apart_without_colour():
    run = state(stamped(list(starting())[:3]))
    chips = parsed(html(run, 0)).findall(".//span[@title]")
    assert [c.text for c in chips] == ["◔\u202f0", "○\u202f1"]
    assert chips[0].get("title") == "worker 0: starting · on localhost · pid 4000"


def test_64_workers_are_a_strip_and_a_sentence():
    run = fold(state(streams.partial(64), 64), Phase(worker=7, phase="lost", seq=10_000))
    assert len(parsed(html(run, 0)).findall(".//span[@title]")) == 64
    assert "63 training, worker 7 lost" in shown(run)
    assert "63 training, worker 7 lost" in said(run)


def test_users_error_shows_its_traceback_and_marks_the_line_of_the_cell():
    run = state(streams.with_user_error())
    root = parsed(html(run, 0))
    assert root.findtext(".//mark") == '→   return scale(x_train / 0 * "<b>"), y_train'
    assert "worker 1 raised an error" in shown(run)
    assert "Cell, line 9, in dataset" in said(run)
    assert '  →   return scale(x_train / 0 * "<b>"), y_train' in said(run).splitlines()
    assert said(run).count("could not be broadcast") == 1
    assert "digits.logs(1)" in said(run)


def test_advice_in_the_message_is_shown_after_the_traceback():
    failed = Failed(
        worker=0,
        cause="user",
        message="FileNotFoundError: a.csv\nUse --files.",
        traceback="Traceback (most recent call last):\nFileNotFoundError: a.csv\n",
    )
    run = state(stamped([*starting(), failed, Ended(outcome="failed", message="x")]))
    assert said(run).count("FileNotFoundError: a.csv") == 1
    assert "Use --files." in said(run)
    assert "Use --files." in shown(run)


def test_restart_is_told():
    run = state(streams.with_restart())
    told = "worker 1 was lost in epoch 3 (killed by SIGKILL); trained on from the end of epoch 2"
    assert told in shown(run)
    assert told in re.sub(r"\s+", " ", said(run))


def test_restart_in_progress_is_told():
    events = streams.with_restart()
    failed = next(i for i, e in enumerate(events) if isinstance(e, Failed))
    assert "starting again: worker 1 was lost" in said(state(events[: failed + 1]))


def test_nan_is_said_and_does_not_break_the_plot():
    run = state(streams.with_nan())
    assert "The loss is nan since epoch 3" in shown(run)
    assert "×" in said(run)


def test_warning_of_many_lines_is_folded_away():
    root = parsed(html(state(streams.with_warnings()), 0))
    assert root.findtext(".//details/summary") == "worker 0: no worker has got on for a while"
    assert "`df` (1.2 GB) is captured by `dataset`" in "".join(root.itertext())


def test_only_the_last_warnings_are_shown():
    warned = [Warned(code="x", message=f"warning {i}") for i in range(40)]
    run = state(stamped([*started(), *warned]))
    assert "35 warnings before these" in shown(run)
    assert "warning 34 " not in shown(run)


def test_end_says_how_long_it_took_and_what_to_do_next():
    run = state(streams.whole())
    assert shown(run).startswith("digits · trained · 5 epochs in ")
    assert "digits.model" in shown(run)
    assert "digits.model" in said(run)


def test_run_that_stopped_early_says_how_far_it_came():
    events = [*streams.partial(), Ended(outcome="stopped", seq=9999, time=T0 + 60)]
    assert "stopped · 2 of 5 epochs done in" in said(state(events))


def test_lost_run_says_what_to_do():
    run = mark_lost(state(streams.partial()), "gone; nbtrain.attach('digits') goes on")
    assert "nbtrain.attach('digits') goes on" in said(run)
    assert "digits.load()" in said(run)


def test_what_users_wrote_is_escaped():
    bad = '<script>alert(1)</script>"&\x00\x1b[31m'
    failed = Failed(worker=1, cause="user", message=bad, traceback=f"Traceback\n{bad}")
    events = [
        *starting(),
        Phase(worker=0, phase=bad, reason=bad, host=bad),
        Warned(code="x", message=f"{bad}\n{bad}"),
        failed,
        Ended(outcome="failed", message=bad),
    ]
    run = fold_all(initial(bad, bad, bad, 2, T0, 5), stamped(events))
    for fragment in (html(run, 0), runs_html([run], 0)):
        parsed(fragment)
        assert "<script" not in fragment
        assert "\x1b" not in fragment
    assert "\x1b" not in text(run, 0) + line(run, 0) + runs_text([run], 0)


# -- the table of runs --------------------------------------------------------------------------


def test_table_of_runs():
    runs = [state(streams.partial()), state(streams.whole())]
    lines = runs_text(runs, T0 + 7200).splitlines()
    assert lines[0].split() == ["name", "status", "workers", "epochs", "last", "took", "age", "id"]
    assert "2/5" in lines[1]
    assert "val_loss 0.1777, val_accuracy 0.9653" in lines[2]
    assert "2 h ago" in lines[2]
    rows = parsed(runs_html(runs, T0 + 7200)).findall(".//tbody/tr")
    assert ["".join(r.itertext())[:6] for r in rows] == ["digits", "digits"]


def test_table_without_runs_says_so():
    assert runs_text([], 0) == "No runs yet."
    assert "No runs yet." in runs_html([], 0)


# -- numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0, "0 s"),
        (0.5, "0.5 s"),
        (8, "8.0 s"),
        (9.97, "10 s"),
        (59.6, "1 min"),
        (130, "2 min 10 s"),
        (3600, "1 h"),
        (11_100, "3 h 5 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_durations(seconds, words):
    assert formats.duration(seconds) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.98123, "0.9812"),
        (2.5, "2.500"),
        (12.3456, "12.35"),
        (9999.4, "9999"),
        (99_999.0, "1.000e+05"),
        (0.00001234, "1.234e-05"),
        (0.0, "0.0000"),
        (-0.5, "-0.5000"),
        (float("nan"), "nan"),
        (float("inf"), "∞"),
    ],
)
def test_losses_have_four_digits(value, words):
    assert formats.number(value) == words


def test_sizes_rates_and_lists():
    assert [formats.size(n) for n in (12, 1_200_000_000, 250_000_000)] == [
        "12 B",
        "1.2 GB",
        "250 MB",
    ]
    assert [formats.rate(n) for n in (1238.0, 45.31, 0.512, 238.4)] == [
        "1,240",
        "45.3",
        "0.51",
        "238",
    ]
    assert formats.listed([0, 2, 3, 4, 9, 10]) == "0, 2–4, 9, 10"


def test_wide_characters_are_counted_as_such():
    assert formats.cut("数字数字", 5) == "数字…"
    assert all(cells(one) <= 5 for one in formats.wrapped("数字数字 abcdefghij", 5))


def test_a_head_that_is_away_is_what_is_said_first_until_it_is_back():
    run = fold(state(streams.partial()), Placement(None, "gone", "its node does not answer"))
    assert "the head is away: its node does not answer" in said(run)
    assert "the head is away" in shown(run)
    back = fold(run, Placement(None, "running"))
    assert "away" not in said(back)
