"""Heads and workers whose pods fail one after the other before they ever do their work.

Workers would do so for ever, and a head for ten minutes (a Job waits longer after each failure). Of
a worker that has trained the head decides how often it is tried again. Of one that never did the
head knows nothing where its agent had no time to speak, and the cluster does not know what training
is: so what both say is put together here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from ...backend import Placement
from ...errors import BackendError
from ...runtime.events import Event, Started, decode
from ...runtime.rundir import RunDir
from .explain import Object, failures, given_up, lasted
from .files import PodFiles

#: So many pods of a head or a worker may fail: one may have had a bad node.
TRIES = 3
#: A head that has served a run was there for longer, in seconds.
BRIEF_S = 30.0


class Failing:
    """Tells which workers of one run are hopeless.

    Parameters
    ----------
    files
        Returns the run directory in the head's pod; None while there is none that runs.
    """

    def __init__(self, files: Callable[[], PodFiles | None]) -> None:
        self._files = files
        self._trained = False

    def shown(self, placement: Placement, pods: Sequence[Object]) -> Placement:
        """Return the placement of a worker with these pods, stuck if it is hopeless."""
        if self._trained or failures(pods) < TRIES:
            return placement
        since = self._waits_since()
        if since is None or (count := failures(pods, since)) < TRIES:
            return placement
        return given_up(placement, count, "it has never trained")

    def _waits_since(self) -> float | None:
        """Return since when the head has waited for workers that never trained, in Unix time.

        None if it does not, or can't be asked.
        """
        try:
            files = self._files()
            lines = b"".join(files.read(RunDir.EVENTS)).splitlines() if files else []
        except (BackendError, FileNotFoundError):
            return None
        events = [event for line in lines if (event := _event(line)) is not None]
        self._trained = any(isinstance(event, Started) for event in events)
        return events[0].time if events and not self._trained else None


def head_shown(placement: Placement, pods: Sequence[Object]) -> Placement:
    """Return the placement of a head with these pods, stuck if it is hopeless."""
    count = failures(pods)
    if count < TRIES or any(lasted(pod) > BRIEF_S for pod in pods):
        return placement
    return given_up(placement, count, f"none was at work for {BRIEF_S:g} s")


def _event(line: bytes) -> Event | None:
    with contextlib.suppress(ValueError):  # the last line may be half written
        return decode(line)
    return None
