"""A run as YAML: written, shown, and trained by kubectl with no notebook."""

from __future__ import annotations

import base64
import inspect
import json
import os
import stat
import subprocess

import pytest
import yaml

from nbtrain import config, sources
from nbtrain.errors import BackendError, OptionError
from nbtrain.training import export

from . import cluster as test_cluster
from . import programs
from .harness import until

SMALL = {"image": "registry.example/train:1", "epochs": 1, "batch": 32, "seed": 7}


@pytest.fixture
def cells(nbtrain_home, monkeypatch):
    """Return the programs' model and dataset as a notebook has them that imported nothing of ours.

    All of the user's modules travel, and in these tests that would be the tests themselves.
    """
    monkeypatch.setattr(sources, "_loaded", set)
    names = {"__name__": "__main__"}
    exec(compile(inspect.getsource(programs), "<cell>", "exec"), names)
    return names["model"], names["dataset"]


def documents(text):
    return list(yaml.safe_load_all(text))


def test_what_is_written_is_whole_and_for_its_owner_alone(cells, tmp_path):
    path = tmp_path / "train.yaml"
    text = export(*cells, path=path, **SMALL)
    assert path.read_text("utf-8") == text
    assert text.startswith("# kubectl apply -f FILE")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    made = documents(text)
    kinds = "Secret PersistentVolumeClaim Job Service NetworkPolicy NetworkPolicy Job"
    assert [m["kind"] for m in made] == kinds.split()
    assert all("ownerReferences" not in m["metadata"] for m in made)
    request = json.loads(base64.b64decode(made[0]["data"]["request.json"]))
    assert request["epochs"] == 1
    assert request["backend"] == "kubernetes"


def test_what_is_shown_holds_no_secret(nbtrain_home):
    text = export(programs.model, programs.dataset, **SMALL)
    assert set(documents(text)[0]["data"].values()) == {"…"}


def test_the_jobs_end_without_waiting_for_a_notebook(nbtrain_home):
    made = documents(export(programs.model, programs.dataset, **SMALL))
    arguments = made[2]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[arguments.index("--linger") + 1] == "0"


def test_a_secret_that_client_side_apply_can_not_copy_says_so(cells, tmp_path):
    model, dataset = cells
    data = os.urandom(2**16)
    text = export(model, lambda: data and dataset(), path=tmp_path / "train.yaml", **SMALL)
    assert text.startswith("# kubectl apply --server-side -f FILE")


def test_a_payload_that_does_not_fit_is_refused(nbtrain_home, tmp_path):
    data = os.urandom(2 * 2**20)

    def dataset():
        return data and programs.dataset()

    with pytest.raises(BackendError, match="does not fit into a Secret"):
        export(programs.model, dataset, path=tmp_path / "train.yaml", **SMALL)


def test_a_file_that_can_not_be_written_is_said(nbtrain_home, tmp_path):
    with pytest.raises(OptionError, match="can't be written: No such file"):
        export(programs.model, programs.dataset, path=tmp_path / "no" / "train.yaml", **SMALL)


@pytest.mark.cluster
@pytest.mark.timeout(400)
def test_kubectl_trains_what_was_exported(cells, namespace, tmp_path):
    from .docker_image import base_image

    path, large = tmp_path / "train.yaml", tmp_path / "large.yaml"
    image = test_cluster.push(base_image())
    small = {**SMALL, "image": image, "cpu": "500m", "memory": "1200Mi", "storage": "1Gi"}
    config.update({"namespace": namespace})
    export(*cells, path=path, **small)
    data = os.urandom(2**16)
    export(cells[0], lambda: data and cells[1](), path=large, **small)

    def asked(*arguments):
        command = ["kubectl", "--kubeconfig", test_cluster.kubeconfig("user"), "-n", namespace]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)

    def kubectl(*arguments):
        done = asked(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    # Why it is --server-side for a large one, as docs/kubernetes.md says.
    refused = asked("apply", "--dry-run=server", "-f", large)
    assert refused.returncode != 0
    assert "metadata.annotations: Too long" in refused.stderr
    kubectl("apply", "--server-side", "--dry-run=server", "-f", large)
    kubectl("apply", "-f", path)
    head = documents(path.read_text("utf-8"))[2]["metadata"]["name"]
    kubectl("wait", "--for=condition=complete", f"job/{head}", "--timeout=240s")
    events = [json.loads(line) for line in kubectl("logs", f"job/{head}").splitlines() if line]
    assert events[-1]["outcome"] == "succeeded"
    kubectl("delete", "-f", path)
    until(lambda: not kubectl("get", "all,secret,pvc,networkpolicy", "-o", "name"), 60)
