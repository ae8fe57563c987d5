"""Runs with faults at random moments, all of which have to end as if nothing had happened.

`python -m tests.soak --runs 200` writes a report; a run is made again by `--seed S --only I`.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from nbtrain.backends.local import home
from nbtrain.run import Run, attach
from nbtrain.runtime.reading import is_live
from nbtrain.runtime.rundir import RunDir

from . import programs
from .faults import Fault, callbacks
from .harness import assert_equal_to_plain, launch, leftovers, plain, until

EPOCHS, STEPS = 3, 7
#: Longest that a run may take, in seconds; one with three faults takes some 20 on two cores.
LIMIT_S = 180.0
PROGRAMS = (
    ("model", "dataset"),
    ("model", "shuffled"),
    ("model", "cached"),
    ("normalized", "dataset"),
)
#: What happens, and how often: to a worker, or (HEAD) to the head while that worker is stopped.
ACTIONS = {"SIGKILL": 0.6, "SIGSTOP": 0.15, "HEAD": 0.25}


@dataclass
class Trial:
    """One run: what is trained, and what happens to it."""

    number: int
    model: str
    dataset: str
    workers: int
    checkpoint_every: str
    faults: list[Fault]
    struck: int = 0
    seconds: float = 0.0
    error: str = ""
    story: list[str] = field(default_factory=list)


def trial(seed: int, number: int, folder: Path) -> Trial:
    """Return run `number` of a soak; a function of the seed alone."""
    rng = np.random.default_rng([seed, number])
    model, dataset = PROGRAMS[rng.integers(len(PROGRAMS))]
    workers = int(rng.choice([2, 3], p=[0.8, 0.2]))
    every = str(rng.choice(["epoch", "1 steps", "3 steps"]))
    faults = [random_fault(rng, workers, folder / f"fault-{i}") for i in range(rng.integers(1, 4))]
    return Trial(number, model, dataset, workers, every, faults)


def random_fault(rng: np.random.Generator, workers: int, marker: Path) -> Fault:
    """Return a fault at a random moment, of one worker or of all."""
    action = str(rng.choice(list(ACTIONS), p=list(ACTIONS.values())))
    one = int(rng.integers(workers))
    whom = tuple(range(workers)) if action == "SIGKILL" and rng.random() < 0.2 else (one,)
    stage = str(rng.choice(["train", "validate", "epoch_end", "train_end"], p=[0.7, 0.1, 0.1, 0.1]))
    epoch = EPOCHS - 1 if stage == "train_end" else int(rng.integers(EPOCHS))
    batch = int(rng.integers(STEPS if stage == "train" else 2))
    if action == "HEAD":
        return Fault("SIGSTOP", whom, marker.with_name(f"{marker.name}-head"), stage, epoch, batch)
    return Fault(action, whom, marker, stage, epoch, batch)


def carry_out(one: Trial, expected: Any) -> None:
    """Train, disturb and compare; what is wrong is noted in the trial."""
    began = time.monotonic()
    try:
        run = launch(
            {
                "model": getattr(programs, one.model),
                "dataset": getattr(programs, one.dataset),
                "validation": programs.validation,
                "callbacks": callbacks(*one.faults),
            },
            workers=one.workers,
            epochs=EPOCHS,
            checkpoint_every=one.checkpoint_every,
            unresponsive_s=2.0,
        )
        for ended in through_deaths_of_the_head(run, one.faults, began + LIMIT_S):
            run = ended
        assert_equal_to_plain(run, expected)
        until(lambda: not leftovers(home()))
    except BaseException as error:
        one.error = "".join(traceback.format_exception_only(error)).strip()
        one.story = [repr(event)[:200] for event in run.events][-40:]
        if isinstance(error, KeyboardInterrupt):
            raise
    finally:
        run.delete()
    one.struck = sum(bool(list(f.marker.parent.glob(f"{f.marker.name}-*"))) for f in one.faults)
    one.seconds = time.monotonic() - began


def through_deaths_of_the_head(run: Run, faults: list[Fault], deadline: float) -> Iterator[Run]:
    """Kill the head where a fault says so, and yield the handles that the run goes on with."""
    rundir = RunDir(home() / run.id)
    due = {f.marker: f for f in faults if f.marker.name.endswith("-head")}
    while True:
        for marker in list(due):
            if list(marker.parent.glob(f"{marker.name}-*-0")) and (rundir / RunDir.HEAD).exists():
                del due[marker]
                os.kill(rundir.read_json(RunDir.HEAD)["pid"], signal.SIGKILL)
                until(lambda: not is_live(rundir))
                run = attach(run.id)
                yield run
        if run.status in ("succeeded", "failed", "stopped"):
            return
        assert time.monotonic() < deadline, f"not ended within {LIMIT_S:g} s"
        assert run.status != "lost", "the head died by itself"
        time.sleep(0.05)


def soak(runs: range, seed: int) -> list[Trial]:
    """Carry out runs one after the other; print a line for each."""
    done = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"NBTRAIN_HOME": f"{name}/home", "NBTRAIN_CONFIG": f"{name}/config.toml"}
        expected: dict[tuple[str, str], Any] = {}
        for number in runs:
            own = folder / str(number)
            own.mkdir()
            one = trial(seed, number, own)
            key = one.model, one.dataset
            if key not in expected:
                expected[key] = plain(own, model=one.model, dataset=one.dataset, epochs=EPOCHS)
            carry_out(one, expected[key])
            done.append(one)
            print(line(one), flush=True)
    return done


def line(one: Trial) -> str:
    """Return what is said of a run while the soak goes on."""
    happened = ", ".join(map(told, one.faults))
    verdict = f"WRONG: {one.error}" if one.error else "right"
    return f"{one.number:4d} {one.seconds:5.1f} s  {one.workers} workers: {happened}: {verdict}"


def told(fault: Fault) -> str:
    """Return a fault in words."""
    what = "head killed" if fault.marker.name.endswith("-head") else fault.action
    whom = "all" if len(fault.workers) > 1 else f"worker {fault.workers[0]}"
    return f"{what} ({whom}, {fault.stage} {fault.epoch}/{fault.batch})"


def report(done: list[Trial], seed: int) -> str:
    """Return the report, as Markdown."""
    wrong = [one for one in done if one.error]
    seconds = sorted(one.seconds for one in done)
    kinds = Counter(told(f).split(" (")[0] for one in done for f in one.faults)
    stages = Counter(f.stage for one in done for f in one.faults)
    rows = [
        ("runs", len(done)),
        ("equal to an undisturbed process (1e-6), nothing left behind", len(done) - len(wrong)),
        ("faults planned", sum(kinds.values())),
        ("… that found their worker at that moment", sum(one.struck for one in done)),
        *((f"… {kind}", count) for kind, count in sorted(kinds.items())),
        *((f"… during {stage}", count) for stage, count in sorted(stages.items())),
        ("median and longest time of a run", f"{np.median(seconds):.1f} s, {seconds[-1]:.1f} s"),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    failures = "".join(
        f"\n- `python -m tests.soak --seed {seed} --only {one.number}`: {one.error}\n"
        for one in wrong
    )
    where = f"{date.today()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return f"# Soak\n\nSeed {seed}, {where}.\n\n| | |\n|---|---|\n{table}\n{failures}"


def main(arguments: list[str]) -> int:
    """Run the soak; the exit status says whether all was right."""
    parser = argparse.ArgumentParser(prog="tests.soak")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="one run, by its number")
    parser.add_argument("--report", type=Path, help="where the report is written")
    options = parser.parse_args(arguments)
    only = options.only
    done = soak(range(options.runs) if only is None else range(only, only + 1), options.seed)
    text = report(done, options.seed)
    print(text)
    if options.report:
        options.report.write_text(text)
    if only is not None:
        print(*done[0].story, sep="\n")
    return 1 if any(one.error for one in done) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
