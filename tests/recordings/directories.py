"""Run directories of runs that never ran here, for what lists runs and shows them."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from nbtrain.runtime.events import EpochEnd, Event, encode
from nbtrain.runtime.reading import take_lock
from nbtrain.runtime.rundir import RunDir

from ..event_streams import T0, whole
from . import generated


def recorded(
    home: Path, run_id: str, name: str, created: float = 1.0, events: Path = generated.REAL
) -> RunDir:
    """Lay a run directory of a recorded run."""
    rundir = _laid(home, run_id, name, created)
    shutil.copy(events, rundir / RunDir.EVENTS)
    (rundir / rundir.log(1)).write_text("".join(f"line {i} ü\n" for i in range(40_000)), "utf-8")
    rundir.write_json(RunDir.CARD, {"seed": 42})
    return rundir


class GoingOn:
    """A run in its fourth epoch that gets no further until it is told to finish.

    It counts as live: this process holds the lock that its head would hold.
    """

    def __init__(self, home: Path, run_id: str, name: str, created: float) -> None:
        self._rundir = _laid(home, run_id, name, created)
        self._lock = take_lock(self._rundir)
        assert self._lock is not None
        events = [dataclasses.replace(e, time=e.time - T0 + created) for e in whole()]
        ends = [i for i, event in enumerate(events) if isinstance(event, EpochEnd)]
        self._left = events[ends[2] + 6 :]
        self._write(events[: ends[2] + 6])
        (self._rundir / self._rundir.log(0)).write_text("Epoch 1/5\n", "utf-8")

    def __enter__(self) -> GoingOn:
        return self

    def __exit__(self, *_: object) -> None:
        # Whoever deletes it waits for its head to let go.
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def finish(self) -> None:
        """Train to the end, at once."""
        self._write(self._left)
        self.__exit__()

    def _write(self, events: Iterable[Event]) -> None:
        with (self._rundir / RunDir.EVENTS).open("a", encoding="utf-8") as file:
            file.writelines(f"{encode(event)}\n" for event in events)


def _laid(home: Path, run_id: str, name: str, created: float) -> RunDir:
    rundir = RunDir(home / "runs" / run_id)
    rundir.create()
    rundir.write_json(
        RunDir.REQUEST,
        {"id": run_id, "name": name, "created": created, "backend": "local", "workers": 2}
        | {"epochs": 6, "batch": 64, "seed": 42},
    )
    return rundir
