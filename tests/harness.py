"""What tests of whole runs share: starting one, the plain process to compare with, leftovers."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nbtrain import payload
from nbtrain.backends import get
from nbtrain.backends.local import LocalBackend
from nbtrain.run import Run
from nbtrain.runtime import eventlog, tensors
from nbtrain.runtime.agent import free_port
from nbtrain.runtime.request import TrainRequest
from nbtrain.runtime.rundir import RunDir
from nbtrain.training import _packing

TESTS = Path(__file__).parent

#: A process that never imports nbtrain: what N workers are compared with.
PLAIN = """
import sys; sys.path.insert(0, {folder!r})
import json, keras, numpy as np
import programs
keras.utils.set_random_seed({seed})
model = getattr(programs, {model!r})()
data = getattr(programs, {dataset!r})()
validation = getattr(programs, {validation!r})() if {validation!r} else None
arguments = dict(zip("xy", data), batch_size={batch}) if isinstance(data, tuple) else dict(x=data)
history = model.fit(**arguments, epochs={epochs}, validation_data=validation, verbose=0)
assert "nbtrain" not in sys.modules
optimizers = [model.optimizer, *[o for o in [getattr(model, "own", None)] if o is not None]]
variables = [v.numpy() for v in model.variables]
for optimizer in optimizers:
    variables += [v.numpy() for v in optimizer.variables]
    rate = getattr(optimizer, "_learning_rate", None)
    if not isinstance(model, keras.Model):  # tf_keras leaves the rate out
        variables.append(rate.numpy())
np.savez({out!r}, *variables)
print(json.dumps(history.history))
"""


def plain(
    tmp_path: Path,
    *,
    model: str = "model",
    dataset: str = "dataset",
    validation: str = "validation",
    epochs: int = 3,
    batch: int = 32,
    seed: int = 7,
) -> tuple[list[np.ndarray], dict[str, list[float]]]:
    """Return the variables and the history of plain Keras in one process."""
    out = tmp_path / f"plain-{uuid.uuid4().hex}.npz"
    code = PLAIN.format(
        folder=str(TESTS), seed=seed, model=model, dataset=dataset, validation=validation,
        epochs=epochs, batch=batch, out=str(out),
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    with np.load(out) as saved:
        arrays = [saved[name] for name in saved.files]
    return arrays, json.loads(done.stdout.splitlines()[-1])


def launch(functions: dict[str, Any], *, backend: str = "local", **fields: Any) -> Run:
    """Start a run of `functions`, past all faces."""
    fields = {"workers": 2, "epochs": 3, "batch": 32, "seed": 7, "name": "t", **fields}
    fields.setdefault("created", time.time())
    request = TrainRequest(id=f"t-{uuid.uuid4().hex[:8]}", backend=backend, **fields)
    trains = get(backend)
    with _packing(trains, request) as path:
        packed = payload.pack(functions, path)
        request = dataclasses.replace(request, payload_sha256=packed.sha256)
        ref = trains.start(request, path)
    if isinstance(trains, LocalBackend):
        trains.warm_up()
    return Run(trains, ref, request)


def variables(run: Run) -> list[np.ndarray]:
    """Return the trained variables of a run, in the order of `plain`."""
    run.wait().check()
    with run._local(RunDir.WEIGHTS) as path:
        arrays, _ = tensors.load(path)
    return list(arrays.values())


def assert_equal_to_plain(
    run: Run, expected: tuple[list[np.ndarray], dict[str, list[float]]], tolerance: float = 1e-6
) -> None:
    """Assert that a run gave what one process gives: weights, optimizer state and history."""
    arrays, history = expected
    trained = variables(run)
    assert len(trained) == len(arrays)
    for ours, theirs in zip(trained, arrays, strict=True):
        np.testing.assert_allclose(
            ours.astype("float64"), theirs.astype("float64"), rtol=0, atol=tolerance
        )
    ours = run.history.history
    assert set(ours) == set(history)
    for name, values in history.items():
        np.testing.assert_allclose(ours[name], values, rtol=0, atol=tolerance, err_msg=name)


def leftovers(folder: Path) -> list[str]:
    """Return the command lines of live processes that belong to runs below `folder`.

    Heads, trainers and what they start work in the run directory; a zygote names its head.
    """
    found, heads = [], set()
    table = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    for entry in table:
        try:
            where = os.readlink(entry / "cwd")
            line = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if where.startswith(str(folder)):
            found.append(b" ".join(line).decode())
            heads.add(entry.name)
    for head in folder.glob("runs/*/head.json"):
        heads.add(str(json.loads(head.read_text())["pid"]))
    for entry in table:
        try:
            line = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"zygote" in line and line[-2].decode() in heads:
            found.append(b" ".join(line).decode())
    return found


def listening(folder: Path) -> list[str]:
    """Return the ports on which processes listen that were started for runs below `folder`.

    They work there, or have it in their environment, as what they start has, wherever it works.
    """
    sockets = {}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A":
                sockets[f"socket:[{inode}]"] = int(local.rpartition(":")[2], 16)
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or entry.name == str(os.getpid()):
            continue
        try:
            is_ours = os.readlink(entry / "cwd").startswith(str(folder))
            if is_ours or str(folder).encode() in (entry / "environ").read_bytes():
                held = {os.readlink(one) for one in (entry / "fd").iterdir()}
                found += [f"{entry.name}: {sockets[one]}" for one in held & sockets.keys()]
        except OSError:
            continue
    return found


def temporary_files(folder: Path) -> list[Path]:
    """Return what runs below `folder` have left: files below its `tmp`, and files half written.

    The folder of an agent that is killed is that of a container, and gone with it.
    """
    beside = (folder / "tmp").glob("nbtrain-*")
    made = [path for path in beside if not path.name.startswith("nbtrain-agent-")]
    return [*made, *folder.rglob("*.part"), *folder.glob(f"runs/*/{RunDir.SCRATCH}/*")]


def until(condition: Callable[[], Any], timeout: float = 30.0) -> Any:
    """Wait for a condition, and return its value."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come about"
        time.sleep(0.02)
    return value


class Apart:
    """A run whose head and agents are processes of their own, as in containers.

    Only the zip that travels is used, with no nbtrain to import, and the agents come over TCP.
    """

    def __init__(self, folder: Path, functions: dict[str, Any], **fields: Any) -> None:
        self.rundir, self.given = RunDir(folder / "apart"), folder / "given"
        self.given.mkdir()
        packed = payload.pack(functions, self.given / RunDir.PAYLOAD)
        fields = {"workers": 2, "epochs": 3, "batch": 32, "seed": 7, "name": "t", **fields}
        request = TrainRequest(id="apart", payload_sha256=packed.sha256, **fields)
        RunDir(self.given).write_json(RunDir.REQUEST, request.to_json())
        (self.given / "token").write_text("s3cret")
        self._zipped = [sys.executable, "-I", str(payload.runtime_zip())]
        self._workers = request.workers
        self.address = f"127.0.0.1:{free_port()}"
        self.agents: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Apart:
        self.start_head()
        for worker in range(self._workers):
            self.start_agent(worker)
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self.head, *self.agents.values()):
            process.kill()
            process.wait()

    def start_head(self) -> None:
        self.head = self.start("head", str(self.rundir.path), "--listen", self.address)

    def start_agent(self, worker: int) -> None:
        if worker in self.agents:
            self.agents[worker].wait(30)
        arguments = ["--head", self.address, "--worker", str(worker)]
        self.agents[worker] = self.start("agent", *arguments)

    def ended(self, timeout: float = 120) -> None:
        """Wait for all of it to end well."""
        assert self.head.wait(timeout) == 0
        assert [a.wait(30) for a in self.agents.values()] == [0] * len(self.agents)

    def events(self, kind: type[Any]) -> list[Any]:
        return [e for e in eventlog.read(self.rundir / RunDir.EVENTS) if isinstance(e, kind)]

    def assert_equal_to(
        self, expected: tuple[list[np.ndarray], dict[str, list[float]]], tolerance: float = 1e-6
    ) -> None:
        arrays, history = expected
        trained, _ = tensors.load(self.rundir / RunDir.WEIGHTS)
        for ours, theirs in zip(trained.values(), arrays, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)
        saved = json.loads((self.rundir / RunDir.HISTORY).read_text())["history"]
        assert set(saved) == set(history)
        for name, values in history.items():
            np.testing.assert_allclose(saved[name], values, rtol=0, atol=tolerance)

    def start(self, *arguments: str, given: Path | None = None) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
        command = [*self._zipped, *arguments, "--given", str(given or self.given)]
        return subprocess.Popen(command, env=environment)
