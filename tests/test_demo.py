"""`make demo` says what it found, and fails where that is not right."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nbtrain.runtime.events import Event, Phase

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import demo  # noqa: E402
import plain  # noqa: E402


def phases(*told: tuple[int, str, int | None]) -> list[Event]:
    return [Phase(worker=worker, phase=phase, pid=pid) for worker, phase, pid in told]


def test_right_results_are_no_complaint():
    assert demo.complaints(0.98, {1, 2}, 1e-7) == []


@pytest.mark.parametrize(
    ("accuracy", "pids", "difference", "word"),
    [
        (0.97, {1, 2}, 0.0, "accuracy"),
        (float("nan"), {1, 2}, 0.0, "accuracy"),
        (0.99, {1}, 0.0, "1 trainer processes"),
        (0.99, {1, 2, 3}, 0.0, "3 trainer processes"),
        (0.99, {1, 2}, 1e-3, "weights"),
        (0.99, {1, 2}, float("nan"), "weights"),
    ],
)
def test_what_is_not_right_is_named(accuracy, pids, difference, word):
    (complaint,) = demo.complaints(accuracy, pids, difference)
    assert word in complaint


def test_only_processes_that_trained_are_counted():
    told = phases((0, "starting", 11), (1, "starting", 12), (2, "starting", 13))
    told += phases((0, "training", None), (1, "training", 12), (2, "failed", None))
    assert demo.trainers(told) == {11, 12}


def test_the_demos_own_process_is_no_trainer():
    assert demo.trainers(phases((0, "training", os.getpid()))) == set()


def test_different_shapes_and_nan_are_different_weights():
    one = [np.ones((2, 2)), np.zeros(3)]
    assert demo.largest_difference(one, one) == 0
    assert demo.largest_difference(one, one[:1]) == float("inf")
    assert demo.largest_difference(one, [np.ones((2, 3)), np.zeros(3)]) == float("inf")
    assert demo.largest_difference(one, [one[0], np.full(3, np.nan)]) == float("inf")
    assert demo.largest_difference(one, [one[0], np.full(3, 1e-6)]) == pytest.approx(1e-6)


def test_the_training_cell_is_read_as_nbtrain_reads_it():
    options, body = plain.split(plain.tagged(demo.NOTEBOOK, "train"))
    assert options == {
        "workers": "2",
        "epochs": "5",
        "batch": "64",
        "seed": "7",
        "name": demo.NAME,
    }
    assert body.startswith("def model():")


@pytest.mark.full
@pytest.mark.timeout(600)
def test_the_demo_succeeds_on_this_machine():
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "demo.py"], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The demo succeeded" in done.stdout
    assert re.search(r"trainer processes that took part +2\n", done.stdout)
    # Without a terminal the run's progress comes as lines.
    assert "epoch 5/5" in done.stderr
