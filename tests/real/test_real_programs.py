"""Whole programs of several kinds: what two workers make of them is what one process makes."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nbtrain

from ..harness import assert_equal_to_plain

pytestmark = pytest.mark.usefixtures("nbtrain_home")

HERE = Path(__file__).parent

#: The same program in a process that never imports nbtrain; it ends as its last lines do.
ALONE = """
import json, sys
import keras, numpy as np
import {name} as program
keras.utils.set_random_seed(3)
model, data = program.model(), program.dataset()
given = dict(zip("xy", data), batch_size=program.BATCH) if isinstance(data, tuple) else dict(x=data)
history = model.fit(
    **given, epochs=program.EPOCHS, validation_data=program.validation(), verbose=0,
    callbacks=program.callbacks() if hasattr(program, "callbacks") else None,
)
assert "nbtrain" not in sys.modules
np.savez("variables.npz", *[v.numpy() for v in (*model.variables, *model.optimizer.variables)])
print(json.dumps(history.history, default=float))
"""


def alone(name, folder):
    """Return the variables and the history of a program by itself."""
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", ALONE.format(name=name)],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with np.load(folder / "variables.npz") as saved:
        return list(saved.values()), json.loads(done.stdout.splitlines()[-1])


#: Measured: 7e-11 in float64, 1e-6 (an embedding, whose rare words' steps Adam makes large), 6e-8.
TOLERANCES = {"images": 1e-9, "text": 5e-6, "own_step": 1e-6}


@pytest.mark.full
@pytest.mark.parametrize(("name", "tolerance"), TOLERANCES.items())
def test_a_real_program(name, tolerance, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.chdir(tmp_path)
    program = importlib.import_module(name)
    expected = alone(name, tmp_path / "alone")
    run = nbtrain.train(
        program.model,
        program.dataset,
        program.validation,
        getattr(program, "callbacks", None),
        batch=program.BATCH if name == "own_step" else None,
        workers=2,
        epochs=program.EPOCHS,
        seed=3,
        live=False,
        name=name,
    )
    assert_equal_to_plain(run, expected, tolerance)
    codes = [warned.code for warned in run.state.warnings]
    assert codes == (["model-file"] if name == "own_step" else [])  # its model has no get_config
    x, _ = next(iter(program.validation().take(1))) if name != "own_step" else program.validation()
    assert np.isfinite(run.model.predict(x, verbose=0)).all()
