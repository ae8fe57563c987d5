"""What a run's containers are made of: from a request to arguments of the Docker SDK. Pure.

They are restricted as pods are under the `restricted` Pod Security Standard: not root, no new
privileges, no capabilities, nothing of the image can be written to, memory and cores limited.
"""

from __future__ import annotations

import math
from typing import Any

from ...runtime.request import TrainRequest

LABEL = "io.nbtrain."
RUN, NAME, CREATED, IMAGE, ROLE, WORKER = (
    LABEL + word for word in ("run", "name", "created", "image", "role", "worker")
)
HEAD_ROLE, WORKER_ROLE, READER_ROLE = "head", "worker", "reader"

#: Who the processes are: the numeric user needs no entry in the image.
USER = 1000
#: What a container is given, the volume of the run (the head's), and a volume to write to.
GIVEN, RESULTS, WRITABLE = "/nbtrain/given", "/nbtrain/results", "/nbtrain/scratch"
#: The run directory and the scratch are folders of these: a volume's own folder stays root's.
RUNDIR, SCRATCH = f"{RESULTS}/run", f"{WRITABLE}/home"
RUNTIME = f"{GIVEN}/runtime.zip"
#: The name and the port at which agents find the head on the run's network.
HEAD_NAME, HEAD_PORT = "head", 8476
#: A worker's memory where none was asked for, and the head's, in bytes.
MEMORY, HEAD_MEMORY = 4 << 30, 512 << 20
HEAD_CORES = 1
#: How often the engine starts a container again that died. A worker is lost as often as that at
#: most; the head itself gives up a run that gains nothing.
RESTARTS = 20
#: TensorFlow and BLAS start threads by the core, user code processes of its own.
PROCESSES = 4096
_SHARED_MEMORY = 1 << 30
#: How long a container for reading lives, in seconds.
READER_S = 60


def object_name(run_id: str, *parts: str) -> str:
    """Return the name of one of the run's objects."""
    return "-".join(("nbtrain", run_id, *parts))


def labels(
    request: TrainRequest, image: str, role: str = "", worker: int | None = None
) -> dict[str, str]:
    """Return the labels of one of the run's objects."""
    found = {RUN: request.id, NAME: request.name, CREATED: repr(request.created), IMAGE: image}
    if role:
        found[ROLE] = role
    if worker is not None:
        found[WORKER] = str(worker)
    return found


def head(request: TrainRequest, image: str) -> dict[str, Any]:
    """Return the arguments of `create_container` for the head."""
    command = [
        *_runtime("head", RUNDIR, "--given", GIVEN, "--listen", f"0.0.0.0:{HEAD_PORT}"),
        "--ended-is-success",  # or the engine would start it again
    ]
    volumes = {object_name(request.id): RESULTS, object_name(request.id, "given"): GIVEN}
    return {
        "name": object_name(request.id, "head"),
        "image": image,
        "command": command,
        "labels": labels(request, image, HEAD_ROLE),
        # The head writes the results, with the credentials that the workers have.
        "environment": environment(request.container.get("env", {}) if request.results else {}),
        "host": host(volumes, memory=HEAD_MEMORY, cores=HEAD_CORES),
        "alias": HEAD_NAME,
    }


def worker(request: TrainRequest, image: str, number: int) -> dict[str, Any]:
    """Return the arguments of `create_container` for a worker."""
    arguments = ["--given", GIVEN, "--head", f"{HEAD_NAME}:{HEAD_PORT}", "--worker", str(number)]
    asked = request.container
    cores = float(asked.get("cpu", 1))
    threads = {"TF_NUM_INTRAOP_THREADS": str(max(1, math.ceil(cores)))}
    given = {object_name(request.id, "given"): f"{GIVEN}:ro"}
    return {
        "name": object_name(request.id, str(number)),
        "image": image,
        "command": _runtime("agent", *arguments),
        "labels": labels(request, image, WORKER_ROLE, number),
        "environment": environment({**threads, **asked.get("env", {})}),
        "host": host(
            given, memory=request.memory or MEMORY, cores=cores, gpus=int(asked.get("gpus", 0))
        ),
        "alias": f"worker-{number}",
    }


def reader(run_id: str, image: str, about: dict[str, str]) -> dict[str, Any]:
    """Return the arguments for a container through which a run is read that has no head any more.

    It does nothing, and not for long; it is started again when something is to be read.
    """
    volumes = {object_name(run_id): f"{RESULTS}:ro", object_name(run_id, "given"): f"{GIVEN}:ro"}
    return {
        "name": object_name(run_id, "reader"),
        "image": image,
        "command": ["python", "-c", f"import time; time.sleep({READER_S})"],
        "labels": {**about, ROLE: READER_ROLE},
        "environment": environment({}),
        "host": {**host(volumes, memory=HEAD_MEMORY, cores=1), "restart_policy": {}},
        "alias": "",
    }


def host(volumes: dict[str, str], *, memory: int, cores: float, gpus: int = 0) -> dict[str, Any]:
    """Return the arguments of `create_host_config`: what a container may do and use.

    Parameters
    ----------
    volumes
        The folder of each volume; with ":ro" it is only read.
    memory
        In bytes.
    """
    binds = {}
    for name, folder in volumes.items():
        path, _, mode = folder.partition(":")
        binds[name] = {"bind": path, "mode": mode or "rw"}
    found: dict[str, Any] = {
        "binds": binds,
        "read_only": True,
        "tmpfs": {"/tmp": "mode=1777"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "mem_limit": memory,
        "memswap_limit": memory,  # no swap: what does not fit fails, as in a pod
        "nano_cpus": int(cores * 1e9),
        "pids_limit": PROCESSES,
        "shm_size": min(memory, _SHARED_MEMORY),
        "restart_policy": {"Name": "on-failure", "MaximumRetryCount": RESTARTS},
    }
    if gpus:
        found["device_requests"] = [{"Driver": "", "Count": gpus, "Capabilities": [["gpu"]]}]
    return found


def environment(more: dict[str, str]) -> dict[str, str]:
    """Return a container's environment; all that is written goes below its scratch."""
    return {
        "HOME": SCRATCH,
        "TMPDIR": SCRATCH,
        "KERAS_HOME": f"{SCRATCH}/keras",
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **more,
    }


def _runtime(*arguments: str) -> list[str]:
    return ["python", "-I", RUNTIME, *arguments]
