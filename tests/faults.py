"""Faults that come at a named step: what users' machines do to workers, made to happen once.

A fault is a callback of the user's, so it is in the trainer itself and strikes between two
batches, in the middle of a validation, or while the model is saved; never "after a while".
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Fault:
    """What happens to `workers` (their place in the generation), when, and how often.

    `stage` is one of "train", "validate", "epoch_end", "train_end"; `marker` is where it is written
    down that it has happened, one file for each time and worker. One that is relative is in the
    folder for temporary files, which in a container outlives the trainer.
    """

    action: str
    workers: Sequence[int]
    marker: Path
    stage: str = "train"
    epoch: int = 1
    batch: int = 3
    times: int = 1

    def strikes(self, worker: int) -> bool:
        """Tell whether it is to happen now, and write it down."""
        folder = Path(tempfile.gettempdir(), self.marker.parent)
        for time in range(self.times):
            try:
                (folder / f"{self.marker.name}-{worker}-{time}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return True
        return False

    def strike(self) -> None:
        """Let it happen to this process."""
        if self.action == "raise":
            raise RuntimeError("a fault of the test")
        os.kill(os.getpid(), getattr(signal, self.action))


def callbacks(*faults: Fault) -> Callable[..., Any]:
    """Return a `callbacks` function for a run, in which the faults happen."""

    def made(worker: int) -> list[Any]:
        import keras

        class Happens(keras.callbacks.Callback):
            def __init__(self, fault: Fault) -> None:
                super().__init__()
                self.fault, self.epoch = fault, 0

            def now(self, stage: str, batch: int) -> None:
                due = (self.fault.stage, self.fault.epoch, self.fault.batch)
                if due == (stage, self.epoch, batch) and self.fault.strikes(worker):
                    self.fault.strike()

            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                self.epoch = epoch

            def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
                self.now("train", batch)

            def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
                self.now("validate", batch)

            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                self.now("epoch_end", self.fault.batch)

            def on_train_end(self, logs: Any = None) -> None:
                self.now("train_end", self.fault.batch)

        return [Happens(fault) for fault in faults if worker in fault.workers]

    return made
