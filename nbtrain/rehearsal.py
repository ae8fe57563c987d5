"""A rehearsal of a run on the notebook's machine: a typo should cost seconds, not a scale-up.

The packed payload is trained for one step by one worker of the local backend, in a directory that
is gone afterwards. What only the place has where the run will train is no reason not to start.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from . import backends
from .backends.local import LocalBackend, available_memory
from .errors import BackendError, RehearsalFailed
from .formats import one_line
from .runtime import events, reading
from .runtime.events import COUPLED, Ended, Failed, Warned
from .runtime.request import TrainRequest
from .runtime.rundir import RunDir

#: After so long a rehearsal is given up, and the run starts without: in seconds.
LIMIT_S = 20.0
#: How long it may take to end in good order when it is given up, in seconds.
_GRACE_S = 2.0
#: What went wrong, by `Failed.cause`, that is the user's to mend.
_MISTAKES = ("user", "refused")


def rehearse(request: TrainRequest, payload: Path, say: Callable[[str], None]) -> str:
    """Train one step of a run here, on a few examples.

    Returns what the user should know: what was in the way, or a loss that several workers can't
    compute; "" if there is nothing.

    Parameters
    ----------
    payload
        The packed file; it stays as it is.
    say
        Is told what goes on, again and again; what it raises ends the rehearsal.

    Raises
    ------
    RehearsalFailed
        If the user's functions raise, or give what would be refused.
    """
    began, found = time.monotonic(), ""
    with _started(request, payload) as rundir:
        if rundir is None:
            return _unrehearsed("no local process could be started")
        for event in _events(rundir):
            say("rehearsing one step on this machine")
            if time.monotonic() - began > LIMIT_S:
                return _unrehearsed(f"it took longer than {LIMIT_S:g} s")
            if isinstance(event, Warned) and event.code == COUPLED:
                found = event.message
            if isinstance(event, Failed):
                return _judged(event)
            if isinstance(event, Ended):
                return found
    return _unrehearsed("the local process is gone")


def _unrehearsed(why: str) -> str:
    return f"The rehearsal was given up ({why}); the run starts without."


def _judged(failed: Failed) -> str:
    if failed.cause in _MISTAKES:
        raise RehearsalFailed(
            failed.message,
            "--no-rehearse (rehearse=False) starts without a rehearsal.",
            worker=failed.worker,
            cause=failed.cause,
            traceback=failed.traceback,
        )
    why = one_line(failed.message)
    if failed.cause == "elsewhere":
        return f"Not rehearsed to its end, since this machine may lack what the workers have: {why}"
    return _unrehearsed(why)


@contextlib.contextmanager
def _started(request: TrainRequest, payload: Path) -> Iterator[RunDir | None]:
    """Give the directory of a rehearsal that has begun, and leave nothing of it."""
    local = backends.get("local")
    assert isinstance(local, LocalBackend)
    with tempfile.TemporaryDirectory(prefix="nbtrain-rehearsal-") as folder:
        rundir = RunDir(folder)
        rundir.create()
        (rundir / RunDir.PAYLOAD).symlink_to(payload.absolute())
        environment = request.container.get("env", {})
        try:
            local.begin(rundir, small(request), rundir / RunDir.PAYLOAD, environment)
        except BackendError:
            yield None
            return
        try:
            yield rundir
        finally:
            local.end(rundir, _GRACE_S)


def small(request: TrainRequest) -> TrainRequest:
    """Return the request of a run's rehearsal."""
    memory = available_memory()
    return dataclasses.replace(
        request,
        workers=1,
        min_workers=0,
        rehearses=request.workers,
        backend="local",
        results="",
        max_restarts=0,
        # The notebook must not be what runs out of it.
        memory=0 if math.isinf(memory) else int(memory),
    )


def _events(rundir: RunDir) -> Iterator[events.Event | None]:
    """Yield the events, and None now and then."""
    rest = b""
    for piece in reading.read(rundir, RunDir.EVENTS, follow=True):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield events.decode(line)
        yield None
