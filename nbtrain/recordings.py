"""Showing a recorded run again: what its `events.jsonl` tells, in the time it took or faster."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import backends
from .display import LiveDisplay, waiting
from .errors import OptionError
from .run import find
from .runtime import events
from .runtime.events import Event, Started
from .runtime.rundir import RunDir
from .state import RunState, fold_all, initial, mark_lost

#: How far a replay may go between two looks at the clock, in seconds of this world.
_STEP_S = 0.02


@dataclass(frozen=True)
class Recording:
    """The events of a run, and the state before the first of them."""

    before: RunState
    events: tuple[Event, ...]

    @property
    def seconds(self) -> float:
        """How long the run took."""
        return self.events[-1].time - self.before.created if self.events else 0.0


def recording(of: str | Path) -> Recording:
    """Return the recording in a file or run directory, or of a run by its name or id.

    Raises
    ------
    OptionError
        If there is none, or the file holds no event.
    """
    path = Path(of)
    file = path / RunDir.EVENTS if path.is_dir() else path
    if file.is_file():
        lines, about = file.read_bytes().splitlines(), _about(file)
    else:
        lines, about = _of_run(str(of))
    found = tuple(_decoded(lines))
    if not found:
        raise OptionError(f"{of}: it holds no events of a run")
    return Recording(_before(about, found), found)


def replay(of: str | Path, speed: float = 1.0) -> Replay:
    """Show a recorded run again, in a notebook as live as it was.

    Parameters
    ----------
    of
        An `events.jsonl`, a run directory, or a run's name or id.
    speed
        How many times as fast as it happened.

    Examples
    --------
    >>> nbtrain.replay("events.jsonl", speed=20)  # doctest: +SKIP
    """
    return Replay(recording(of), speed)


class Replay:
    """A recorded run that happens again; it begins when it is first shown or waited for."""

    def __init__(
        self,
        of: Recording,
        speed: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not speed > 0:
            raise OptionError(f"speed: must be over 0, not {speed:g}")
        self._recording, self._speed, self._clock = of, speed, clock
        self._state = of.before
        self._began: float | None = None
        self._over = threading.Event()
        self._starting = threading.Lock()
        self._display = LiveDisplay(lambda: self._state, self.now)

    @property
    def state(self) -> RunState:
        """The run as it was at the time that the replay has come to."""
        return self._state

    def now(self) -> float:
        """Return the time of the recording that the replay has come to, in Unix seconds."""
        passed = 0.0 if self._began is None else (self._clock() - self._began) * self._speed
        return self._recording.before.created + passed

    def wait(self) -> Replay:
        """Show how it gets on until it is over."""
        with waiting(self, shown=False, clock=self.now):
            self._start()
            self._over.wait()
        return self

    def _ipython_display_(self) -> None:
        self._display.show()
        self._start()

    def __repr__(self) -> str:
        from .report import text

        return text(self._state, self.now())

    def _start(self) -> None:
        with self._starting:
            if self._began is None:
                self._began = self._clock()
                threading.Thread(target=self._play, name="nbtrain-replay", daemon=True).start()

    def _play(self) -> None:
        left = list(self._recording.events)
        while left:
            now = self.now()
            due = next((i for i, e in enumerate(left) if e.time > now), len(left))
            if due:
                self._state = fold_all(self._state, left[:due])
                del left[:due]
                self._display.update()
            else:
                self._over.wait(min(max((left[0].time - now) / self._speed, 0.0), _STEP_S))
        if self._state.live:
            self._state = mark_lost(self._state, "the recording ends here")
        self._over.set()
        self._display.close()


def _about(file: Path) -> dict[str, Any]:
    """Return the request beside the file; without one the file's or folder's name."""
    with contextlib.suppress(OSError, ValueError):
        about = json.loads(file.with_name(RunDir.REQUEST).read_bytes())
        if isinstance(about, dict):
            return about
    known = file.name != RunDir.EVENTS
    return {"name": file.stem if known else file.resolve().parent.name}


def _of_run(name: str) -> tuple[list[bytes], dict[str, Any]]:
    ref = find(name)
    if ref is None:
        raise OptionError(f"{name}: there is no such file, nor a run of this name")
    backend = backends.get(ref.backend)
    read = [b"".join(backend.read(ref, file)) for file in (RunDir.EVENTS, RunDir.REQUEST)]
    return read[0].splitlines(), json.loads(read[1])


def _decoded(lines: Iterable[bytes]) -> Iterable[Event]:
    for line in lines:
        with contextlib.suppress(ValueError):  # a head that died may have left half a line
            event = events.decode(line)
            if event is not None:
                yield event


def _before(about: dict[str, Any], found: tuple[Event, ...]) -> RunState:
    started = next((e for e in found if isinstance(e, Started)), None)
    workers = {getattr(e, "worker", None) for e in found} - {None}
    return initial(
        str(about.get("name", "run")),
        str(about.get("id", "")),
        str(about.get("backend", "replay")),
        workers=started.workers if started else int(about.get("workers", len(workers))),
        created=min(float(about.get("created", found[0].time)), found[0].time),
        epochs=started.epochs if started else about.get("epochs"),
    )
