"""The view of a run as data, and the answers to what it asks."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from nbtrain import asked
from nbtrain.runtime.rundir import RunDir
from nbtrain.state import CURVE_POINTS, fold_all, initial
from nbtrain.view import POINTS, WORKERS, summary, view

from . import event_streams as streams
from .event_streams import T0, state
from .recordings import generated


def test_every_state_on_the_way_can_be_sent_as_json():
    for events in (streams.whole(), streams.with_restart(), streams.with_user_error()):
        now = initial("digits", "id", "local", 2, T0, 5)
        for event in events:
            now = fold_all(now, [event])
            drawn = view(now, T0 + 60)
            assert json.loads(json.dumps(drawn, allow_nan=False)) == drawn
            assert summary(now, T0 + 60).items() <= drawn.items()


@pytest.mark.parametrize(("workers", "epochs"), [(2, 500), (64, 500), (2000, 3)])
def test_size_is_bounded_however_long_the_run_and_however_many_its_workers(workers, epochs):
    events = [*streams.starting(workers), *streams.started(workers, epochs)]
    for number in range(epochs):
        events += [*streams.epoch(number, every=15), streams.usage(workers)]
    drawn = view(state(streams.stamped(events)), T0 + 60)
    assert len(drawn["workers"]) <= WORKERS
    assert all(len(line["points"]) <= POINTS for p in drawn["plots"] for line in p["lines"])
    assert len(json.dumps(drawn)) < (90_000 if workers == 2000 else 30_000)


def test_of_a_hundred_thousand_steps_some_hundred_points_are_kept_and_sent():
    events = [*streams.starting(), *streams.started(epochs=500, steps=200)]
    for number in range(500):
        events += streams.epoch(number, steps=200, every=10)
    seen = state(streams.stamped(events), epochs=500)
    assert len(seen.curve) <= CURVE_POINTS
    assert len(json.dumps(view(seen, T0 + 60))) < 20_000
    # What grows is Keras' own history: a few numbers an epoch, and none a step.
    kept = {f.name for f in dataclasses.fields(seen) if _size(seen, f.name) > 1000}
    assert kept <= {"epoch_numbers", "epoch_logs", "epoch_seconds", "curve"}
    assert len(seen.epoch_logs) == 500


def _size(seen, name):
    return len(repr(getattr(seen, name)))


def test_rate_and_memory_are_shown_of_workers_that_train():
    events = [*streams.starting(), *streams.started(), *streams.epoch(0), streams.usage()]
    drawn = view(state(streams.stamped(events)), T0 + 60)
    assert [(w["rate"], w["memory"]) for w in drawn["workers"]] == [
        ("620 examples/s", "1.2 GB"),
        ("621 examples/s", "1.2 GB"),
    ]
    assert drawn["memory"] == "1.2 GB a worker"
    assert drawn["speed"] == "1,240 examples/s"  # that of all together
    over = view(state(streams.stamped([*events, *streams.ending()])), T0 + 60)
    assert [w["rate"] + w["memory"] for w in over["workers"]] == ["", ""]


def test_message_of_a_megabyte_is_cut():
    failed = state(streams.with_user_error())
    long = dataclasses.replace(failed.failures[-1], traceback="x" * 400 + "\n" * 10**6)
    drawn = view(dataclasses.replace(failed, failures=(long,)), T0)
    assert len(json.dumps(drawn)) < 60_000


def test_loss_that_is_not_a_number_is_a_gap():
    drawn = view(state(streams.with_nan()), T0)
    training = next(x for x in drawn["plots"][0]["lines"] if x["label"] == "training")
    assert [y is None for _, y in training["points"]] == [False, False, True, True]
    assert "nan" in drawn["notes"][0]["text"]


def test_line_of_the_cell_is_marked():
    error = view(state(streams.with_user_error()), T0)["error"]
    (marked,) = [line for line, is_marked in error["traceback"] if is_marked]
    assert "scale(x_train" in marked


def test_recording_without_a_run_offers_nothing_to_do():
    drawn = view(dataclasses.replace(state(streams.whole()), id=""), T0)
    assert (drawn["attach"], drawn["next"]) == ("", [])


class Files:
    """Stands for a run of which files are read."""

    def __init__(self, folder):
        self.dir = RunDir(folder)
        self.dir.create()

    def read(self, path, offset=0):
        if (self.dir / path).is_dir():
            yield json.dumps(self.dir.index(path)).encode()
            return
        with (self.dir / path).open("rb") as file:
            file.seek(offset)
            while piece := file.read(7):
                yield piece


@pytest.mark.parametrize("limit", [1, 3, 10, 10_000])
def test_pieces_of_a_log_fit_together_wherever_characters_are_cut(tmp_path, limit):
    run = Files(tmp_path)
    whole = "añb→c\n🙂 ende\n" * 20
    (run.dir / run.dir.log(0)).write_text(whole, "utf-8")
    got, offset = "", 0
    limit = max(limit, 4)  # a character has to fit
    while True:
        piece = asked.log_piece(run, 0, offset, limit)
        got, offset = got + piece["text"], piece["next"]
        if not piece["full"]:
            break
    assert got == whole


def test_end_of_a_log_begins_with_a_whole_line(tmp_path):
    run = Files(tmp_path)
    (run.dir / run.dir.log(0)).write_text("ünö\n" * 100, "utf-8")
    piece = asked.log_piece(run, 0, -1, 20)
    assert piece["text"] == "ünö\n" * 3
    assert piece["next"] == 600


def test_log_that_is_not_there_yet_is_empty(tmp_path):
    piece = asked.log_piece(Files(tmp_path), 1)
    assert piece == {"text": "", "offset": 0, "next": 0, "full": False}


def test_curve_of_the_generated_recording_is_thinned():
    from nbtrain.recordings import Replay, recording

    ended = Replay(recording(generated.FILE), speed=math.inf).wait().state
    assert len(json.dumps(view(ended, T0))) < 20_000
