"""Event streams of runs, made up for the tests of what draws them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator

from nbtrain.runtime.events import (
    Ended,
    EpochEnd,
    Event,
    Failed,
    Phase,
    Progress,
    Saved,
    Started,
    Usage,
    Warned,
)
from nbtrain.state import RunState, fold_all, initial

T0 = 1_790_000_000.0

TRACEBACK = """Traceback (most recent call last):
  File "/tmp/ipykernel_4711/2093847.py", line 9, in dataset
    return scale(x_train / 0 * "<b>"), y_train
  File "/home/ann/course/prepare.py", line 3, in scale
    return x / x.max()
  … 3 frames in numpy
ValueError: operands could not be broadcast together with shapes (60000,28) (10,)
"""


def stamped(events: Iterable[Event], seconds: float = 0.5) -> list[Event]:
    """Give events their numbers and times."""
    return [
        dataclasses.replace(e, seq=i, time=T0 + 1 + i * seconds, generation=e.generation or 1)
        for i, e in enumerate(events)
    ]


def starting(workers: int = 2) -> Iterator[Event]:
    """Workers come, load, meet and build."""
    for phase in ("waiting", "starting", "loading", "meeting", "building"):
        for worker in range(workers):
            yield Phase(worker=worker, phase=phase, pid=4000 + worker, host="localhost")


def started(workers: int = 2, epochs: int = 5, steps: int = 45, first: int = 0) -> Iterator[Event]:
    """A generation begins to train."""
    yield Started(
        workers=workers,
        epochs=epochs,
        first_epoch=first,
        steps=steps,
        global_batch=128,
        seed=42,
        parameters=34_826,
        versions={"tensorflow": "2.21.0"},
    )
    for worker in range(workers):
        yield Phase(worker=worker, phase="training", pid=4000 + worker, host="localhost")


def usage(workers: int = 2) -> Usage:
    """All workers tell their examples/s and memory."""
    return Usage(
        workers=list(range(workers)),
        examples_per_s=[620.0 + worker for worker in range(workers)],
        memory=[1_200_000_000 + 10_000_000 * worker for worker in range(workers)],
    )


def values(x: float, validation: bool = False) -> dict[str, float]:
    """Return loss and accuracy after `x` epochs."""
    loss = 2.1 * math.exp(-0.6 * x) + 0.05
    found = {"accuracy": 1 - 0.85 * math.exp(-0.9 * x) - 0.01, "loss": loss}
    if validation:
        found |= {"val_accuracy": 1 - 0.8 * math.exp(-0.8 * x) - 0.02, "val_loss": loss * 1.15}
    return found


def epoch(number: int, steps: int = 45, every: int = 3, validation: bool = True) -> Iterator[Event]:
    """An epoch from its first step to its end."""
    for step in range(every, steps + 1, every):
        yield Progress(
            epoch=number,
            step=step,
            steps=steps,
            logs=values(number + step / steps * 0.8),
            examples_per_s=1238.0,
        )
    if validation:
        yield Progress(epoch=number, step=steps, validating=True)
    yield EpochEnd(
        epoch=number, steps=steps, logs=values(number + 1, validation), seconds=steps * 0.1
    )
    path = f"checkpoints/epoch-{number + 1:06d}.safetensors"
    yield Saved(what="checkpoint", path=path, epoch=number + 1, step=0, bytes=139_304)


def ending(workers: int = 2) -> Iterator[Event]:
    """The model is saved and the run succeeds."""
    yield Phase(worker=0, phase="saving")
    yield Saved(what="weights", path="weights.safetensors", bytes=418_000)
    for worker in range(workers):
        yield Phase(worker=worker, phase="done")
    yield Ended(outcome="succeeded")


def whole(workers: int = 2, epochs: int = 5, validation: bool = True) -> list[Event]:
    """Return the events of a run to which nothing happens."""
    found = [*starting(workers), *started(workers, epochs)]
    for number in range(epochs):
        found += epoch(number, validation=validation)
    return stamped([*found, *ending(workers)])


def partial(workers: int = 2) -> list[Event]:
    """Return the events of a run that is in its third epoch."""
    found = [*starting(workers), *started(workers), *epoch(0), *epoch(1)]
    return stamped([*found, *list(epoch(2))[:4]])


def with_restart() -> list[Event]:
    """Return the events of a run that loses a worker in its third epoch."""
    lost = Failed(worker=1, cause="lost", message="killed by SIGKILL", will_retry=True)
    found = [*starting(), *started(), *epoch(0), *epoch(1), *list(epoch(2))[:5], lost]
    found += [Phase(worker=1, phase="lost", reason="starts again")]
    found += [Phase(worker=0, phase="waiting", reason="starts again"), *starting()]
    found += started(first=2)
    for number in (2, 3, 4):
        found += epoch(number)
    return stamped([*found, *ending()])


def with_user_error() -> list[Event]:
    """Return the events of a run that ends in an error of the user's own code."""
    message = "ValueError: operands could not be broadcast together with shapes (60000,28) (10,)"
    failed = Failed(worker=1, cause="user", message=message, traceback=TRACEBACK)
    ended = Ended(outcome="failed", message=f"worker 1: {message}")
    return stamped([*starting(), failed, ended])


def with_nan() -> list[Event]:
    """Return the events of a run whose loss becomes NaN in the third epoch."""
    found = [*starting(), *started(), *epoch(0), *epoch(1)]
    for number in (2, 3):
        logs = {"loss": math.nan, "accuracy": 0.1, "val_loss": math.nan, "val_accuracy": 0.1}
        found.append(Progress(epoch=number, step=9, steps=45, logs={"loss": math.nan}))
        found.append(EpochEnd(epoch=number, steps=45, logs=logs, seconds=4.5))
    return stamped(found)


def long_run(epochs: int = 500, steps: int = 100) -> list[Event]:
    """Return the events of a long run."""
    found = [*starting(), *started(epochs=epochs, steps=steps)]
    for number in range(epochs):
        found += epoch(number, steps=steps, every=1)
    return stamped([*found, *ending()], seconds=0.2)


def with_warnings() -> list[Event]:
    """Return the events of a run with warnings, one of many lines."""
    stacks = "no worker has got on for a while\nworker 0:\n  File x.py, line 3\nworker 1:\n  wait"
    found = [Warned(code="data-large", message="`df` (1.2 GB) is captured by `dataset`")]
    found.append(Warned(code="stalled", message=stacks, worker=0))
    return stamped([*partial(), *found])


def state(events: Iterable[Event], workers: int = 2, epochs: int = 5) -> RunState:
    """Return what the events come to."""
    begun = initial("digits", "digits-1123-170455-kx", "local", workers, T0, epochs)
    return fold_all(begun, events)
