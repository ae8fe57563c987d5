"""nbtrain in a pod, as in a JupyterHub's: the pod's own account is the way to the cluster."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

import nbtrain
from nbtrain.backends.kubernetes import names, preflight
from nbtrain.backends.kubernetes.client import Client
from nbtrain.backends.kubernetes.exec import Command

from . import cluster as test_cluster
from . import places, programs
from .docker_image import base_image
from .harness import launch, until
from .kubernetes_pods import account, needs_own_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

PACKAGES = "/packages"
#: What a kernel there would do: look, and read a run's history in both ways.
LOOK = """
import json, sys
import nbtrain
from nbtrain.backends.kubernetes import preflight
from nbtrain.backends.kubernetes.backend import _running_pod
from nbtrain.backends.kubernetes.client import Client
from nbtrain.backends.kubernetes.files import Exec
from nbtrain.runtime.framing import Unframer
client = Client()
rights = preflight.rights(client)
found = nbtrain.runs()
history = found[0].history.history if found else {}
read = b""
if found:
    way, unframer = Exec(client, _running_pod(client, found[0].id, "head"), "head"), Unframer()
    for raw in way.frames("history.json", 0, False):
        read += b"".join(unframer.feed(raw))
else:
    import kubernetes.stream, nbtrain.report  # what that takes
same = bool(read) and json.loads(read)["history"] == history
print(json.dumps([client.context, client.namespace, [r.id for r in found], rights.state, same]))
"""
#: Which files that takes: Python alone knows.
FILES = """
import sys
import kubernetes.config.incluster_config
print(json.dumps([getattr(m, "__file__", None) for m in list(sys.modules.values())]))
"""


@pytest.fixture
def admin(namespace, monkeypatch):
    needs_own_cluster()
    monkeypatch.setenv("KUBECONFIG", str(test_cluster.kubeconfig()))
    return Client(namespace=namespace)


def test_the_account_of_the_pod_finds_and_reads_the_runs_of_its_namespace(
    admin, request, tmp_path, nbtrain_home
):
    functions = {"model": programs.model, "dataset": programs.dataset}
    role = yaml.safe_load(preflight.role_yaml(admin.namespace, preflight.RIGHTS))
    with places.open_place("kubernetes", request.getfixturevalue) as place:
        run = launch(functions, epochs=1, **place.fields).wait().check()
        with (
            contextlib.ExitStack() as ending,
            account(admin, role["rules"]) as name,
            kernel_of(admin, name) as pod,
        ):
            ending.callback(run.delete)
            send(admin, pod, packed(tmp_path))
            settings = {"NBTRAIN_CONFIG": f"{PACKAGES}/config.toml", "HOME": PACKAGES}
            settings |= {"NBTRAIN_USER": names.user(), "PYTHONPATH": PACKAGES}
            variables = [f"{key}={value}" for key, value in settings.items()]
            said = output(admin, pod, ["env", *variables, "python3", "-c", LOOK])
    last = said.decode().splitlines()[-1]
    assert json.loads(last) == ["in-cluster", admin.namespace, [run.id], "ok", True]


@contextlib.contextmanager
def kernel_of(client, account):
    """Give the name of a restricted pod of a ServiceAccount, which does nothing by itself."""
    container = {
        "name": "kernel",
        "image": test_cluster.push(base_image()),
        "command": ["sleep", "600"],
        "volumeMounts": [{"name": "packages", "mountPath": PACKAGES}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    spec = {
        "serviceAccountName": account,
        "containers": [container],
        "volumes": [{"name": "packages", "emptyDir": {}}],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "kernel"}, "spec": spec}
    client.create(pod)
    try:
        until(lambda: client.get("Pod", "kernel")["status"]["phase"] == "Running", 120)
        yield "kernel"
    finally:
        client.delete("Pod", "kernel", grace_s=0)
        until(lambda: not client.find("Pod", fields="metadata.name=kernel")["items"])


def packed(folder):
    """Return nbtrain and the packages that it uses here, with settings, as an archive."""
    settings = folder / "config.toml"
    settings.write_text('backend = "kubernetes"\n')
    done = subprocess.run(
        [sys.executable, "-c", LOOK + FILES], capture_output=True, text=True, check=False,
        cwd=Path(nbtrain.__file__).parent.parent,
        env={**os.environ, "NBTRAIN_CONFIG": str(settings), "NBTRAIN_HOME": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    roots = [Path(nbtrain.__file__).parent.parent, *(Path(p) for p in sys.path if "-packages" in p)]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(settings, settings.name)
        for file in filter(None, json.loads(done.stdout.splitlines()[-1])):
            # A virtual environment may be in the checkout: the innermost root is a module's.
            inside = [Path(file).relative_to(r) for r in roots if Path(file).is_relative_to(r)]
            if inside:
                tar.add(file, str(min(inside, key=lambda path: len(path.parts))))
    return archive.getvalue()


def send(client, pod, archive):
    # The protocol has no end of a command's input.
    unpack = f"head -c {len(archive)} | tar -x -f - -C {PACKAGES}"
    with Command(client, pod, "kernel", ["sh", "-ec", unpack], stdin=True) as command:
        command.send(io.BytesIO(archive))
        list(command.output())


def output(client, pod, words):
    with Command(client, pod, "kernel", words) as command:
        return b"".join(command.output())
