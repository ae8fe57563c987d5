"""A run on a cluster from its first to its last magic, in an IPython shell."""

from __future__ import annotations

import contextlib
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from nbtrain import backends, magics, run, training

from . import cluster as test_cluster
from . import places, shells
from .cluster.shell import run as run_command
from .harness import until
from .kubernetes_pods import listing

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

CELL = """
import keras, time
import numpy as np

def model():
    m = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(2)])
    m.compile("adam", "mse")
    return m

def dataset():
    print("the dataset is made", flush=True)
    return np.ones((64, 8), "float32"), np.ones((64, 2), "float32")

def callbacks():
    return [keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: time.sleep(0.1))]
"""


class Notebook:
    """A shell; what its cells print is all in one place, also while one of them runs."""

    def __init__(self, shell):
        self.shell, self.names, self.printed = shell, shell.user_ns, io.StringIO()

    def says(self, text):
        """Run a cell that succeeds, and return what it printed."""
        before = len(self.printed.getvalue())
        with contextlib.redirect_stdout(self.printed):
            result = self.shell.run_cell(text)
        said = self.printed.getvalue()[before:]
        assert result.success, said
        return said


@pytest.fixture
def place(request, nbtrain_home):
    opened = places.open_place("kubernetes", request.getfixturevalue)
    with opened as found, places.left_as_found(found):
        yield found


@pytest.fixture
def notebook(place, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "warm_up_in_background", lambda: None)
    with shells.shell(tmp_path / "ipython") as shell:
        made = Notebook(shell)
        made.says("%load_ext nbtrain")
        yield made
        magics.unload(shell)


def test_all_magics_of_a_run(place, notebook, tmp_path, monkeypatch):
    says, namespace = notebook.says, place.client.namespace
    before = listing(namespace)
    notebook.names["image"] = place.fields["container"]["image"]
    says("%k8s_config backend=kubernetes image={image} cpu=0.5 memory=1200MiB storage=1GiB")
    checked = says("%k8s_doctor")
    assert "✓ rights: " in checked
    assert "✗" not in checked

    shown = says("%%k8s_train --dry-run --name digits --workers 2" + CELL)
    assert set(secret_of(shown)["data"].values()) == {"…"}
    written = tmp_path / "train.yaml"
    cell = f"%%k8s_train --export {written} --name digits --workers 2" + CELL
    assert f"kubectl apply --server-side -f {written}" in says(cell)
    assert_taken(written, namespace)
    assert "digits" not in notebook.names
    assert listing(namespace) == before

    says("%%k8s_train --name digits --workers 2 --epochs 100000 --no-rehearse" + CELL)
    digits = notebook.names["digits"]
    assert digits.id in says("%k8s_runs")
    with ThreadPoolExecutor() as threads:
        stopping = threads.submit(stop_once_it_is_followed, notebook, digits)
        followed = says("%k8s_logs digits --worker 1 --follow")
        stopping.result()
    assert "the dataset is made" in followed
    assert digits.wait().status == "stopped"
    # What stops it prints into what is followed, or after it.
    logged = says("%k8s_logs digits --worker 1").strip()
    assert logged in followed.replace("digits: stopped\n", "")

    again = tmp_path / "again.yaml"
    says(f"%k8s_export digits {again}")
    assert_taken(again, namespace)
    # As in another kernel.
    del notebook.names["digits"]
    monkeypatch.setattr(run, "_here", {})
    backends.get.cache_clear()
    says("%k8s_attach digits")
    assert notebook.names["digits"] is not digits
    assert "18" in says("print(digits.model.count_params())")
    assert f"{digits.id}: deleted" in says("%k8s_delete digits")
    assert "digits" not in notebook.names
    assert listing(namespace) == before


def stop_once_it_is_followed(notebook, digits):
    """Stop a run by its magic, as another cell can't while one is following."""
    until(lambda: "the dataset is made" in notebook.printed.getvalue(), 120)
    digits.wait_for(lambda state: state.epoch_numbers, 60)
    notebook.shell.run_line_magic("k8s_stop", "digits")


def secret_of(text):
    (secret,) = [m for m in yaml.safe_load_all(text) if m["kind"] == "Secret"]
    return secret


def assert_taken(path: Path, namespace):
    """Assert that a file holds a whole run, which the API server takes."""
    assert "payload.bin" in secret_of(path.read_text("utf-8"))["data"]
    kubectl = [test_cluster.kubectl(), "--kubeconfig", test_cluster.kubeconfig("user")]
    apply = ["apply", "--server-side", "--dry-run=server", "--output=name", "--filename", path]
    assert "job.batch/" in run_command(*kubectl, "--namespace", namespace, *apply)
