"""What is kept of a training while it goes on: checkpoints, and the files that callbacks write."""

from __future__ import annotations

import json
import math
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from . import checkpoint, framework, keras_mwms, metric_state
from .checkpoint import State
from .events import Warned
from .payload import PRIVATE
from .replicas import agree
from .request import every_seconds, every_steps
from .rundir import RunDir
from .trainer import Control


class Keeper:
    """Makes checkpoints, and takes a training back to one.

    Parameters
    ----------
    remembering
        The callbacks whose memory is part of a checkpoint.
    resume
        The state to go on from, or None.
    build
        Says what an unbuilt model is built from, once that is known.
    came_along
        Files in the scratch folder that are the user's own.
    """

    def __init__(
        self,
        control: Control,
        model: Any,
        strategy: tf.distribute.Strategy,
        remembering: list[Any],
        resume: State | None,
        build: Callable[[], Any],
        came_along: Iterable[str] = (),
    ) -> None:
        self.resume = resume
        self._control, self._model, self._strategy = control, model, strategy
        self._remembering, self._build = remembering, build
        self._initial = checkpoint.callback_memory(remembering)
        self.feed = framework.of_model(model).feed(model, resume.epoch if resume else 0)
        self._schedule = Schedule(
            control.job.request.checkpoint_every, lambda s: agree([s], "max", strategy)[0]
        )
        self._sender = _Sender() if control.job.chief else None
        self._files = _Files(control, came_along)
        self._in_epoch: State | None = None
        self._by_step = False

    # -- going back --------------------------------------------------------------------------

    def restore(self) -> None:
        """Take model, optimizers, callbacks and data to where they were; when all are built."""
        why_not = self.feed.why_not_by_step()
        self._by_step = not why_not
        if self.resume is None:
            if why_not and self._schedule.is_by_step and self._control.job.chief:
                message = f"checkpoints are made at the ends of epochs only: {why_not}"
                self._control.say(Warned(code="checkpoint-epochs", message=message, worker=0))
            return
        self.feed.build()
        if "seed/0" in self.resume.variables:
            keras_mwms.global_seeds(make=True)
        checkpoint.restore(self._model, self.resume.variables, self.resume.metadata)
        checkpoint.restore_callbacks(self._remembering, self.resume.callbacks)
        self._replay(self.resume.epoch, self.resume.step)

    def _replay(self, epochs: int, steps: int) -> None:
        """Bring the data to where it was."""
        if epochs or steps:
            where = f"epoch {epochs + 1}" + (f", step {steps + 1}" if steps else "")
            self._control.phase("building", f"brings the data to {where}")
        self.feed.replay(self._control.advance)
        if steps:
            self.feed.skip(steps, self._control.advance)
            self._in_epoch = self.resume

    def epoch_begins(self) -> None:
        """Restore what Keras and the callbacks have set back for the epoch that is gone on with."""
        if self._in_epoch is None:
            return
        state, self._in_epoch = self._in_epoch, None
        checkpoint.restore(self._model, state.variables)
        checkpoint.restore_callbacks(self._remembering, state.callbacks)
        index = self._control.job.index
        metric_state.restore(self._model, self._strategy, state.variables, index)

    # -- keeping -----------------------------------------------------------------------------

    def after_steps(self, count: int, epoch: int, step: int, *, is_last: bool) -> None:
        """Make a checkpoint between two steps if it is time; on all workers.

        After the last step of an epoch the end of the epoch is near, and a better place.
        """
        is_due = self._by_step and self._schedule.is_due(count)
        if is_due and not is_last:
            self._save(epoch, step)

    def after_epoch(self, epochs: int) -> None:
        """Make a checkpoint at the end of an epoch, of which there were so many, if it is time."""
        is_due = self._schedule.is_due_after_epoch(by_step=self._by_step)
        is_over = epochs >= self._control.job.request.epochs
        if is_due and not is_over:
            self._save(epochs, 0)

    def _save(self, epoch: int, step: int) -> None:
        """Copy the state here and now, and send it while the training goes on."""
        self._schedule.saved()
        metrics = metric_state.gather(self._model, self._strategy) if step else {}
        if self._sender is None or self._sender.is_busy():
            return  # where the line is slower than the training a later one will do
        state = State(
            epoch=epoch,
            step=step,
            variables=checkpoint.snapshot(self._model) | metrics,
            callbacks=checkpoint.callback_state(
                checkpoint.callback_memory(self._remembering), self._initial
            ),
            metadata={
                "files": json.dumps(self._files.sizes()),
                **checkpoint.optimizers_built(self._model),
            },
        )
        name = RunDir("").checkpoint(state.epoch, state.step)

        def send() -> None:
            self._files.send()  # first: the checkpoint knows what of them is its past
            self._send(state, "checkpoint", name)

        self._sender.put(send)

    def send_results(self, epoch: int, step: int) -> None:
        """Send the state as it is now, as the run's weights."""
        built = checkpoint.optimizers_built(self._model)
        state = State(epoch, step, checkpoint.snapshot(self._model), metadata=built)
        self._send(state, "weights", RunDir.WEIGHTS)

    def _send(self, state: State, what: str, path: str) -> None:
        pieces = checkpoint.pieces(state, build=self._build())
        self._control.send_file(what, path, pieces, epoch=state.epoch, step=state.step)

    def send_files(self) -> None:
        """Send what callbacks wrote since the last time."""
        self._files.send()

    def wait_until_sent(self) -> None:
        """Wait for checkpoints that are on their way."""
        if self._sender is not None:
            self._sender.close()


class Schedule:
    """Says after which steps a checkpoint is made; the same on all workers.

    By steps, that is counting. By time, the workers agree after 1, 2, 4, ... steps on how much of
    it has passed, and from then on on the step after which it will have.

    Parameters
    ----------
    every
        `TrainRequest.checkpoint_every`.
    agree
        Returns the largest of all workers' numbers; a collective.
    """

    def __init__(self, every: str | float, agree: Callable[[float], float]) -> None:
        self._steps, self._seconds = every_steps(every), every_seconds(every)
        self._agree = agree
        self._since = 0
        self._look = 1
        self._began = time.monotonic()

    @property
    def is_by_step(self) -> bool:
        """Whether there may be checkpoints within epochs."""
        return self._steps is not None or self._seconds is not None

    def is_due(self, count: int) -> bool:
        """Count steps; tell whether it is time for a checkpoint."""
        self._since += count
        if self._steps is not None:
            return self._since >= self._steps
        return self._seconds is not None and self._since >= self._look and self._is_time()

    def is_due_after_epoch(self, *, by_step: bool) -> bool:
        """Tell whether it is time at the end of an epoch; without `by_step` there are no others."""
        if self._steps is not None and by_step:
            return self._since >= self._steps
        return self._seconds is None or self._is_time()

    def saved(self) -> None:
        """Begin to count anew."""
        self._look = max(1, self._since)
        self._since = 0
        self._began = time.monotonic()

    def _is_time(self) -> bool:
        assert self._seconds is not None
        elapsed = self._agree(time.monotonic() - self._began)
        if elapsed >= self._seconds:
            return True
        expected = math.ceil(self._since * self._seconds / max(elapsed, 1e-6))
        self._look = max(self._since + 1, min(2 * self._since, expected))
        return False


class _Files:
    """What worker 0's callbacks write into its scratch folder."""

    def __init__(self, control: Control, came_along: Iterable[str]) -> None:
        self._control, self._came_along = control, set(came_along)
        self._sent: dict[str, float] = {}

    def sizes(self) -> dict[str, int]:
        """Return the files and how long they are now."""
        return {name: path.stat().st_size for name, path in self._written()}

    def send(self) -> None:
        """Send those that have changed."""
        for name, path in self._written():
            changed = path.stat().st_mtime
            if self._sent.get(name) != changed:
                self._sent[name] = changed
                self._control.send_file("file", f"{RunDir.FILES}/{name}", _read(path))

    def _written(self) -> Iterator[tuple[str, Path]]:
        scratch = self._control.job.scratch
        for path in sorted(p for p in scratch.rglob("*") if p.is_file()):
            name = path.relative_to(scratch).as_posix()
            if not name.startswith(PRIVATE) and name not in self._came_along:
                yield name, path


def bring_back(state: State, files: dict[str, Path], scratch: Path) -> None:
    """Put files that callbacks had written back, as they were when a checkpoint was made.

    What has been appended since (rows of a CSVLogger, events of TensorBoard) will be written again.
    """
    sizes = json.loads((state.metadata or {}).get("files", "{}"))
    for name, path in files.items():
        if name in sizes:
            target = scratch / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            if target.stat().st_size > sizes[name]:
                with target.open("r+b") as file:
                    file.truncate(sizes[name])


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            yield data


class _Sender:
    """A thread that sends checkpoints one after the other."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="nbtrain-checkpoint", daemon=True)
        self._thread.start()

    def put(self, work: Callable[[], None]) -> None:
        self._queue.put(work)

    def is_busy(self) -> bool:
        return self._queue.unfinished_tasks > 0

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            work()
            self._queue.task_done()
