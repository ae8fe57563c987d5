"""What every backend promises; one suite for all of them.

A `Place` says where a run trains and how to look at what it leaves there; the tests know nothing
else of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
import pytest

from nbtrain.errors import NoSuchRun, RunFailed
from nbtrain.run import find
from nbtrain.runtime.events import EpochEnd, Failed, Progress, Started

from . import places, programs
from .faults import Fault, callbacks
from .harness import assert_equal_to_plain, launch, plain

BASIC = {
    "model": programs.model,
    "dataset": programs.dataset,
    "validation": programs.validation,
}


@pytest.fixture(params=places.ALL)
def place(request, nbtrain_home):
    """Where the run trains; afterwards nothing of it may be left."""
    opened = places.open_place(request.param, request.getfixturevalue)
    with opened as found, places.left_as_found(found):
        yield found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return plain(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_n_workers_give_what_one_process_gives(place, undisturbed, workers):
    """203 examples in batches of 32: the last batch is of 11, and divides among none of them."""
    run = launch(BASIC, workers=workers, **place.fields)
    assert_equal_to_plain(run, undisturbed)
    assert run.model.count_params()


def test_a_users_error_comes_with_the_workers_traceback(place):
    run = launch({**BASIC, "dataset": programs.raises}, **place.fields)
    with pytest.raises(RunFailed) as raised:
        run.model  # noqa: B018
    assert raised.value.cause == "user"
    assert raised.value.worker in (0, 1)
    assert "programs.py" in raised.value.traceback
    assert "nbtrain/runtime" not in raised.value.traceback


def test_stop_ends_at_the_next_step_and_gives_a_model(place):
    run = launch({**BASIC, "dataset": programs.slow_without_python}, epochs=1000, **place.fields)
    next(event for event in run.watch() if isinstance(event, Progress) and event.epoch)
    assert run.stop().status == "stopped"
    assert run.model.count_params()
    assert run.history.epoch


def test_attach_from_another_process_finds_the_run(place):
    run = launch({**BASIC, "dataset": programs.slow_without_python}, epochs=4, **place.fields)
    code = (
        "import json, nbtrain\n"
        f"run = nbtrain.attach({run.id!r})\n"
        "model = run.model\n"
        "print(json.dumps([model.count_params(), run.history.history['loss']]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    parameters, losses = json.loads(done.stdout.splitlines()[-1])
    assert parameters == run.model.count_params()
    assert losses == run.history.history["loss"]


def test_logs_of_every_worker_are_there_afterwards(place):
    run = launch({**BASIC, "dataset": programs.prints}, epochs=1, **place.fields)
    run.wait().check()
    for worker in range(2):
        assert "the dataset is made" in run.logs(worker)
    followed = "".join(run.follow_logs(1))
    assert followed == run.logs(1)


def test_delete_leaves_nothing_behind(place):
    before = place.objects()
    run = launch({**BASIC, "dataset": programs.slow_without_python}, epochs=1000, **place.fields)
    next(event for event in run.watch() if isinstance(event, Progress))
    run.delete()
    assert place.objects() == before
    assert find(run.id) is None
    with pytest.raises(NoSuchRun):
        run.delete()


def test_a_killed_trainer_changes_nothing_of_the_result(place, undisturbed):
    """The trainer kills itself once: its folder for temporary files outlives it."""
    name = f"fault-{uuid.uuid4().hex}"
    fault = Fault("SIGKILL", [1], Path(name), epoch=1, batch=4)
    functions = {**BASIC, "callbacks": callbacks(fault)}
    run = launch(functions, checkpoint_every="2 steps", **place.fields)
    assert_equal_to_plain(run, undisturbed)
    assert [e.worker for e in run.events if isinstance(e, Failed)] == [1]
    starts = [e for e in run.events if isinstance(e, Started)]
    assert [(e.generation, bool(e.first_step)) for e in starts] == [(1, False), (2, True)]
    assert [e.epoch for e in run.events if isinstance(e, EpochEnd)] == [0, 1, 2]
    for left in Path(tempfile.gettempdir()).glob(f"{name}*"):
        left.unlink()


def test_versions_that_do_not_fit_are_refused(place):
    notebook = {"python": "3.9.1", "tensorflow": "2.12.0", "keras": "2.12.0"}
    run = launch(BASIC, versions=notebook, **place.fields)
    with pytest.raises(RunFailed, match=r"Python 3\.[\d.]+, not 3\.9") as raised:
        run.wait().check()
    assert raised.value.cause == "version"
    assert "TensorFlow" in str(raised.value)
    assert "nbtrain image build" in str(raised.value)
    assert not [e for e in run.events if isinstance(e, Started)]


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_gibibyte_of_captured_data_arrives(place):
    data = np.random.default_rng(1).integers(0, 255, 1 << 30, dtype="uint8")
    functions = {**BASIC, "dataset": programs.checks(data)}
    began = time.monotonic()
    run = launch(functions, epochs=1, start_timeout_s=300.0, **place.fields)
    run.wait().check()
    assert run.status == "succeeded"
    print(f"1 GiB to two workers, and an epoch: {time.monotonic() - began:.1f} s")
