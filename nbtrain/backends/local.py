"""Runs as processes on this machine: one head with its trainers, reading files directly."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ..backend import Placement, RunRef, Sent, untold
from ..errors import BackendError, NameInUse, NoSuchRun
from ..runtime import reading
from ..runtime.errors import Corrupt
from ..runtime.reading import POLL_S, is_live, take_lock
from ..runtime.request import TrainRequest
from ..runtime.rundir import RunDir

#: A spare process with TensorFlow takes some 450 MB; it is started if there is this much, in bytes.
MEMORY_TO_SPARE = 2 << 30
#: Environment that TensorFlow or Keras reads when imported: a spare process with another one
#: would train differently.
_AT_IMPORT = (
    *("TF_", "KERAS_", "CUDA_", "XLA_", "OMP_", "MKL_", "OPENBLAS_"),
    *("PYTHON", "LD_", "NBTRAIN_START"),
)


def home() -> Path:
    """Return the folder of all local runs; NBTRAIN_HOME overrides where nbtrain keeps its data."""
    import platformdirs

    base = os.environ.get("NBTRAIN_HOME") or platformdirs.user_data_dir("nbtrain")
    return Path(base) / "runs"


class LocalBackend:
    """Trains on this machine; a run goes on when the kernel that started it is gone."""

    name = "local"

    def __init__(self) -> None:
        self._spare: _Host | None = None
        self._lock = threading.Lock()

    def warm_up(self) -> None:
        """Start a spare process that imports TensorFlow, for the next run to claim.

        Nothing is started where memory is short.
        """
        if available_memory() < MEMORY_TO_SPARE:
            return
        with self._lock:
            if self._spare is None or not self._spare.fits():
                if self._spare is not None:
                    self._spare.close()
                self._spare = _Host()

    def close(self) -> None:
        """End the spare process, if there is one."""
        with self._lock:
            if self._spare is not None:
                self._spare.close()
                self._spare = None

    def check(self, request: TrainRequest) -> None:
        """Nothing of this machine is known beforehand to be missing."""

    def start(self, request: TrainRequest, payload: Path, sent: Sent = untold) -> RunRef:
        """Start a head; see `Backend.start`.

        Raises
        ------
        NameInUse
            If a head is at work on this run already.
        """
        self.begin(RunDir(home() / request.id), request, payload)
        return RunRef(self.name, request.name, request.id, request.created, live=True)

    def begin(
        self,
        rundir: RunDir,
        request: TrainRequest,
        payload: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start a head on a directory, which need not be one of `home()`.

        `environment` is added to the notebook's for the trainers.
        """
        rundir.create()
        (rundir / RunDir.HEAD).unlink(missing_ok=True)  # of a head that died
        target = rundir / RunDir.PAYLOAD
        if payload != target:
            shutil.move(payload, target)
        if not (rundir / RunDir.REQUEST).exists():
            rundir.write_json(RunDir.REQUEST, request.to_json())
        lock = take_lock(rundir)
        if lock is None:
            raise NameInUse(f"the run {request.id} is at work already")
        try:
            self._claim().give(rundir, lock, {**os.environ, **(environment or {})})
        finally:
            os.close(lock)

    def _claim(self) -> _Host:
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None:
            if spare.fits():
                return spare
            spare.close()
        return _Host()

    def runs(self) -> Iterable[RunRef]:
        """Return the runs below `home()`, newest first."""
        found = []
        for request in home().glob("*/" + RunDir.REQUEST):
            with contextlib.suppress(Corrupt, OSError, KeyError):
                raw = RunDir(request.parent).read_json(RunDir.REQUEST)
                live = is_live(RunDir(request.parent))
                found.append(RunRef(self.name, raw["name"], raw["id"], raw["created"], live))
        return sorted(found, key=lambda ref: ref.created, reverse=True)

    def placements(self, run: RunRef) -> Iterator[Placement]:
        """Yield where the head is: the workers are its children and speak for themselves."""
        rundir = self._rundir(run)
        while is_live(rundir):
            yield Placement(None, "running", host=socket.gethostname())
            time.sleep(POLL_S[1] * 5)
        yield Placement(None, "gone")

    def read(
        self, run: RunRef, path: str, offset: int = 0, follow: bool = False
    ) -> Iterator[bytes]:
        """Return a file of the run directory in pieces; see `Backend.read`."""
        return reading.read(self._rundir(run), path, offset, follow)

    def stop(self, run: RunRef, grace_s: float) -> None:
        """Ask the head to stop; kill it, and with it the trainers, after `grace_s`."""
        self.end(self._rundir(run), grace_s)

    @staticmethod
    def end(rundir: RunDir, grace_s: float) -> None:
        """Do what `stop` does for the head of a directory."""
        deadline = time.monotonic() + grace_s
        asked = grace_s <= 0
        while is_live(rundir):
            if not asked:
                asked = _signal_head(rundir, signal.SIGTERM)
            elif time.monotonic() >= deadline:
                _signal_head(rundir, signal.SIGKILL)
            time.sleep(POLL_S[0])

    def delete(self, run: RunRef) -> None:
        """Kill the run if it is live and remove its directory."""
        rundir = self._rundir(run)
        self.stop(run, 0)
        shutil.rmtree(rundir.path, ignore_errors=True)

    def path(self, run: RunRef) -> Path:
        """Return the run directory (this machine has it)."""
        return self._rundir(run).path

    def _rundir(self, run: RunRef) -> RunDir:
        rundir = RunDir(home() / run.id)
        if not (rundir / RunDir.REQUEST).exists():
            raise NoSuchRun(f"the run {run.id} is gone from this machine (deleted?)")
        return rundir


class _Host:
    """A head process that waits for its run; it ends with the kernel unless it was given one."""

    def __init__(self) -> None:
        from ..payload import runtime_zip

        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket = ours
        self._key = _environment_key()
        environment = os.environ | {
            "KERAS_BACKEND": "tensorflow",
            "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
        }
        with theirs, tempfile.TemporaryFile() as output:
            self._process = subprocess.Popen(
                [sys.executable, str(runtime_zip()), "host", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,  # not to be interrupted or restarted with the kernel
            )
        _reap_in_background(self._process)

    def fits(self) -> bool:
        """Tell whether it is alive and was started in an environment like the present one."""
        return self._process.poll() is None and self._key == _environment_key()

    def give(self, rundir: RunDir, lock: int, environment: Mapping[str, str]) -> None:
        """Hand over a run directory, the lock on it, and the trainers' environment."""
        try:
            socket.send_fds(self._socket, [b"."], [lock])
            given = {"rundir": str(rundir.path), "environment": dict(environment)}
            self._socket.sendall(json.dumps(given).encode())
        except OSError as error:
            raise BackendError(
                f"the head process could not be started: {error}",
                f"Its log: {rundir / RunDir.HEAD_LOG}",
            ) from None
        finally:
            self._socket.close()

    def close(self) -> None:
        """End it; it was given nothing."""
        self._socket.close()


def available_memory() -> float:
    """Return the memory that can be had without swapping, in bytes; infinite if not known."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    return float("inf")


def _reap_in_background(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process, so that it does not stay behind as a zombie of the kernel."""
    threading.Thread(target=process.wait, name="nbtrain-reaper", daemon=True).start()


def _environment_key() -> tuple[tuple[str, str], ...]:
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith(_AT_IMPORT)))


def _signal_head(rundir: RunDir, number: int) -> bool:
    """Signal the head, whose pid can't be another process' while the lock is held.

    Returns False while the head has not written its pid yet.
    """
    try:
        pid = rundir.read_json(RunDir.HEAD)["pid"]
        if is_live(rundir):
            os.kill(pid, number)
    except (Corrupt, FileNotFoundError, KeyError):
        return False
    except ProcessLookupError:
        pass
    return True
