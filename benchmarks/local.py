"""Local processes: nbtrain beside a script of two processes."""

from __future__ import annotations

from . import script, steps
from .cell import KINDS
from .report import Measure
from .section import Samples, Section, in_fresh_process


class Local(Section):
    """nbtrain's processes on this machine, and those of a script."""

    name = "local"
    title = "Local processes"
    about = """Against a script that one would write by hand
([benchmarks/script.py](../benchmarks/script.py)): two processes, `MultiWorkerMirroredStrategy`, the
same model and data, its own training loop (Keras 3's `fit` does not run under that strategy)."""
    notes = """\
- *Warm*: with the process that nbtrain starts in the background once the extension is loaded.
  *Cold*: without it. The notebook's own imports, in a cell before, are not counted; the script's
  are, since both of its processes need them.
- *Steps per second* are those from the end of the first epoch to the end of the last, with all
  that nbtrain does at the end of an epoch (comparing the workers' weights, a checkpoint).
- *200 MB captured* is the time until `train` returns, against writing and hashing 200 MB once.
- *Training again* is counted from the `kill -9` to the end of the next generation's first step."""

    def measure(self) -> dict[str, float]:
        """Measure everything once."""
        found = {f"script.{name}": value for name, value in script.start().items()}
        for program in steps.PROGRAMS:
            rates = script.run_workers("benchmarks.steps", program)
            found |= {f"steps.{program}.{name}": value for name, value in rates.items()}
        for kind in KINDS:
            measured = in_fresh_process("cell", kind)
            found |= {f"{kind}.{name}": value for name, value in measured.items()}
        return found

    def table(self, samples: Samples) -> list[Measure]:
        """Return the lines of the table with the goals of the project."""
        first, rate = samples["script.first"], samples["script.rate"]
        warm, cold = samples["warm.first"], samples["cold.first"]
        return [
            Measure("Warm cell to the end of the first step", "s", 0.5, warm, first),
            Measure("Cold cell to the end of the first step", "s", 1.05, cold, first),
            Measure("Steps per second", "/s", 0.99, samples["warm.rate"], rate, at_least=True),
            *_exactness(samples),
            Measure(
                "200 MB captured (beside: one write and one SHA-256)",
                "s",
                1.5,
                samples["large.returned"],
                samples["large.once"],
            ),
            Measure("The cell returns, after packing", "s", 0.1, samples["warm.returned"]),
            Measure("Killed trainer to training again", "s", 5.0, samples["killed.again"]),
            Measure("`import nbtrain`", "s", 0.3, samples["imports.import"]),
            Measure("`%load_ext nbtrain`", "s", 0.3, samples["imports.load_ext"]),
        ]


def _exactness(samples: Samples) -> list[Measure]:
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
