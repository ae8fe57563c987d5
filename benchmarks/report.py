"""What was measured, as a page of the docs."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import statistics
from dataclasses import dataclass, field

import nbtrain


@dataclass(frozen=True)
class Measure:
    """One line of the table.

    With `reference` the goal is a bound on the ratio of the two, or with `difference` on ours less
    theirs; else on `ours` itself. `at_least` says that more is better.
    """

    name: str
    unit: str
    goal: float
    ours: list[float]
    reference: list[float] = field(default_factory=list)
    at_least: bool = False
    difference: bool = False

    @property
    def judged(self) -> list[float]:
        """What the goal speaks of: a ratio, or a difference, of each round, or the values."""
        if not self.reference:
            return self.ours
        pairs = zip(self.ours, self.reference, strict=True)
        if self.difference:
            return [ours - theirs for ours, theirs in pairs]
        return [ours / theirs for ours, theirs in pairs]

    @property
    def met(self) -> bool:
        """Whether the median meets the goal."""
        median = statistics.median(self.judged)
        return median >= self.goal if self.at_least else median <= self.goal

    @property
    def judged_in_words(self) -> str:
        """What the goal speaks of, with its unit: a ratio has none."""
        return spread(self.judged, "" if self._is_ratio else self.unit)

    @property
    def bound(self) -> str:
        """The goal in words."""
        number = f"+ {self.goal:g}" if self.difference else f"{self.goal:g}"
        unit = "" if self._is_ratio else f" {self.unit}"
        return f"{'≥' if self.at_least else '≤'} {number}{unit}"

    @property
    def _is_ratio(self) -> bool:
        return bool(self.reference) and not self.difference


HEAD = """# Benchmarks

`make bench` measures nbtrain against what one would write by hand, in rounds in which the two take
turns; `python -m benchmarks --only docker` measures one part alone. Every number is a median, with
the least and the greatest value in brackets. Ratios and differences are formed within a round, so
that what slows a round slows both.
"""

TABLE = """
| | nbtrain | by hand | compared | goal | |
| --- | --- | --- | --- | --- | --- |"""


def section(title: str, about: str, notes: str, measures: list[Measure], rounds: int) -> str:
    """Return a part of the page, from its heading on."""
    rows = "\n".join([TABLE, *map(_row, measures)])
    return f"## {title}\n\n{about}\n\n{_machine(rounds)}{rows}\n\n{notes}\n"


def page(before: str, sections: dict[str, str], order: list[str]) -> str:
    """Return the page with new sections, by title; those that were not measured stay."""
    found = {
        part.partition("\n")[0]: f"## {part}" for part in re.split(r"^## ", before, flags=re.M)
    }
    known = {title: text for title, text in (found | sections).items() if title in order}
    parts = [known[title].rstrip() + "\n" for title in order if title in known]
    return "\n".join([HEAD, *parts])


def _machine(rounds: int) -> str:
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("tensorflow", "keras")
    )
    return (
        f"{datetime.date.today()}, {rounds} rounds; {os.cpu_count()} cores ({platform.machine()}),"
        f" {platform.system()}, Python {platform.python_version()}, {versions},"
        f" nbtrain {nbtrain.__version__}.\n"
    )


def _row(measure: Measure) -> str:
    cells = [
        measure.name,
        spread(measure.ours, measure.unit),
        spread(measure.reference, measure.unit),
        measure.judged_in_words if measure.reference else "",
        measure.bound,
        "met" if measure.met else "**missed**",
    ]
    return f"| {' | '.join(cells)} |"


def spread(values: list[float], unit: str = "") -> str:
    """Return median, least and greatest value in words."""
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.3g} [{low:.3g}, {high:.3g}] {unit}".rstrip()
