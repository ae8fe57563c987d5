"""The fold of events and placements into a run's state."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbtrain.backend import Placement
from nbtrain.runtime.events import (
    Ended,
    EpochEnd,
    Event,
    Failed,
    Phase,
    Progress,
    Saved,
    Started,
    Warned,
)
from nbtrain.state import (
    CURVE_POINTS,
    STATUSES,
    RunState,
    fold,
    fold_all,
    initial,
    mark_lost,
    mark_stopping,
    mark_stuck,
)

from . import event_streams as streams
from .event_streams import epoch, stamped, started, starting, state


def test_run_without_events_is_packing():
    begun = initial("digits", "id", "local", 2, 100.0, 5)
    assert (begun.status, begun.live, begun.ended) == ("packing", True, False)
    assert [w.index for w in begun.workers] == [0, 1]
    assert all(w.phase == "waiting" for w in begun.workers)


def test_workers_phases_are_followed():
    seen = state(stamped(list(starting())[:3]))
    assert seen.status == "starting"
    assert [w.phase for w in seen.workers] == ["starting", "waiting"]
    assert (seen.workers[0].pid, seen.workers[0].host) == (4000, "localhost")


def test_time_of_a_phase_is_that_of_its_beginning():
    events = stamped([Phase(worker=0, phase="waiting", reason=r) for r in ("a", "b", "c")])
    seen = state([*stamped([Phase(worker=0, phase="starting")]), *events[1:]])
    assert seen.workers[0].since == events[1].time
    assert seen.workers[0].reason == "c"


def test_run_in_training_knows_where_it_is():
    seen = state(streams.partial())
    assert seen.status == "training"
    assert (seen.epoch, seen.step, seen.steps, seen.epochs) == (2, 12, 45, 5)
    assert (seen.seed, seen.global_batch, seen.parameters) == (42, 128, 34_826)
    assert seen.examples_per_s == 1238.0
    assert seen.logs["loss"] == pytest.approx(streams.values(2 + 12 / 45 * 0.8)["loss"])


def test_time_left_comes_from_whole_epochs():
    seen = state(streams.partial())
    assert seen.eta_s == pytest.approx((3 - 12 / 45) * 4.5)


def test_time_left_of_the_first_epoch_comes_from_its_steps():
    seen = state(stamped([*started(), *list(epoch(0))[:7]]))
    # Three steps in half a second.
    assert seen.step_rate == pytest.approx(6.0)
    assert seen.eta_s == pytest.approx((5 * 45 - 21) / 6.0)


def test_history_is_that_of_keras():
    seen = state(streams.whole())
    assert seen.status == "succeeded"
    assert seen.epoch_numbers == (0, 1, 2, 3, 4)
    assert set(seen.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert seen.history["loss"] == [streams.values(e + 1)["loss"] for e in range(5)]


def test_history_of_a_value_that_comes_in_some_epochs_is_shorter():
    logs = [{"loss": 1.0}, {"loss": 0.5, "val_loss": 0.6}]
    ends = [EpochEnd(epoch=i, steps=3, logs=one) for i, one in enumerate(logs)]
    assert state(stamped([*started(), *ends])).history == {"loss": [1.0, 0.5], "val_loss": [0.6]}


def test_validation_and_saving_are_statuses():
    events = [*started(), *epoch(0)]
    validating = next(i for i, e in enumerate(events) if isinstance(e, Progress) and e.validating)
    assert state(stamped(events[: validating + 1])).status == "validating"
    assert state(stamped(events)).status == "training"
    assert state(stamped([*events, Phase(worker=0, phase="saving")])).status == "saving"


def test_restart_cuts_the_history_to_the_epochs_kept():
    events = streams.with_restart()
    again = next(i for i, e in enumerate(events) if isinstance(e, Started) and e.first_epoch == 2)
    before, after = state(events[:again]), state(events[: again + 1])
    assert before.status == "restarting"
    assert after.status == "training"
    assert after.epoch_numbers == (0, 1)
    assert len(after.history["loss"]) == len(after.epoch_seconds) == 2
    assert max(x for x, _ in after.curve) <= 2
    assert after.logs == after.epoch_logs[-1]


def test_restart_is_told_with_the_epoch_it_goes_on_from():
    seen = state(streams.with_restart())
    (restart,) = seen.restarts
    assert (restart.failed.worker, restart.epoch, restart.resumed) == (1, 2, 2)
    assert seen.status == "succeeded"
    assert seen.epoch_numbers == (0, 1, 2, 3, 4)
    assert seen.error is None
    assert all(w.phase == "done" for w in seen.workers)


def test_restart_from_an_earlier_epoch_forgets_the_epochs_after_it():
    lost = Failed(worker=0, cause="lost", message="gone", will_retry=True)
    seen = state(stamped([*started(), *epoch(0), *epoch(1), lost, *started(first=1)]))
    assert seen.epoch_numbers == (0,)
    assert (seen.epoch, seen.step) == (1, 0)


def test_run_that_continues_another_begins_with_its_epoch():
    seen = state(stamped([*started(epochs=8, first=5), *epoch(5), *epoch(6)]), epochs=8)
    assert (seen.first_epoch, seen.epoch_numbers) == (5, (5, 6))


def test_users_error_ends_the_run():
    seen = state(streams.with_user_error())
    assert (seen.status, seen.ended) == ("failed", True)
    assert seen.error is not None
    assert seen.error.worker == 1
    assert [w.phase for w in seen.workers] == ["stopped", "failed"]


def test_head_that_died_makes_the_run_lost_until_another_goes_on():
    lost = mark_lost(state(streams.partial()), "gone")
    assert (lost.status, lost.live, lost.ended, lost.message) == ("lost", False, False, "gone")
    after = fold(lost, Phase(worker=0, phase="starting", seq=lost.last_seq + 1))
    assert (after.status, after.live) == ("restarting", True)


def test_ended_run_is_never_lost():
    ended = state(streams.whole())
    assert mark_lost(ended, "gone") is ended
    assert mark_stopping(ended) is ended


def test_stopping_lasts_until_the_end():
    seen = state([*streams.partial(), Warned(code="stopping", message="as asked", seq=10_000)])
    assert (seen.status, seen.warnings) == ("stopping", ())
    seen = fold(seen, Progress(epoch=2, step=15, seq=10_001))
    assert seen.status == "stopping"
    assert fold(seen, Ended(outcome="stopped", seq=10_002)).status == "stopped"


def test_latest_file_of_each_sort_is_known():
    seen = state(streams.whole())
    assert seen.saved["checkpoint"].epoch == 5
    assert isinstance(seen.saved["weights"], Saved)


def test_placements_say_what_a_worker_waits_for():
    begun = initial("digits", workers=2)
    seen = fold(begun, Placement(1, "pending", "0/3 nodes are available", "node-b"))
    assert seen.workers[1].why == "0/3 nodes are available"
    assert seen.workers[1].host == "node-b"
    assert fold(seen, Placement(1, "pending", "0/3 nodes are available", "node-b")) is seen
    seen = fold(seen, Placement(None, "pending", "pulling"))
    assert (seen.head, seen.head_reason) == ("pending", "pulling")


def test_events_of_unknown_workers_change_no_worker():
    begun = state(streams.partial())
    for worker in (-1, 2, 10**9):
        seen = fold(begun, Phase(worker=worker, phase="lost", seq=9999))
        assert seen.workers == begun.workers
    assert fold(begun, Placement(7, "gone")) is begun


def test_same_warning_is_told_once():
    twice = [Warned(code="x", message="m"), Warned(code="x", message="m")]
    assert len(state(stamped(twice)).warnings) == 1


def test_curve_of_a_long_run_is_thin_and_even():
    seen = state(streams.long_run(100, 100), epochs=100)
    gaps = [b[0] - a[0] for a, b in zip(seen.curve, seen.curve[1:], strict=False)]
    assert CURVE_POINTS / 2 - 1 <= len(seen.curve) <= CURVE_POINTS
    assert seen.curve[-1][0] == 100
    assert max(gaps) < 2.1 * 100 / (CURVE_POINTS / 2)


def test_curve_leaves_out_what_is_not_finite():
    assert all(math.isfinite(y) for _, y in state(streams.with_nan()).curve)


def test_history_keeps_what_is_not_finite():
    assert math.isnan(state(streams.with_nan()).history["loss"][-1])


def test_epoch_of_unknown_length_still_has_a_curve():
    ticks = [Progress(epoch=0, step=s, logs={"loss": 1 / s}) for s in (1, 50, 100, 400)]
    begin = Started(workers=2, epochs=1)
    xs = [x for x, _ in state(stamped([begin, *ticks])).curve]
    assert xs == sorted(xs)
    assert 0 < xs[0] < xs[-1] < 1


# -- whatever comes -----------------------------------------------------------------------------

_small = st.integers(-2, 70)
_floats = st.floats()
_logs = st.dictionaries(st.sampled_from(["loss", "accuracy", "val_loss", "ü <b>"]), _floats)
_text = st.text(max_size=30)
_maybe = st.none() | _small
_kinds = st.one_of(
    st.builds(
        Started,
        workers=st.integers(0, 70),
        epochs=_small,
        first_epoch=_small,
        steps=_maybe,
        global_batch=_maybe,
        parameters=_maybe,
    ),
    st.builds(
        Phase,
        worker=_small,
        phase=st.sampled_from(["waiting", "training", "saving", "done", "dreaming", ""]),
        reason=_text,
        pid=_maybe,
        host=_text,
    ),
    st.builds(
        Progress,
        epoch=_small,
        step=_small,
        steps=_maybe,
        logs=_logs,
        examples_per_s=st.none() | _floats,
        validating=st.booleans(),
        slowest=_maybe,
    ),
    st.builds(EpochEnd, epoch=_small, steps=_small, logs=_logs, seconds=st.floats(0, 1e6)),
    st.builds(Saved, what=_text, path=_text),
    st.builds(Warned, code=st.sampled_from(["a", "stopping"]), message=_text, worker=_maybe),
    st.builds(
        Failed,
        worker=_maybe,
        cause=st.sampled_from(["user", "lost", "odd"]),
        message=_text,
        traceback=_text,
        will_retry=st.booleans(),
    ),
    st.builds(Ended, outcome=st.sampled_from(["succeeded", "stopped", "failed", "odd"])),
)
_placements = st.builds(
    Placement, worker=_maybe, phase=st.sampled_from(["pending", "running", "gone"]), reason=_text
)


@st.composite
def event_lists(draw: st.DrawFn) -> list[Event | Placement]:
    """Return events and placements in any order, with numbers that may be missing or doubled."""
    found: list[Event | Placement] = []
    for seq, item in enumerate(draw(st.lists(_kinds | _placements, max_size=25))):
        if isinstance(item, Event):
            item = dataclasses.replace(item, seq=seq + draw(st.integers(-1, 1)), time=float(seq))
        found.append(item)
    return found


@given(event_lists())
@settings(deadline=None)
def test_any_sequence_of_events_folds(items: list[Event | Placement]):
    seen = initial("x", workers=2, epochs=3)
    for item in items:
        seen = fold(seen, item)
        assert seen.status in STATUSES
        assert len(seen.curve) <= CURVE_POINTS
        assert all(a[0] < b[0] for a, b in zip(seen.curve, seen.curve[1:], strict=False))
        assert len(seen.epoch_numbers) == len(seen.epoch_logs) == len(seen.epoch_seconds)
        assert list(seen.epoch_numbers) == sorted(set(seen.epoch_numbers))
        assert isinstance(seen.history, dict)


@given(event_lists(), st.data())
@settings(deadline=None)
def test_events_that_were_folded_already_change_nothing(items, data):
    events = [item for item in items if isinstance(item, Event)]
    seen: RunState = fold_all(initial("x", workers=2), events)
    if events:
        assert fold(seen, data.draw(st.sampled_from(events))) is seen


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 50)), max_size=400))
@settings(deadline=None)
def test_curve_is_bounded_in_any_order_of_progress(places):
    ticks = [Progress(epoch=e, step=s, steps=50, logs={"loss": 1.0}) for e, s in places]
    assert len(state(stamped(ticks)).curve) <= CURVE_POINTS


def test_a_placement_that_is_stuck_ends_the_run_with_what_to_do():
    state = initial("digits", "id", "kubernetes", 2, 100.0, 5)
    stuck = Placement(1, "pending", "there is no image x:1", fix="Push it first.", stuck=True)
    state = mark_stuck(fold(state, stuck), stuck)
    assert state.status == "failed"
    assert state.message == "worker 1: there is no image x:1\nPush it first."
    assert state.error.cause == "placement"
    # The head that is ended thereupon says that it was stopped: that is not what happened.
    state = fold(state, Ended(seq=3, outcome="stopped", message="stopped as asked"))
    assert state.status == "failed"
