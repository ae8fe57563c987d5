"""What was measured, as a page of the docs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from dataclasses import dataclass, field

import nbtrain


@dataclass(frozen=True)
class Measure:
    """One line of the table.

    With `reference` the goal is a bound on the ratio of the two, else on `ours` itself;
    `at_least` says that more is better.
    """

    name: str
    unit: str
    goal: float
    ours: list[float]
    reference: list[float] = field(default_factory=list)
    at_least: bool = False

    @property
    def judged(self) -> list[float]:
        """What the goal speaks of: a ratio per round, or the values."""
        if not self.reference:
            return self.ours
        return [ours / theirs for ours, theirs in zip(self.ours, self.reference, strict=True)]

    @property
    def met(self) -> bool:
        """Whether the median meets the goal."""
        median = statistics.median(self.judged)
        return median >= self.goal if self.at_least else median <= self.goal


HEAD = """# Benchmarks

`make bench` measures nbtrain against a script that one would write by hand
([benchmarks/script.py](../benchmarks/script.py)): two processes,
`MultiWorkerMirroredStrategy`, the same model and data, its own training loop (Keras 3's `fit`
does not run under that strategy). nbtrain and the script take turns in one run; every number is a
median, with the least and the greatest value in brackets. A ratio is formed within a round, so
that what slows a round slows both.
"""

TABLE = """
| | nbtrain | by hand | ratio | goal | |
| --- | --- | --- | --- | --- | --- |"""

FOOT = """
- *Warm*: with the process that nbtrain starts in the background once the extension is loaded.
  *Cold*: without it. The notebook's own imports, in a cell before, are not counted; the script's
  are, since both of its processes need them.
- *Steps per second* are those from the end of the first epoch to the end of the last, with all
  that nbtrain does at the end of an epoch (comparing the workers' weights, a checkpoint).
- *200 MB captured* is the time until `train` returns, against writing and hashing 200 MB once.
- *Training again* is counted from the `kill -9` to the end of the next generation's first step.
"""


def page(measures: list[Measure], rounds: int) -> str:
    """Return the page."""
    return "\n".join([HEAD + _machine(rounds) + TABLE, *map(_row, measures)]) + "\n" + FOOT


def _machine(rounds: int) -> str:
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("tensorflow", "keras")
    )
    return (
        f"\n{rounds} rounds; {os.cpu_count()} cores ({platform.machine()}), {platform.system()},"
        f" Python {platform.python_version()}, {versions}, nbtrain {nbtrain.__version__}.\n"
    )


def _row(measure: Measure) -> str:
    bound = f"{'≥' if measure.at_least else '≤'} {measure.goal:g}"
    cells = [
        measure.name,
        spread(measure.ours, measure.unit),
        spread(measure.reference, measure.unit),
        spread(measure.judged) if measure.reference else "",
        bound if measure.reference else f"{bound} {measure.unit}",
        "met" if measure.met else "**missed**",
    ]
    return f"| {' | '.join(cells)} |"


def spread(values: list[float], unit: str = "") -> str:
    """Return median, least and greatest value in words."""
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.3g} [{low:.3g}, {high:.3g}] {unit}".rstrip()
