"""Run the benchmarks, or some of them, and write docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from . import SMALL
from .docker import Docker
from .front_end import FrontEnd
from .kubernetes import Kubernetes
from .local import Local
from .report import Measure, page, section, spread
from .section import ROOT, Samples, Section

PAGE = ROOT / "docs" / "benchmarks.md"
SECTIONS: tuple[Section, ...] = (Local(), Docker(), Kubernetes(), FrontEnd())


def main() -> int:
    """Measure in rounds, print and write the tables."""
    options = _options()
    if options.small:
        os.environ[SMALL] = "1"
    began = time.monotonic()
    written = {}
    for part in SECTIONS:
        if part.name not in options.only:
            continue
        if why := part.lacking():
            print(f"{part.title}: left out, {why}", flush=True)
            continue
        measures = measured(part, options.rounds)
        written[part.title] = section(part.title, part.about, part.notes, measures, options.rounds)
        for one in measures:
            verdict = "met" if one.met else "MISSED"
            print(f"{one.name}: {one.judged_in_words}, goal {one.bound}: {verdict}", flush=True)
    print(f"measured in {time.monotonic() - began:.0f} s")
    if options.small:
        print("nothing is written: these sizes only show that the benchmarks run")
    elif written:
        before = options.write.read_text("utf-8") if options.write.exists() else ""
        options.write.write_text(page(before, written, [p.title for p in SECTIONS]), "utf-8")
        print(f"written to {options.write.name}")
    return 0


def _options() -> argparse.Namespace:
    names = [part.name for part in SECTIONS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="what to measure")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", type=Path, default=PAGE, help="the page to write")
    parser.add_argument(
        "--small", action="store_true", help="few steps and bytes, to try the benchmarks themselves"
    )
    return parser.parse_args()


def measured(part: Section, rounds: int) -> list[Measure]:
    """Measure a section in rounds, and return its table."""
    samples: Samples = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="nbtrain-bench-") as home:
        os.environ.update(NBTRAIN_HOME=home, TF_CPP_MIN_LOG_LEVEL="3", KERAS_BACKEND="tensorflow")
        with part.ready():
            part.measure()  # not counted: fills caches, pulls images, compiles Python's files
            for number in range(rounds):
                for name, value in part.measure().items():
                    samples[name].append(value)
                print(f"{part.title}, round {number + 1} of {rounds}:", flush=True)
                for name, values in samples.items():
                    print(f"  {name:20} {values[-1]:8.3f}   {spread(values)}", flush=True)
    return part.table(samples)


if __name__ == "__main__":
    sys.exit(main())
