"""What the parts of the benchmarks have in common: each is measured, and shown, by itself."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from . import SMALL
from .report import Measure

ROOT = Path(__file__).parent.parent

#: What was measured, a value a round, by name.
Samples = dict[str, list[float]]


class Section(ABC):
    """A part of the page.

    Attributes
    ----------
    name
        For `--only`.
    title, about, notes
        Its heading, and what stands above and below its table.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    about: ClassVar[str]
    notes: ClassVar[str]

    def lacking(self) -> str:
        """Return why this can't be measured here; empty if it can."""
        return ""

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Have at hand what the measurements need and don't measure."""
        yield

    @abstractmethod
    def measure(self) -> dict[str, float]:
        """Measure everything once: nbtrain, and what it is compared with, one after the other."""

    @abstractmethod
    def table(self, samples: Samples) -> list[Measure]:
        """Return the lines of the table with the goals of the project."""


#: The modules that are measured, beside which a notebook would lie.
MEASURED = ("__init__.py", "cell.py", "placed.py", "programs.py")


def in_fresh_process(module: str, *arguments: str) -> dict[str, float]:
    """Run a module of the benchmarks and return the numbers that it prints last.

    It runs in a folder of its own: the modules that lie beside a notebook, and those that they
    import, travel with its functions, and that would be all of the benchmarks and tests.
    """
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder, "benchmarks")
        package.mkdir()
        for name in MEASURED:
            shutil.copy(Path(__file__).with_name(name), package)
        # TensorFlow writes to stderr whatever it is told; shown where something went wrong.
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode != 0:
        sys.exit(f"{done.stderr}\nthe measurement {' '.join([module, *arguments])} failed")
    return last_line(done.stdout)


def last_line(printed: str) -> Any:
    """Return the JSON that a program printed last."""
    return json.loads(printed.splitlines()[-1])


def command(*words: str | Path, given: str = "") -> str:
    """Run a command and return what it printed; `given` is its standard input."""
    done = subprocess.run([str(w) for w in words], input=given, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{done.stdout}{done.stderr}\n`{' '.join(map(str, words))}` failed")
    return done.stdout


def small_environment() -> dict[str, str]:
    """Return what makes programs small elsewhere too, where they are here."""
    return {SMALL: os.environ[SMALL]} if SMALL in os.environ else {}
