"""What survives: every fault that a worker, the head, the disk or the data can have.

Each run ends with the weights and the history of an undisturbed process, or in one clear error;
the fixture sees to it that no process is left.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import threading
import time

import numpy as np
import pytest

from nbtrain.backends.local import home
from nbtrain.errors import RunFailed
from nbtrain.run import attach
from nbtrain.runtime import eventlog, tensors
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
from nbtrain.runtime.host import empty_scratch
from nbtrain.runtime.reading import is_live
from nbtrain.runtime.rundir import RunDir

from . import programs
from .faults import Fault, callbacks
from .harness import (
    Apart,
    assert_equal_to_plain,
    launch,
    leftovers,
    listening,
    plain,
    temporary_files,
    until,
)

pytestmark = pytest.mark.usefixtures("nothing_left")
FULL = pytest.mark.full

BASIC = {
    "model": programs.model,
    "dataset": programs.dataset,
    "validation": programs.validation,
}


@pytest.fixture
def nothing_left(nbtrain_home, monkeypatch):
    """See that no process, no port and no temporary file of a run is left behind.

    This process keeps the modules of a model that it has loaded for as long as it lives: what it
    makes by itself is elsewhere.
    """
    folder = nbtrain_home / "tmp"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(folder))
    yield
    until(lambda: not leftovers(nbtrain_home))
    until(lambda: not listening(nbtrain_home))
    until(lambda: not temporary_files(nbtrain_home))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What plain Keras in one process gives, for each dataset; computed once."""
    found = {}

    def of(dataset="dataset", **options):
        key = (dataset, *sorted(options.items()))
        if key not in found:
            folder = tmp_path_factory.mktemp("plain")
            found[key] = plain(folder, dataset=dataset, **options)
        return found[key]

    return of


def events_of(run, kind):
    return [e for e in run.events if isinstance(e, kind)]


def codes(run):
    return [e.code for e in events_of(run, Warned)]


def after(run, condition):
    """Wait for the event that fulfils a condition."""
    return next(event for event in run.watch() if condition(event))


def kill_head(run):
    rundir = RunDir(home() / run.id)
    until((rundir / RunDir.HEAD).exists)
    os.kill(rundir.read_json(RunDir.HEAD)["pid"], signal.SIGKILL)
    until(lambda: not is_live(rundir))


MOMENTS = {
    "first_step": {"stage": "train", "epoch": 0, "batch": 0},
    "within_an_epoch": {"stage": "train", "epoch": 1, "batch": 4},
    "validating": {"stage": "validate", "epoch": 1, "batch": 1},
    "end_of_an_epoch": {"stage": "epoch_end", "epoch": 1},
    "end_of_training": {"stage": "train_end", "epoch": 2},
}
EVERY_DAY = {("SIGKILL", (1,), "within_an_epoch"), ("SIGSTOP", (0,), "within_an_epoch")}


@pytest.mark.parametrize(
    ("action", "workers", "moment"),
    [
        pytest.param(a, w, m, marks=[] if (a, w, m) in EVERY_DAY else [pytest.mark.full])
        for a in ("SIGKILL", "SIGSTOP")
        for w in ((0,), (1,), (0, 1))
        for m in MOMENTS
    ],
)
def test_lost_workers_change_nothing(tmp_path, undisturbed, action, workers, moment):
    fault = Fault(action, workers, tmp_path / "fault", **MOMENTS[moment])
    functions = {**BASIC, "callbacks": callbacks(fault)}
    run = launch(functions, checkpoint_every="2 steps", unresponsive_s=2.0)
    assert_equal_to_plain(run, undisturbed())
    struck = struck_workers(tmp_path)
    failed = {f.worker for f in events_of(run, Failed)}
    assert struck <= set(workers)
    assert failed <= struck
    # A worker whose training is over may be lost before or after it has said all.
    assert struck if moment == "end_of_training" else failed
    assert [e.steps for e in events_of(run, EpochEnd)][-1] == 7
    if moment == "within_an_epoch":
        assert_goes_on_from_the_last_checkpoint(run)


def struck_workers(folder):
    """Return the workers that `folder / "fault"` has happened to."""
    return {int(path.name.split("-")[1]) for path in folder.glob("fault-*")}


def assert_told_at_once(run):
    """No more than ten seconds are between the failure that ends a run and its end."""
    failed, ended = events_of(run, Failed)[-1], events_of(run, Ended)[-1]
    assert 0 <= ended.time - failed.time < 10


def assert_goes_on_from_the_last_checkpoint(run):
    """Not from the last that was made: a frozen worker, or a busy machine, does not finish it."""
    begun, saved = None, None
    for event in eventlog.read(home() / run.id / RunDir.EVENTS):
        if isinstance(event, Saved) and event.what == "checkpoint":
            saved = event
        if isinstance(event, Started):
            begun, before = event, saved
    assert (begun.first_epoch, begun.first_step) == (before.epoch, before.step)
    assert (before.epoch, before.step) > (0, 0)


@pytest.mark.parametrize(
    "dataset", ["shuffled", pytest.param("cached", marks=pytest.mark.full), "from_python"]
)
def test_a_run_goes_on_by_the_step_or_says_why_not(tmp_path, undisturbed, dataset):
    fault = Fault("SIGKILL", [1], tmp_path / "fault", epoch=2, batch=5)
    functions = {
        **BASIC,
        "dataset": getattr(programs, dataset),
        "callbacks": callbacks(fault),
    }
    batch = None if dataset == "from_python" else 32
    run = launch(functions, checkpoint_every="3 steps", batch=batch)
    assert_equal_to_plain(run, undisturbed(dataset))
    *_, last = events_of(run, Started)
    if dataset == "from_python":
        assert (last.first_epoch, last.first_step) == (2, 0)
        (warned,) = events_of(run, Warned)
        assert "made by Python code" in warned.message
    else:
        assert last.first_step
        assert codes(run) == []


def test_dropout_goes_on_bit_by_bit(tmp_path):
    """Not comparable with one process, but with itself: killed or not, the weights are the same."""
    functions = {**BASIC, "model": programs.with_dropout}
    fault = Fault("SIGKILL", [0], tmp_path / "fault", epoch=1, batch=5)
    runs = [
        launch(functions, checkpoint_every="2 steps"),
        launch({**functions, "callbacks": callbacks(fault)}, checkpoint_every="2 steps"),
    ]
    calm, killed = (run.wait().check() for run in runs)
    assert len(events_of(killed, Started)) == 2
    for a, b in zip(calm.model.variables, killed.model.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert calm.history.history == killed.history.history


def test_what_only_a_step_of_ones_own_uses_goes_on_bit_by_bit(tmp_path):
    """Optimizers in containers and layers, `tf.Variable`s and generators are in checkpoints."""
    functions = {"model": programs.holds_much, "dataset": programs.dataset}
    fault = Fault("SIGKILL", [1], tmp_path / "fault", epoch=1, batch=4)
    runs = [
        launch(functions, checkpoint_every="2 steps"),
        launch({**functions, "callbacks": callbacks(fault)}, checkpoint_every="2 steps"),
    ]
    calm, killed = (run.wait().check() for run in runs)
    assert events_of(killed, Started)[-1].first_step
    assert set(codes(killed)) == {"random-step"}
    arrays = [tensors.load(home() / run.id / RunDir.WEIGHTS)[0] for run in runs]
    assert arrays[0].keys() >= {
        "own/scale.factors['of'][0]", "own/steps", "own/averages.mean", "own/generator._state_var",
        "seed/0", "optimizer.opts[0]/5", "optimizer.opts[1]['out']/5",
        "optimizer.scale.optimizer/2", "optimizer.unused[0]/1",
    }  # fmt: skip
    assert int(arrays[0]["own/steps"]) == 21
    assert arrays[0].keys() == arrays[1].keys()
    for key, array in arrays[0].items():
        np.testing.assert_array_equal(array, arrays[1][key], err_msg=key)
    assert calm.history.history == killed.history.history
    trained = killed.model
    assert int(trained.steps.numpy()) == 21
    momentum = trained.opts[1]["out"].variables[2].numpy()
    np.testing.assert_array_equal(momentum, arrays[0]["optimizer.opts[1]['out']/2"])


def test_what_no_checkpoint_can_hold_is_said_by_name():
    run = launch({"model": programs.loses_much, "dataset": programs.dataset}, epochs=2)
    run.wait().check()
    told = [e.message for e in events_of(run, Warned)]
    named = ["of_the_closure", "of_an_object", "among['one']['two'][0]", "late[0]"]
    for name in named:
        (message,) = (m for m in told if name in m)
        assert "a run that loses a worker does not end as if it had not" in message
    assert not any("never_changed" in m for m in told)
    (drawn,) = (e.message for e in events_of(run, Warned) if e.code == "random-restart")
    assert "drawn anew after a restart" in drawn
    assert len(told) == len(named) + 1


def test_callbacks_with_a_memory_and_averaged_weights_go_on_bit_by_bit(tmp_path):
    """A killed run's learning rate, patience, best weights and averages are those of a calm one."""

    def averaged():
        import keras

        m = programs.model()
        optimizer = keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.9)
        m.compile(optimizer, m.loss, metrics=["accuracy"])
        return m

    def remembering(*faults):
        made = callbacks(*faults)

        def callbacks_(worker):
            import keras

            return [
                keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=1),
                keras.callbacks.EarlyStopping("val_loss", patience=3, min_delta=1,
                                              restore_best_weights=True),
                *made(worker),
            ]  # fmt: skip

        return callbacks_

    fault = Fault("SIGKILL", [0], tmp_path / "fault", epoch=2, batch=5)
    functions = {**BASIC, "model": averaged}
    options = {"checkpoint_every": "2 steps", "epochs": 8}
    runs = [
        launch({**functions, "callbacks": remembering()}, **options),
        launch({**functions, "callbacks": remembering(fault)}, **options),
    ]
    calm, killed = (run.wait().check() for run in runs)
    assert len(events_of(killed, Started)) == 2
    assert calm.history.history == killed.history.history
    assert len(calm.history.history["loss"]) < 8  # stopped early
    assert min(calm.history.history["learning_rate"]) < 0.05
    for a, b in zip(calm.model.variables, killed.model.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_checkpoints_by_time_are_made_within_epochs(undisturbed):
    run = launch({**BASIC, "dataset": programs.slow_without_python}, checkpoint_every=0.4)
    run.wait().check()
    steps = [e.step for e in events_of(run, Saved) if e.what == "checkpoint"]
    assert any(steps)
    assert len(list((home() / run.id / RunDir.CHECKPOINTS).iterdir())) <= 2


def pids(run):
    """Return the process of each worker, in the last generation."""
    past = eventlog.read(home() / run.id / RunDir.EVENTS)
    return {e.worker: e.pid for e in past if isinstance(e, Phase) and e.pid}


def strike(number, processes):
    """Send a signal to several processes at once."""
    for pid in processes:
        os.kill(pid, number)


@pytest.mark.parametrize(
    ("number", "workers"),
    [
        (signal.SIGKILL, (0,)),
        pytest.param(signal.SIGKILL, (1,), marks=FULL),
        pytest.param(signal.SIGKILL, (0, 1), marks=FULL),
        pytest.param(signal.SIGSTOP, (0,), marks=FULL),
        pytest.param(signal.SIGSTOP, (1,), marks=FULL),
        pytest.param(signal.SIGSTOP, (0, 1), marks=FULL),
    ],
)
def test_workers_lost_while_a_checkpoint_is_written(tmp_path, number, workers):
    """The half file is not taken for one."""
    run = launch({**BASIC, "model": programs.big}, checkpoint_every="2 steps", unresponsive_s=3.0)
    folder = home() / run.id / RunDir.CHECKPOINTS
    until(lambda: list(folder.glob("*.safetensors")) and list(folder.glob(".*.part")), 60)
    found = pids(run)
    strike(number, [found[worker] for worker in workers])
    assert_equal_to_plain(run, plain(tmp_path, model="big"))
    failed = {f.worker for f in events_of(run, Failed)}
    assert failed
    assert failed <= set(workers)
    assert len(events_of(run, Started)) == 2
    assert_goes_on_from_the_last_checkpoint(run)
    assert not list(folder.glob(".*"))


@pytest.mark.full
@pytest.mark.parametrize("cut", ["short", "away"])
def test_a_checkpoint_that_is_cut_is_passed_over(tmp_path, undisturbed, cut):
    fault = Fault("SIGSTOP", [1], tmp_path / "fault", epoch=1, batch=4)
    run = launch(
        {**BASIC, "callbacks": callbacks(fault)}, checkpoint_every="3 steps", unresponsive_s=4.0
    )
    saved = after(run, lambda e: isinstance(e, Saved) and (e.epoch, e.step) == (1, 2))
    path = home() / run.id / saved.path
    path.write_bytes(path.read_bytes()[:1000] if cut == "short" else b"")
    assert_equal_to_plain(run, undisturbed())
    assert codes(run) == ["checkpoint-damaged"]
    places = [(e.epoch, e.step) for e in events_of(run, Saved) if e.what == "checkpoint"]
    before = places[places.index((1, 2)) - 1]
    begun = events_of(run, Started)[-1]
    assert (0, 0) < before < (1, 2)
    assert (begun.first_epoch, begun.first_step) == before


@pytest.mark.parametrize("action", ["SIGKILL", pytest.param("SIGSTOP", marks=pytest.mark.full)])
def test_a_worker_lost_while_the_model_is_saved(tmp_path, undisturbed, action):
    fault = Fault(action, [0], tmp_path / "fault")
    functions = {**BASIC, "model": lambda: programs.dies_when_saved(fault)}
    run = launch(functions, unresponsive_s=2.0)
    assert_equal_to_plain(run, undisturbed())
    assert struck_workers(tmp_path) == {0}
    assert len(events_of(run, Started)) == 2


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("workers", [(1,), (0, 1)])
def test_other_workers_lost_while_the_model_is_saved(tmp_path, undisturbed, number, workers):
    """Those that don't save have nothing more to say, so that nothing is missed of them."""
    marker = tmp_path / "saving"
    run = launch({**BASIC, "model": lambda: programs.saved_slowly(marker)}, unresponsive_s=2.0)
    until(marker.exists, 60)
    found = pids(run)
    strike(number, [found[worker] for worker in workers])
    assert_equal_to_plain(run, undisturbed())
    assert {f.worker for f in events_of(run, Failed)} <= set(workers)
    if 0 in workers:
        assert len(events_of(run, Started)) == 2


@pytest.mark.full
def test_a_head_killed_while_the_model_is_saved(tmp_path, undisturbed):
    fault = Fault("SIGSTOP", [0], tmp_path / "fault")
    run = launch({**BASIC, "model": lambda: programs.dies_when_saved(fault)})
    until(lambda: struck_workers(tmp_path), 60)
    kill_head(run)
    assert run.wait().status == "lost"
    assert_equal_to_plain(attach(run.id), undisturbed())


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=FULL)])
def test_a_worker_lost_between_two_generations(tmp_path, undisturbed, number):
    fault = Fault("SIGKILL", [1], tmp_path / "fault", epoch=1, batch=2)
    functions = {**BASIC, "callbacks": callbacks(fault)}
    # One that is stopped before it has met the others is only missed when it is late.
    late = {"unresponsive_s": 2.0, "start_timeout_s": 40.0}
    run = launch(functions, checkpoint_every="2 steps", **late)
    begins = after(run, lambda e: isinstance(e, Phase) and e.generation == 2 and e.pid)
    os.kill(begins.pid, number)
    assert_equal_to_plain(run, undisturbed())
    assert len(events_of(run, Failed)) == 2


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_all_workers_lost_between_two_generations(tmp_path, undisturbed, number):
    fault = Fault("SIGKILL", [1], tmp_path / "fault", epoch=1, batch=2)
    functions = {**BASIC, "callbacks": callbacks(fault)}
    late = {"unresponsive_s": 2.0, "start_timeout_s": 40.0}
    run = launch(functions, checkpoint_every="2 steps", **late)
    begun = {}
    for event in run.watch():
        if isinstance(event, Phase) and event.generation == 2 and event.pid:
            begun[event.worker] = event.pid
        if len(begun) == 2:
            break
    strike(number, begun.values())
    assert_equal_to_plain(run, undisturbed())
    assert len(events_of(run, Failed)) >= 2
    assert events_of(run, Started)[-1].generation == 3


@pytest.mark.parametrize(
    "moment",
    ["starting", *(pytest.param(m, marks=pytest.mark.full) for m in MOMENTS), "between"],
)
def test_a_killed_head_leaves_a_run_to_go_on_with(tmp_path, undisturbed, moment):
    # The stopped worker holds the run at the moment until the head is dead.
    where = MOMENTS.get(moment, MOMENTS["within_an_epoch"])
    action = "SIGKILL" if moment == "between" else "SIGSTOP"
    fault = Fault(action, [1], tmp_path / "fault", **where)
    run = launch({**BASIC, "callbacks": callbacks(fault)}, checkpoint_every="2 steps")
    if moment == "starting":
        after(run, lambda e: isinstance(e, Phase) and e.pid)
    elif moment == "between":
        after(run, lambda e: isinstance(e, Failed))
    else:
        until(lambda: list(tmp_path.glob("fault-1-0")), 60)
    kill_head(run)
    assert run.wait().status == "lost"
    assert_equal_to_plain(attach(run.id), undisturbed())


@pytest.mark.full
def test_a_head_that_is_stopped_for_a_while_goes_on(undisturbed):
    run = launch({**BASIC, "dataset": programs.slow}, unresponsive_s=2.0, epochs=5)
    after(run, lambda e: isinstance(e, EpochEnd))
    head = RunDir(home() / run.id).read_json(RunDir.HEAD)["pid"]
    os.kill(head, signal.SIGSTOP)
    try:
        time.sleep(3)  # longer than it waits for a worker that says nothing
        assert is_live_now(run)
    finally:
        os.kill(head, signal.SIGCONT)
    assert_equal_to_plain(run, undisturbed("slow", epochs=5))


@pytest.mark.full
def test_an_agent_that_is_stopped_is_taken_for_lost_and_may_come_back(tmp_path, undisturbed):
    functions = {**BASIC, "dataset": programs.slow}
    with Apart(tmp_path, functions, epochs=5, unresponsive_s=2.0) as apart:
        until(lambda: apart.events(EpochEnd), 60)
        apart.agents[1].send_signal(signal.SIGSTOP)
        try:
            until(lambda: apart.events(Failed), 60)
        finally:
            apart.agents[1].send_signal(signal.SIGCONT)
        apart.ended()
        apart.assert_equal_to(undisturbed("slow", epochs=5))
        assert {e.worker for e in apart.events(Failed)} == {1}


@pytest.mark.full
@pytest.mark.parametrize("what", ["payload", "checkpoints"])
def test_what_is_left_of_a_run_that_is_damaged(tmp_path, undisturbed, what):
    fault = Fault("SIGSTOP", [1], tmp_path / "fault", epoch=1, batch=4)
    run = launch({**BASIC, "callbacks": callbacks(fault)}, checkpoint_every="2 steps")
    until(lambda: struck_workers(tmp_path), 60)
    kill_head(run)
    assert run.wait().status == "lost"
    folder = home() / run.id
    if what == "payload":
        (folder / RunDir.PAYLOAD).write_bytes(b"nothing")
        with pytest.raises(RunFailed, match="payload"):
            attach(run.id).wait().check()
        return
    for path in (folder / RunDir.CHECKPOINTS).iterdir():
        path.write_bytes(path.read_bytes()[:100])
    again = attach(run.id)
    assert_equal_to_plain(again, undisturbed())
    assert "checkpoint-damaged" in codes(again)
    begun = events_of(again, Started)[-1]
    assert (begun.first_epoch, begun.first_step) == (0, 0)


def test_a_head_starts_while_trainers_of_a_killed_one_still_write(tmp_path):
    rundir, over = RunDir(tmp_path / "run"), threading.Event()
    rundir.create()
    old = rundir / RunDir.SCRATCH / "worker-0-1"

    def write():
        for n in itertools.count():
            if over.is_set():
                return
            with contextlib.suppress(OSError):
                old.mkdir(parents=True, exist_ok=True)
                (old / str(n)).touch()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(100):
            until(old.exists)
            assert list(empty_scratch(rundir).iterdir()) == []
    finally:
        over.set()
        writer.join()


def test_a_head_killed_again_and_again(tmp_path, undisturbed):
    """At twelve moments of its own time, whatever it was doing."""
    run = launch(BASIC, checkpoint_every="1 steps", epochs=6)
    rng = np.random.default_rng(4)
    kills = 0
    for _ in range(12):
        seen = len(run.events)
        until(lambda seen=seen, run=run: len(run.events) > seen or not is_live_now(run), 60)
        time.sleep(rng.uniform(0, 0.3))  # the moment is what is tried here
        if not is_live_now(run):
            break
        kill_head(run)
        kills += 1
        run = attach(run.id)
    assert_equal_to_plain(run, undisturbed(epochs=6))
    assert kills >= 4  # each goes on a step at least, so that all twelve may not find a live head


def is_live_now(run):
    return is_live(RunDir(home() / run.id))


@pytest.mark.parametrize("worker", [0, 1])
def test_a_lost_agent_is_waited_for(tmp_path, undisturbed, worker):
    fault = Fault("SIGSTOP", [worker], tmp_path / "fault", epoch=1, batch=4)
    with Apart(tmp_path, {**BASIC, "callbacks": callbacks(fault)}, checkpoint_every="2 steps") as a:
        until(lambda: list(tmp_path.glob("fault-*")), 60)
        a.agents[worker].kill()
        a.start_agent(worker)
        a.ended()
        a.assert_equal_to(undisturbed())
        assert [e.generation for e in a.events(Started)] == [1, 2]


@pytest.mark.parametrize("deaths", [1, 4])
def test_trainers_go_on_while_their_head_is_away(tmp_path, undisturbed, deaths):
    """A head that died and came back adopts them: no step is trained twice, no event is lost."""
    functions = {**BASIC, "dataset": programs.slow_without_python}
    with Apart(tmp_path, functions, checkpoint_every="2 steps", epochs=6) as apart:
        rng = np.random.default_rng(deaths)
        for number in range(deaths):
            until(lambda number=number: len(apart.events(EpochEnd)) > number, 60)
            time.sleep(rng.uniform(0, 0.1))  # the moment is what is tried here
            apart.head.kill()
            apart.head.wait()
            apart.start_head()
        apart.ended()
        apart.assert_equal_to(undisturbed("slow_without_python", epochs=6))
        assert [e.generation for e in apart.events(Started)] == [1]
        assert [e.code for e in apart.events(Warned)] == ["head-back"] * deaths
        assert [e.epoch for e in apart.events(EpochEnd)] == list(range(6))
        assert [e.seq for e in apart.events(Event)] == list(range(len(apart.events(Event))))


def test_results_that_were_made_while_the_head_was_away_are_kept(tmp_path, undisturbed):
    """SIGCONT does nothing to a trainer: the fault only tells when the training is over."""
    over = Fault("SIGCONT", [0], tmp_path / "over", stage="train_end", epoch=2)
    functions = {**BASIC, "dataset": programs.slow_without_python, "callbacks": callbacks(over)}
    with Apart(tmp_path, functions) as apart:
        until(lambda: len(apart.events(EpochEnd)) == 2, 60)
        apart.head.kill()
        apart.head.wait()
        until(lambda: list(tmp_path.glob("over-*")), 60)
        time.sleep(4)  # nobody can see from here that the trainers have said all they have to say
        apart.start_head()
        apart.ended()
        apart.assert_equal_to(undisturbed("slow_without_python"))
        assert [e.generation for e in apart.events(Started)] == [1]


def test_a_head_that_comes_back_to_fewer_trainers_begins_again(tmp_path, undisturbed):
    fault = Fault("SIGSTOP", [1], tmp_path / "fault", epoch=1, batch=4)
    functions = {**BASIC, "callbacks": callbacks(fault)}
    with Apart(tmp_path, functions, checkpoint_every="2 steps") as apart:
        until(lambda: list(tmp_path.glob("fault-*")), 60)
        apart.head.kill()
        apart.head.wait()
        (stopped,) = {e.pid for e in apart.events(Phase) if e.worker == 1 and e.pid}
        os.kill(stopped, signal.SIGKILL)
        apart.start_head()
        apart.ended()
        apart.assert_equal_to(undisturbed())
        assert [e.generation for e in apart.events(Started)] == [1, 2]


def test_a_run_that_was_stopping_when_its_head_died_stops(tmp_path):
    with Apart(tmp_path, {**BASIC, "dataset": programs.slow}, epochs=1000) as apart:
        until(lambda: apart.events(EpochEnd), 60)
        apart.head.terminate()
        until(lambda: "stopping" in [e.code for e in apart.events(Warned)])
        apart.head.kill()
        apart.head.wait()
        apart.start_head()
        apart.ended()
        (ended,) = apart.events(Ended)
        assert ended.outcome == "stopped"
        assert (apart.rundir / RunDir.WEIGHTS).exists()


def test_with_min_workers_a_run_goes_on_with_fewer_and_takes_them_back(tmp_path, undisturbed):
    lost = callbacks(Fault("SIGSTOP", [0], tmp_path / "fault", epoch=1, batch=4))

    def made(worker):
        return [*lost(worker), programs.holds(tmp_path / "back", epoch=2)]

    with Apart(
        tmp_path,
        {**BASIC, "callbacks": made},
        checkpoint_every="2 steps",
        min_workers=1,
        epochs=5,
    ) as apart:
        until(lambda: list(tmp_path.glob("fault-*")), 60)
        apart.agents[0].kill()
        until(lambda: "fewer-workers" in [e.code for e in apart.events(Warned)])
        apart.start_agent(0)
        until(lambda: [e for e in apart.events(Phase) if "is back" in e.reason])
        (tmp_path / "back").touch()
        apart.ended()
        apart.assert_equal_to(undisturbed(epochs=5))
        assert "worker-back" in [e.code for e in apart.events(Warned)]
        assert {e.worker for e in apart.events(Phase) if e.phase == "done"} == {0, 1}


def test_with_min_workers_one_that_always_dies_is_left_out(tmp_path, undisturbed):
    fault = Fault("SIGKILL", [1], tmp_path / "fault", epoch=0, batch=0, times=2)
    run = launch({**BASIC, "callbacks": callbacks(fault)}, min_workers=1)
    assert_equal_to_plain(run, undisturbed())
    assert codes(run) == ["fewer-workers", "worker-back"]


def test_a_full_disk_costs_a_checkpoint_and_is_told(tmp_path, monkeypatch, nbtrain_home):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(small)])
    if mounted.returncode:
        assert not os.environ.get("CI"), "CI has to be able to mount a file system"
        pytest.skip("needs the right to mount a small file system")
    monkeypatch.setenv("NBTRAIN_HOME", str(small))
    try:
        run = launch({**BASIC, "model": programs.five_megabytes}, epochs=4)
        with pytest.raises(RunFailed, match=r"can't be written.*No space left"):
            run.wait().check()
        assert_told_at_once(run)
        assert "no-checkpoint" in codes(run)
        assert run.load().count_params() > 400_000  # the checkpoint that found room
        until(lambda: not leftovers(small))
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_worker_out_of_memory_is_named(tmp_path):
    began = time.monotonic()
    run = launch({**BASIC, "dataset": programs.needs_ten_gigabytes}, memory=3 * 2**30)
    with pytest.raises(RunFailed, match="memory"):
        run.wait().check()
    (failed,) = events_of(run, Failed)
    assert failed.cause == "memory"
    assert_told_at_once(run)
    assert time.monotonic() - began < 60


def test_a_slow_dataset_is_not_ended(undisturbed):
    run = launch(
        {**BASIC, "dataset": programs.pauses},
        stacks_after_s=1.0,
        stall_timeout_s=20.0,
        epochs=1,
        batch=None,  # the dataset's own can't be seen behind its Python function
    )
    assert_equal_to_plain(run, undisturbed("pauses", epochs=1))
    assert "stalled" in codes(run)


@pytest.mark.parametrize("dataset", ["fewer_on_worker_1", "other_on_worker_1"])
def test_other_data_on_one_worker_is_refused(dataset):
    run = launch({**BASIC, "dataset": getattr(programs, dataset)})
    with pytest.raises(RunFailed, match=r"dataset\(\).*worker 1"):
        run.wait().check()
    assert_told_at_once(run)
    assert events_of(run, Progress) == []


@pytest.mark.parametrize("dataset", ["generates_fewer_on_worker_1", "permuted_by_no_seed"])
def test_other_batches_on_one_worker_are_found(dataset):
    run = launch({**BASIC, "dataset": getattr(programs, dataset)}, batch=None)
    with pytest.raises(RunFailed, match=r"dataset\(\)"):
        run.wait().check()
    assert_told_at_once(run)


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_callback_that_stops_one_worker_stops_all(epoch):
    run = launch({**BASIC, "callbacks": programs.stops_on_worker_1(epoch=epoch, batch=3)})
    run.wait().check()
    assert run.status == "succeeded"
    *_, last = events_of(run, EpochEnd)
    assert (last.epoch, last.steps) == (epoch, 4)
    assert "stopped-on-one" in codes(run)


def test_rows_of_a_csv_logger_outlive_a_restart(tmp_path, undisturbed):
    fault = Fault("SIGKILL", [0], tmp_path / "fault", epoch=2, batch=4)
    made = callbacks(fault)

    def logged(worker):
        import keras

        return [keras.callbacks.CSVLogger("log.csv"), *made(worker)]

    run = launch({**BASIC, "callbacks": logged}, checkpoint_every="2 steps")
    assert_equal_to_plain(run, undisturbed())
    rows = (run.files / "files" / "log.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "0", "1", "2"]
