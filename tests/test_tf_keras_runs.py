"""Whole runs of models of tf_keras on the local backend."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from nbtrain.errors import RunFailed
from nbtrain.runtime.events import Failed, Phase, Progress, Saved, Started

from . import programs
from .harness import assert_equal_to_plain, launch, plain

pytestmark = pytest.mark.usefixtures("nbtrain_home")

BASIC = {
    "model": programs.tf_keras_model,
    "dataset": programs.dataset,
    "validation": programs.validation,
}


def test_two_workers_give_what_one_process_gives_and_the_model_comes_back(tmp_path):
    import tf_keras

    run = launch(BASIC)
    assert_equal_to_plain(run, plain(tmp_path, model="tf_keras_model"))
    model = run.model
    assert isinstance(model, tf_keras.Model)
    x, y = programs.validation()
    loss, accuracy = model.evaluate(x, y, verbose=0)
    assert loss == pytest.approx(run.metrics["val_loss"], abs=1e-6)
    assert accuracy == pytest.approx(run.metrics["val_accuracy"], abs=1e-6)
    assert int(model.optimizer.iterations.numpy()) == 3 * 7
    saved = tf_keras.models.load_model((run.files / "model.keras").download(tmp_path))
    for ours, theirs in zip(saved.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert "Epoch 3/3" in run.logs(0)


@pytest.mark.full
@pytest.mark.parametrize("data", ["dataset", "shuffled"])
@pytest.mark.parametrize("model", ["tf_keras_model", "tf_keras_own_step"])
def test_a_killed_trainer_changes_nothing(tmp_path, data, model):
    functions = {**BASIC, "model": getattr(programs, model), "dataset": getattr(programs, data)}
    run = launch(functions, epochs=5)
    for event in run.watch():
        if isinstance(event, Saved) and event.what == "checkpoint" and event.epoch == 3:
            break
    (pid,) = {e.pid for e in run.events if isinstance(e, Phase) and e.worker == 1 and e.pid}
    os.kill(pid, signal.SIGKILL)
    assert_equal_to_plain(run, plain(tmp_path, model=model, dataset=data, epochs=5))
    (failed,) = [e for e in run.events if isinstance(e, Failed)]
    assert (failed.worker, failed.cause, failed.will_retry) == (1, "lost", True)
    assert [e for e in run.events if isinstance(e, Started)][1].first_epoch >= 3


@pytest.mark.full
def test_stop_ends_at_the_next_step_and_gives_a_model():
    run = launch({**BASIC, "dataset": programs.slow}, epochs=1000)
    for event in run.watch():
        if isinstance(event, Progress) and event.epoch >= 1 and event.step >= 1:
            break
    run.stop()
    assert run.status == "stopped"
    steps = int(run.model.optimizer.iterations.numpy())
    assert run.history.epoch == list(range(steps // 7))


@pytest.mark.full
def test_tf_dot_keras_is_tf_keras_where_the_notebook_has_it_so(monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    run = launch({**BASIC, "model": programs.tf_dot_keras_model}, epochs=1).wait()
    assert run.status == "succeeded"


@pytest.mark.full
def test_callbacks_are_those_of_tf_keras(tmp_path):
    run = launch({**BASIC, "callbacks": programs.tf_keras_callbacks}, epochs=2).wait()
    assert run.status == "succeeded"
    assert "log.csv" in {path.name for path in (run.files / "files").iterdir()}
    wrong = launch({**BASIC, "callbacks": programs.keras_callbacks})
    with pytest.raises(RunFailed, match="not a callback of tf_keras"):
        wrong.model  # noqa: B018
