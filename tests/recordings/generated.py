"""Makes `64-workers-generated.jsonl`: no 64 workers ever ran here, and its first line says so.

`python -m tests.recordings.generated` writes it anew, the same every time. A real recording is
`2-workers.jsonl`: the events of a run of two local workers, as their head wrote them.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path

from nbtrain.runtime import events
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

HERE = Path(__file__).parent
FILE = HERE / "64-workers-generated.jsonl"
REAL = HERE / "2-workers.jsonl"

WORKERS, EPOCHS, STEPS, LOST = 64, 12, 200, 41
T0 = 1_790_000_000.0

ABOUT = {
    "v": events.VERSION,
    "kind": "about",  # not an event's: readers pass over it
    "generated_by": "tests/recordings/generated.py",
    "note": "made up: these 64 workers never ran",
}


def timed() -> Iterator[tuple[float, Event]]:
    """Yield each event with the seconds after the one before it."""
    chance = random.Random(64)
    yield from _coming(range(WORKERS), chance)
    yield from _training(0)
    for number in range(5):
        yield from _epoch(number, chance)
    yield from list(_epoch(5, chance))[:8]
    yield 0.3, Failed(worker=LOST, cause="lost", message="node n-17 is gone", will_retry=True)
    for worker in range(WORKERS):
        yield 0.0, Phase(worker=worker, phase="waiting", reason="starts again")
    yield 9.0, Phase(worker=LOST, phase="waiting", reason="the scheduler looks for a node")
    yield from _coming(range(WORKERS), chance)
    yield from _training(5)
    for number in range(5, EPOCHS):
        yield from _epoch(number, chance)
    yield 0.4, Phase(worker=0, phase="saving")
    yield 0.8, Saved(what="weights", path="weights.safetensors", bytes=94_000_000)
    for worker in range(WORKERS):
        yield 0.0, Phase(worker=worker, phase="done")
    yield 0.2, Ended(outcome="succeeded")


def _coming(workers: range, chance: random.Random) -> Iterator[tuple[float, Event]]:
    for phase in ("waiting", "starting", "loading", "meeting", "building"):
        for worker in chance.sample(workers, len(workers)):
            reason = "pulling the image" if phase == "waiting" else ""
            host = f"n-{worker // 4}"
            pid = 7 if phase != "waiting" else None
            yield (
                chance.expovariate(12),
                Phase(worker=worker, phase=phase, reason=reason, host=host, pid=pid),
            )


def _training(first: int) -> Iterator[tuple[float, Event]]:
    yield (
        0.5,
        Started(
            workers=WORKERS,
            epochs=EPOCHS,
            first_epoch=first,
            steps=STEPS,
            global_batch=8192,
            seed=42,
            parameters=23_587_712,
            versions={"python": "3.11", "tensorflow": "2.21.0", "keras": "3.15.1"},
        ),
    )
    for worker in range(WORKERS):
        yield 0.0, Phase(worker=worker, phase="training", host=f"n-{worker // 4}")


def _epoch(number: int, chance: random.Random) -> Iterator[tuple[float, Event]]:
    for step in range(10, STEPS + 1, 10):
        logs = _values(number + step / STEPS, chance)
        rate = 118_000 * (1 + chance.uniform(-0.04, 0.04))
        slowest = LOST if chance.random() < 0.2 else None
        yield (
            0.7,
            Progress(
                epoch=number,
                step=step,
                steps=STEPS,
                logs=logs,
                examples_per_s=round(rate),
                slowest=slowest,
            ),
        )
        if step % 30 == 0:
            yield 0.0, _usage(number, step)
    yield 0.1, Progress(epoch=number, step=STEPS, steps=STEPS, validating=True)
    logs = _values(number + 1, chance)
    logs |= {
        "val_loss": round(logs["loss"] * 1.1, 4),
        "val_accuracy": round(logs["accuracy"] * 0.97, 4),
    }
    yield 2.0, EpochEnd(epoch=number, steps=STEPS, logs=logs, seconds=16.1)
    path = f"checkpoints/epoch-{number + 1:06d}-step-000000000.safetensors"
    yield 0.3, Saved(what="checkpoint", path=path, epoch=number + 1, step=0, bytes=94_000_000)
    if number == 1:
        yield (
            0.0,
            Warned(
                code="dropout",
                message="dropout draws a mask for each worker: not comparable with one process",
            ),
        )


def _usage(number: int, step: int) -> Usage:
    """All do the same in a step; memory grows a little with the epochs."""
    chance = random.Random(1000 * number + step)
    return Usage(
        workers=list(range(WORKERS)),
        examples_per_s=[round(118_000 / WORKERS * chance.uniform(0.97, 1.03))] * WORKERS,
        memory=[
            2_100_000_000 + 1_000_000 * (number + chance.randrange(90)) for _ in range(WORKERS)
        ],
    )


def _values(x: float, chance: random.Random) -> dict[str, float]:
    loss = 6.1 * math.exp(-0.35 * x) + 0.7 + chance.gauss(0, 0.02)
    accuracy = 0.79 * (1 - math.exp(-0.3 * x)) + chance.gauss(0, 0.003)
    return {"loss": round(loss, 4), "accuracy": round(max(accuracy, 0.0), 4)}


def lines() -> list[str]:
    """Return the file's lines."""
    found, time, generation = [json.dumps(ABOUT)], T0, 1
    for seq, (after, event) in enumerate(timed()):
        time += after
        stamped = dataclasses.replace(event, seq=seq, time=round(time, 3), generation=generation)
        if isinstance(event, Failed):
            generation += 1
        found.append(events.encode(stamped))
    return found


if __name__ == "__main__":
    FILE.write_text("\n".join(lines()) + "\n", "utf-8")
