"""How fast each worker trains and what memory it has: one event for all of them, now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from .events import Usage

#: Told at most this often, in seconds; a long run tells more seldom, so that an hour of it has
#: some 1000 of these events and a day some 3000.
LEAST_S, MOST_S, PART = 2.0, 60.0, 500
#: What has changed by less than this part of it is not told again.
NOTABLE = 0.05


@dataclass
class _Worker:
    """What a trainer said last, and at which of its examples and times the last rate ended."""

    at: float
    examples: float
    memory: int
    from_at: float
    from_examples: float

    def measured(self) -> float | None:
        """Return the examples/s since the last time, and begin anew; None before it trains."""
        passed, trained = self.at - self.from_at, self.examples - self.from_examples
        self.from_at, self.from_examples = self.at, self.examples
        return _short(trained / passed) if self.examples and passed > 0 else None


class Meter:
    """Takes what the trainers of a generation say of themselves.

    Parameters
    ----------
    clock
        Gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = self._told = clock()
        self._workers: dict[int, _Worker] = {}
        self._last: Usage | None = None

    def clear(self) -> None:
        """Begin a generation: its trainers count from 0."""
        self._workers.clear()

    def heard(self, worker: int, examples: float, memory: int) -> None:
        """Take that a trainer has trained on so many examples, and how many bytes it has."""
        now = self._clock()
        known = self._workers.setdefault(worker, _Worker(now, examples, memory, now, examples))
        known.at, known.examples, known.memory = now, examples, memory

    def told(self) -> Usage | None:
        """Return the event that is due, if one is and there is news."""
        now = self._clock()
        every = min(max((now - self._began) / PART, LEAST_S), MOST_S)
        if now - self._told < every or not self._workers:
            return None
        self._told = now
        numbers = sorted(self._workers)
        usage = Usage(
            workers=numbers,
            examples_per_s=[self._workers[w].measured() for w in numbers],
            memory=[self._workers[w].memory for w in numbers],
        )
        if self._last is not None and not _differs(usage, self._last):
            return None
        self._last = usage
        return usage


def _differs(new: Usage, old: Usage) -> bool:
    values = [*new.examples_per_s, *new.memory], [*old.examples_per_s, *old.memory]
    if new.workers != old.workers:
        return True
    for now, before in zip(*values, strict=True):
        if (now is None) != (before is None):
            return True
        if abs((now or 0) - (before or 0)) > NOTABLE * (before or 0):
            return True
    return False


def _short(rate: float) -> float:
    return float(f"{rate:.3g}")
