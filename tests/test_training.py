"""`nbtrain.train` and what can be done with a run, by the public names alone."""

from __future__ import annotations

import numpy as np
import pytest

import nbtrain
from nbtrain.errors import FunctionError, NameInUse, NoSuchRun, OptionError, RunFailed

from . import programs
from .harness import assert_equal_to_plain, plain, until, variables

pytestmark = pytest.mark.usefixtures("nbtrain_home")

OPTIONS = {"batch": 32, "seed": 7, "workers": 2, "live": False}


def train(**options):
    functions = {
        "model": programs.model,
        "dataset": programs.dataset,
        "validation": programs.validation,
    }
    return nbtrain.train(**{**functions, **OPTIONS, **options})


def test_a_run_goes_on_from_another_with_its_optimizer_and_epoch_count(tmp_path):
    first = train(name="first", epochs=2, wait=True)
    second = train(name="second", epochs=3, from_run="first", with_optimizer=True)
    # Its history is that of the epochs it trained itself.
    expected, _ = plain(tmp_path, epochs=3)
    for ours, theirs in zip(variables(second), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    assert second.history.epoch == [2]
    weights_alone = train(name="third", epochs=1, from_run=first).wait()
    assert int(weights_alone.model.optimizer.iterations.numpy()) == 7
    assert weights_alone.metrics["loss"] < first.history.history["loss"][0]
    with pytest.raises(OptionError, match="has 2 epochs already"):
        train(epochs=2, from_run=first, with_optimizer=True)


def test_a_rerun_gives_the_same_and_changes_what_it_is_told_to(tmp_path):
    run = train(name="once", epochs=2, wait=True)
    again = run.rerun(name="again", wait=True)
    for ours, theirs in zip(variables(run), variables(again), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert_equal_to_plain(run.rerun(name="longer", epochs=3), plain(tmp_path))
    table = nbtrain.runs().to_pandas()
    assert list(table["name"]) == ["longer", "again", "once"]
    assert list(table["epochs"]) == [3, 2, 2]
    assert "longer" in repr(nbtrain.runs())


def test_the_name_of_a_live_run_is_refused_unless_it_is_to_be_replaced():
    run = train(dataset=programs.slow, batch=None, epochs=1000)
    with pytest.raises(NameInUse, match="--replace"):
        train()
    other = train(replace=True, epochs=1, wait=True)
    until(lambda: not run.state.live)
    assert other.status == "succeeded"
    assert nbtrain.attach("training").id == other.id


def test_only_the_newest_ended_runs_of_a_name_are_kept(monkeypatch):
    failing = [train(dataset=programs.raises, keep=2).wait().id for _ in range(4)]
    kept = [run.id for run in nbtrain.runs()]
    assert kept == failing[:0:-1]


def test_waiting_for_a_run_that_fails_raises():
    with pytest.raises(RunFailed, match="the file of the data is empty"):
        train(dataset=programs.raises, wait=True)


def test_captured_sizes_are_told(capsys):
    big = np.zeros((2_000_000, 8), "float32")

    def dataset():
        return big[:64], np.zeros(64, "int32")

    train(dataset=dataset, epochs=1, wait=True)
    assert "`big` (64 MB)" in capsys.readouterr().out


def test_what_is_sent_is_told_once_it_is_more_than_a_moments_work(capsys):
    data = np.zeros((400_000, 8), "float32")

    def dataset():
        return data[:64], np.zeros(64, "int32")

    train(dataset=dataset, epochs=1, wait=True)
    assert "MB go to the workers: `data` 12.8 MB" in capsys.readouterr().out


def test_mistakes_are_refused_before_anything_is_started():
    with pytest.raises(FunctionError, match="function"):
        train(model=5)
    with pytest.raises(OptionError, match="epochs"):
        train(epocs=2)
    with pytest.raises(OptionError, match="validation_split"):
        train(validation_split=0.2)
    with pytest.raises(NoSuchRun):
        nbtrain.attach("nothing")
    assert nbtrain.runs() == []
