"""The versions of Python and of the packages that matter, and which of them fit each other.

None of the packages is imported.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass

#: Each package, and the distributions that may bring it: the first that is installed counts.
DISTRIBUTIONS = {
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
    "keras": ("keras",),
    "tf_keras": ("tf_keras",),
    "numpy": ("numpy",),
    "cloudpickle": ("cloudpickle",),
}


def versions() -> dict[str, str]:
    """Return the versions that are installed here; a package that is not is left out."""
    found = {"python": platform.python_version()}
    for package, distributions in DISTRIBUTIONS.items():
        for distribution in distributions:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found.setdefault(package, importlib.metadata.version(distribution))
    return found


@dataclass(frozen=True)
class Rule:
    """How many parts of a package's version have to be the notebook's, and why."""

    package: str
    title: str
    parts: int
    why: str


#: A package that one of the two does not have is passed over: what a run lacks, it says itself.
RULES = (
    Rule("python", "Python", 2, "functions travel as bytecode, which only the same minor reads"),
    Rule("tensorflow", "TensorFlow", 2, "another minor computes and saves in another way"),
    Rule("keras", "Keras", 2, "nbtrain changes the inside of just this minor"),
    Rule("tf_keras", "tf_keras", 2, "nbtrain changes the inside of just this minor"),
    Rule("cloudpickle", "cloudpickle", 1, "what one major has written another may not read"),
)


def misfits(notebook: Mapping[str, str], worker: Mapping[str, str]) -> list[str]:
    """Return why workers of these versions can't train for a notebook of those; empty if they can.

    >>> misfits({"python": "3.11.7"}, {"python": "3.12"})
    ['Python 3.12, not 3.11 (functions travel as bytecode, which only the same minor reads)']
    """
    return [
        f"{rule.title} {worker[rule.package]}, not {wanted} ({rule.why})"
        for rule in RULES
        if rule.package in worker
        and rule.package in notebook
        and _cut(worker[rule.package], rule) != (wanted := _cut(notebook[rule.package], rule))
    ]


def _cut(version: str, rule: Rule) -> str:
    return parts(version, rule.parts)


def parts(version: str, count: int) -> str:
    """Return the first parts of a version.

    >>> parts("3.11.7", 2)
    '3.11'
    """
    return ".".join(version.split(".")[:count])
