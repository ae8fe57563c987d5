"""Run all benchmarks and write docs/benchmarks.md."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from . import script, steps
from .cell import KINDS
from .report import Measure, page, spread

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"

Samples = dict[str, list[float]]


def main() -> int:
    """Measure in rounds, print and write the table; the exit status tells whether all ran."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", type=Path, default=PAGE, help="the page to write")
    arguments = parser.parse_args()
    began = time.monotonic()
    samples: Samples = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="nbtrain-bench-") as home:
        os.environ.update(NBTRAIN_HOME=home, TF_CPP_MIN_LOG_LEVEL="3", KERAS_BACKEND="tensorflow")
        measure(samples)  # not counted: fills the disk's caches and compiles Python's files
        samples.clear()
        for number in range(arguments.rounds):
            measure(samples)
            print(f"round {number + 1} of {arguments.rounds}:", flush=True)
            for name, values in samples.items():
                print(f"  {name:16} {values[-1]:8.3f}   {spread(values)}", flush=True)
    measures = table(samples)
    arguments.write.write_text(page(measures, arguments.rounds), "utf-8")
    for one in measures:
        print(
            f"{one.name}: {spread(one.judged)}, goal {one.goal:g}: {'met' if one.met else 'MISSED'}"
        )
    print(f"written to {arguments.write.name} after {time.monotonic() - began:.0f} s")
    return 0


def measure(samples: Samples) -> None:
    """Measure everything once."""
    for name, value in script.start().items():
        samples[f"script.{name}"].append(value)
    for program in steps.PROGRAMS:
        for name, value in script.run_workers("benchmarks.steps", program).items():
            samples[f"steps.{program}.{name}"].append(value)
    for kind in KINDS:
        command = [sys.executable, "-m", "benchmarks.cell", kind]
        # TensorFlow writes to stderr whatever it is told; shown where something went wrong.
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if done.returncode != 0:
            sys.exit(f"{done.stderr}\nthe measurement {kind!r} failed")
        for name, value in json.loads(done.stdout.splitlines()[-1]).items():
            samples[f"{kind}.{name}"].append(value)


def exactness(samples: Samples) -> list[Measure]:
    """Return what the exact numbers cost, a step and an epoch."""
    programs = {
        "tiny_even": ("tiny network, even batches", 0.99),
        "tiny_uneven": ("tiny network, uneven batches", 0.9),
        "large_even": ("2 million weights, even batches", 0.99),
        "large_uneven": ("2 million weights, uneven batches", 0.9),
    }
    ratios = [
        Measure(
            f"Steps per second, {name}",
            "/s",
            goal,
            samples[f"steps.{key}.rate"],
            samples[f"steps.{key}.hand"],
            at_least=True,
        )
        for key, (name, goal) in programs.items()
    ]
    large = "steps.large_even"
    return [
        *ratios,
        Measure("Digest of 2 million weights, an epoch", "ms", 50, samples[f"{large}.digest"]),
        Measure("Copy for a checkpoint of these, an epoch", "ms", 50, samples[f"{large}.copy"]),
    ]


def table(samples: Samples) -> list[Measure]:
    """Return the lines of the table with the goals of the project."""
    first = samples["script.first"]
    return [
        Measure("Warm cell to the end of the first step", "s", 0.5, samples["warm.first"], first),
        Measure("Cold cell to the end of the first step", "s", 1.05, samples["cold.first"], first),
        Measure(
            "Steps per second",
            "/s",
            0.99,
            samples["warm.rate"],
            samples["script.rate"],
            at_least=True,
        ),
        *exactness(samples),
        Measure(
            "200 MB captured (beside: one write and one SHA-256)",
            "s",
            1.5,
            samples["large.returned"],
            samples["large.once"],
        ),
        Measure("The cell returns", "s", 0.1, samples["warm.returned"]),
        Measure("Killed trainer to training again", "s", 5.0, samples["killed.again"]),
        Measure("`import nbtrain`", "s", 0.3, samples["imports.import"]),
        Measure("`%load_ext nbtrain`", "s", 0.3, samples["imports.load_ext"]),
    ]


if __name__ == "__main__":
    sys.exit(main())
