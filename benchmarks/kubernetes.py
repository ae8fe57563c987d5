"""Pods: nbtrain beside `kubectl apply` of an Indexed Job with a script, in the same image."""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import SMALL, copying
from .report import Measure
from .section import Samples, Section, command, in_fresh_process, last_line, small_environment

HERE = Path(__file__).parent
#: What the pods by hand run: a ConfigMap of this package.
CODE = ("__init__.py", "copying.py", "programs.py", "script.py")
#: What a worker may use, here and there.
CORES, MEMORY = 1, 2 << 30
PORT = 2222
#: How long pods may take, in seconds.
PATIENCE_S = 600


class Kubernetes(Section):
    """nbtrain's pods, and those of a Job that one writes by hand."""

    name = "kubernetes"
    title = "Pods"
    about = f"""Against `kubectl apply` of an Indexed Job that runs the same script in two pods of
the same image ([benchmarks/kubernetes.py](../benchmarks/kubernetes.py)), on the tests' cluster of
two nodes, which share this machine; a worker has {CORES} core and 2 GiB of memory here and there.
The raw copies are an HTTP `PUT` and `GET` through the API server's pod proxy, of a pod that does
nothing else ([benchmarks/copying.py](../benchmarks/copying.py)); the one writes what comes to a
file, the other keeps it in memory, as nbtrain does, which computes two SHA-256 besides."""
    notes = """\
- *Cell to the end of the first step* is the first cell of a notebook that trains on pods: with
  packing, the import of the Kubernetes client, and head, volume and all else that a run consists
  of, but with no rehearsal (`--no-rehearse`), as by hand. By hand it begins with `kubectl apply`.
  The nodes have the image; nothing else is warm.
- *1 GiB captured* goes to the head first, which checks its SHA-256, and from it to both workers,
  while TensorFlow is imported beside it: the time of both ways. The raw copy ends in one pod.
- *The cell returns* is the time from the end of packing to the end of the cell.
- *The notebook's kernel* is the CPU time of its process from the first step to the last epoch's
  end, as a share of one core."""

    def lacking(self) -> str:
        """Return why there is no cluster."""
        from tests import cluster
        from tests.cluster import access

        if access.own_context():
            return ""
        return "; ".join(cluster.lacking())

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Have a cluster that has the image, and a namespace of our own."""
        from tests import cluster
        from tests.cluster import objects
        from tests.docker_image import base_image

        booted = cluster.up()
        self._namespace = f"bench-{secrets.token_hex(3)}"
        try:
            self._image = cluster.push(base_image())
            objects.create_namespace(self._namespace)
            os.environ["KUBECONFIG"] = str(cluster.kubeconfig())
            yield
        finally:
            with contextlib.suppress(Exception):  # it may not have come so far
                objects.core_api().delete_namespace(self._namespace)
            if booted and "NBTRAIN_KEEP_CLUSTER" not in os.environ:
                cluster.down()

    def measure(self) -> dict[str, float]:
        """Measure everything once."""
        small = SMALL in os.environ
        size, model_bytes = (2**26, 20_000_000) if small else (2**30, 200_000_000)
        hand = ByHand(self._namespace, self._image)
        options = {"backend": "kubernetes", "namespace": self._namespace, "image": self._image}
        options |= {"cpu": CORES, "memory": MEMORY, "storage": 4 << 30, "rehearse": False}
        sent = json.dumps({**options, "bytes": size, "model_bytes": model_bytes})
        parts = {
            "hand": hand.trained(),
            "trained": in_fresh_process("placed", "trained", json.dumps(options)),
            "raw": hand.copied(size, model_bytes),
            "copied": in_fresh_process("placed", "copied", sent),
        }
        _recycle_volumes()
        return {f"{part}.{name}": x for part, found in parts.items() for name, x in found.items()}

    def table(self, samples: Samples) -> list[Measure]:
        """Return the lines of the table with the goals of the project."""
        ratios = [
            Measure(title, unit, goal, samples[ours], samples[theirs], at_least=True)
            for title, unit, goal, ours, theirs in (
                ("Steps per second", "/s", 0.99, "trained.rate", "hand.rate"),
                ("1 GiB captured, to both workers", "MB/s", 0.8, "copied.there", "raw.there"),
                ("A model of 200 MB comes back", "MB/s", 0.8, "copied.back", "raw.back"),
            )
        ]
        return [
            Measure(
                "Cell to the end of the first step",
                "s",
                0.5,
                samples["trained.first"],
                samples["hand.first"],
                difference=True,
            ),
            *ratios,
            Measure("The cell returns, after packing", "s", 0.1, samples["trained.after_packing"]),
            Measure("The notebook's kernel meanwhile", "cores", 0.05, samples["trained.kernel"]),
        ]


class ByHand:
    """What one would do without nbtrain, with kubectl.

    Parameters
    ----------
    namespace, image
        Where, and in what the pods run.
    """

    def __init__(self, namespace: str, image: str) -> None:
        self._namespace, self._image = namespace, image

    def trained(self) -> dict[str, float]:
        """Run the script in two pods; return seconds to the first step, and steps per second."""
        manifests = [self._code("hand"), service("hand"), self._job("hand")]
        with self._applied("hand", manifests) as began:
            self._kubectl("wait", "--for=condition=complete", "job/hand")
            times = last_line(self._kubectl("logs", self._chief("hand")))
        return {"first": times["first"] - began, "rate": times["rate"]}

    def copied(self, size: int, back: int) -> dict[str, float]:
        """Send so many bytes to a pod, and get so many back; return MB/s."""
        with self._applied("raw", [self._code("raw"), self._keeper("raw")]):
            self._kubectl("wait", "--for=condition=ready", "pod/raw")
            there = _timed(lambda: self._put("there", size))
            self._put("back", back)
            again = _timed(lambda: self._get("back"))
        return {"there": size / there / 1e6, "back": back / again / 1e6}

    def _chief(self, name: str) -> str:
        """Return the pod of a Job's index 0."""
        index = "batch.kubernetes.io/job-completion-index=0"
        selector = f"--selector=batch.kubernetes.io/job-name={name},{index}"
        return self._kubectl("get", "pod", selector, "--output=name").strip()

    @contextlib.contextmanager
    def _applied(self, name: str, manifests: list[dict[str, Any]]) -> Iterator[float]:
        """Apply manifests and give the time of that; delete them afterwards."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.json"
            path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}))
            began = time.time()
            try:
                self._kubectl("apply", "--filename", path)
                yield began
            finally:
                self._kubectl("delete", "--now", "--ignore-not-found", "--filename", path)

    def _kubectl(self, verb: str, *words: str | Path) -> str:
        if verb == "wait":
            words = (*words, f"--timeout={PATIENCE_S}s")
        return command("kubectl", f"--namespace={self._namespace}", verb, *words)

    # -- through the pod proxy ----------------------------------------------------------------

    def _put(self, name: str, size: int) -> None:
        headers = {"Content-Length": str(size)}
        with self._open("PUT", name, body=_Zeros(size), headers=headers):
            pass

    def _get(self, name: str) -> None:
        kept = io.BytesIO()
        with self._open("GET", name) as response:
            while data := response.read1(1 << 20):
                kept.write(data)

    def _open(self, method: str, name: str, **options: Any) -> Any:
        from nbtrain.backends.kubernetes.client import Client

        client = Client(namespace=self._namespace)
        address = client.path("Pod", f"raw:{copying.PORT}", f"proxy/{name}")
        return client.open(method, address, **options)

    # -- manifests ----------------------------------------------------------------------------

    def _code(self, name: str) -> dict[str, Any]:
        files = {file: (HERE / file).read_text("utf-8") for file in CODE}
        return {**_about("v1", "ConfigMap", name), "data": files}

    def _job(self, name: str) -> dict[str, Any]:
        hosts = [f"{name}-{index}.{name}:{PORT}" for index in range(2)]
        # Kubernetes puts the index in, which makes it a number.
        task = '{"type": "worker", "index": $(JOB_COMPLETION_INDEX)}'
        config = f'{{"cluster": {{"worker": {json.dumps(hosts)}}}, "task": {task}}}'
        shell = ["sh", "-c", f"TF_CONFIG='{config}' exec python3 -m benchmarks.script"]
        environment = {
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TF_NUM_INTRAOP_THREADS": str(CORES),
            **small_environment(),
        }
        pod = self._pod(name, shell, environment, {"cpu": str(CORES), "memory": str(MEMORY)})
        pod |= {"restartPolicy": "Never", "subdomain": name}
        spec = {"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimit": 0}
        template = {"metadata": {"labels": {"app": name}}, "spec": pod}
        return {**_about("batch/v1", "Job", name), "spec": {**spec, "template": template}}

    def _keeper(self, name: str) -> dict[str, Any]:
        program = ["sh", "-c", "cd /tmp && exec python3 /code/benchmarks/copying.py http"]
        return {**_about("v1", "Pod", name), "spec": self._pod(name, program, {}, {})}

    def _pod(
        self, name: str, program: list[str], environment: dict[str, str], limits: dict[str, str]
    ) -> dict[str, Any]:
        """Return a pod's specification; it passes the `restricted` Pod Security Standard."""
        container = {
            "name": "main",
            "image": self._image,
            "command": program,
            "workingDir": "/code",
            "env": [{"name": key, "value": value} for key, value in environment.items()],
            "resources": {"requests": limits, "limits": limits},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                {"name": "code", "mountPath": "/code/benchmarks"},
                {"name": "tmp", "mountPath": "/tmp"},
            ],
        }
        return {
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [
                {"name": "code", "configMap": {"name": name}},
                {"name": "tmp", "emptyDir": {}},
            ],
        }


def service(name: str) -> dict[str, Any]:
    """Return the headless Service by which the pods of a Job find each other."""
    spec = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {"app": name}}
    return {**_about("v1", "Service", name), "spec": spec}


def _about(version: str, kind: str, name: str) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}}


class _Zeros:
    """So many bytes, to be sent without being in memory."""

    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes; in big pieces, whatever is asked for."""
        data = bytes(min(self._left, 1 << 20))
        self._left -= len(data)
        return data


def _timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _recycle_volumes() -> None:
    """Make the volumes of deleted claims usable again, where no provisioner does."""
    from tests.cluster import access, objects

    if access.own_context() is None:
        objects.recycle_volumes()
