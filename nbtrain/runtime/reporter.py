"""The callback that runs last: progress, checkpoints, stopping, and agreement of the workers."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from . import checkpoint, framework, keras_mwms
from .checkpoint import State
from .events import EpochEnd, Progress, Started, Warned
from .payload import PRIVATE
from .rundir import RunDir
from .trainer import Control

#: Progress is told at most this often, in seconds.
PROGRESS_S = 0.2


class Stopped(Exception):
    """Leaves `fit` after the step at which all workers stop."""


class Reporter(keras.callbacks.Callback):
    """Tells the head how the training gets on; the last of the callbacks.

    Parameters
    ----------
    others
        The user's callbacks; what they remember is part of a checkpoint.
    resume
        The state to go on from, or None.
    started
        Makes the event that says what is being trained.
    came_along
        Files in the scratch folder that are the user's own.

    Attributes
    ----------
    callback
        What to give to `fit`: the reporter as a callback of the model's Keras.
    """

    def __init__(
        self,
        control: Control,
        model: Any,
        strategy: tf.distribute.Strategy,
        data: Any,
        others: list[Any],
        resume: State | None,
        started: Callable[[Any, int, Any], Started],
        came_along: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.control, self.strategy, self.data = control, strategy, data
        self._trained, self._resume, self._started = model, resume, started
        own = framework.of_model(model)
        self.history = own.callbacks.History()
        self._remembering = [*others, self.history]
        self._chief = control.job.chief
        self._feed = own.feed(model, resume.epoch if resume else 0)
        self.callback = own.callback(self)
        self._first_epoch = 0
        self._epoch = 0
        self._done_epochs = 0
        self._step = 0
        self._total_steps = 0
        self._told = 0.0
        self._epoch_began = 0.0
        self._rate_from = (0.0, 0)
        self._rate: float | None = None
        self._saved_at = 0.0
        self._sender = _Sender() if self._chief else None
        self._seen: dict[str, float] = {}
        self._came_along = set(came_along)

    def first_epoch(self, asked: int) -> int:
        """Return the epoch that `fit` is to begin with."""
        self._first_epoch = self._resume.epoch if self._resume else asked
        self._done_epochs = self._first_epoch
        return self._first_epoch

    # -- what Keras calls -------------------------------------------------------------------

    def on_train_begin(self, logs: Any = None) -> None:
        """Restore the state: model and optimizer are built by now, and callbacks have begun."""
        if self._resume is not None:
            self._feed.build()
            checkpoint.restore(self._trained, self._resume.variables)
            checkpoint.restore_callbacks(self._remembering, self._resume.callbacks)
            self._replay(self._resume.epoch)
        if self._chief:
            self.control.say(self._started(self._trained, self._first_epoch, self.data))
        self.control.phase("training")

    def _replay(self, epochs: int) -> None:
        """Bring the data to where it was."""
        if epochs:
            self.control.phase("building", f"brings the data to epoch {epochs + 1}")
            self._feed.replay(self.control.advance)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begin to count steps."""
        self._epoch, self._step = epoch, 0
        self._epoch_began = time.monotonic()
        self._rate_from = (self._epoch_began, 0)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Show that the data came."""
        self.control.advance()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Tell progress now and then, and stop where all workers stop."""
        self.control.advance()
        self._total_steps += batch + 1 - self._step
        self._step = batch + 1
        if self._chief:
            self._tell_progress(logs)
        if self.control.stops_after(self._total_steps):
            raise Stopped

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Tell that validation gets on."""
        self.control.advance()
        now = time.monotonic()
        if self._chief and now - self._told > PROGRESS_S:
            self._told = now
            self.control.say(Progress(epoch=self._epoch, step=self._step, validating=True))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Have the workers compare notes, then tell and keep what the epoch gave."""
        self.control.advance()
        self._agree_to_stop()
        digest = keras_mwms.check_replicas(self._trained, self.strategy)
        self._done_epochs = epoch + 1
        if not self._chief:
            return
        numbers = _numbers(logs)
        seconds = time.monotonic() - self._epoch_began
        self.control.say(
            EpochEnd(epoch=epoch, steps=self._step, logs=numbers, seconds=seconds, digest=digest)
        )
        if self._is_time_to_save():
            self._save_checkpoint()

    # -- telling ----------------------------------------------------------------------------

    def _tell_progress(self, logs: Any) -> None:
        now = time.monotonic()
        if now - self._told < PROGRESS_S and self._total_steps > 1:
            return
        self._told = now
        if self._step <= 1 or not self._rate_from[1]:
            self._rate_from = (now, self._step)  # the first step also makes the iterator
        since, steps = self._rate_from
        if now - since > 1.0 and self._step > steps and self.data.batch:
            self._rate = (self._step - steps) * self.data.batch / (now - since)
            self._rate_from = (now, self._step)
        self.control.say(
            Progress(
                epoch=self._epoch,
                step=self._step,
                steps=self.data.steps or self.params.get("steps"),
                logs=_numbers(logs),
                examples_per_s=self._rate,
            )
        )

    def _agree_to_stop(self) -> None:
        """Stop all workers where a callback stopped one of them."""
        wishes = keras_mwms.agree([float(self._trained.stop_training)], "max", self.strategy)
        if bool(wishes[0]) != bool(self._trained.stop_training):
            self._trained.stop_training = True
            message = "a callback stopped the training on one worker only; all stop with it"
            self.control.say(
                Warned(code="stopped-on-one", message=message, worker=self.control.job.worker)
            )

    # -- keeping ----------------------------------------------------------------------------

    def _is_time_to_save(self) -> bool:
        every = self.control.job.request.checkpoint_every
        apart = 0.0 if every == "epoch" else float(every)
        return (
            self._epoch + 1 < self.control.job.request.epochs
            and time.monotonic() - self._saved_at >= apart
            and checkpoint.is_complete(self._trained)
        )

    def _save_checkpoint(self) -> None:
        """Copy the state here and now, and send it while the training goes on."""
        assert self._sender is not None
        self._saved_at = time.monotonic()
        if self._sender.is_busy():
            return  # the line is slower than the epochs: a later one will do
        state = self._state(with_callbacks=True)
        name = RunDir("").checkpoint(state.epoch, state.step)
        self._sender.put(lambda: self._send(state, "checkpoint", name))
        self.send_files()

    def send_state(self, what: str, path: str) -> None:
        """Send the state as it is now."""
        self._send(self._state(with_callbacks=False), what, path)

    def _state(self, *, with_callbacks: bool) -> State:
        partial = self._step if self._done_epochs <= self._epoch else 0
        return State(
            epoch=self._done_epochs,
            step=partial,
            variables=checkpoint.snapshot(self._trained),
            callbacks=checkpoint.callback_state(self._remembering) if with_callbacks else b"",
        )

    def _send(self, state: State, what: str, path: str) -> None:
        pieces = checkpoint.pieces(state, build=self.data.build)
        self.control.send_file(what, path, pieces, epoch=state.epoch, step=state.step)

    def send_files(self) -> None:
        """Send what callbacks wrote since the last time."""
        scratch = self.control.job.scratch
        for path in sorted(p for p in scratch.rglob("*") if p.is_file()):
            changed = path.stat().st_mtime
            name = path.relative_to(scratch).as_posix()
            if name.startswith(PRIVATE):
                continue
            if self._seen.get(name) != changed and name not in self._came_along:
                self._seen[name] = changed
                self.control.send_file("file", f"{RunDir.FILES}/{name}", _read(path))

    def wait_until_sent(self) -> None:
        """Wait for checkpoints that are on their way."""
        if self._sender is not None:
            self._sender.close()


def _numbers(logs: Any) -> dict[str, float]:
    """Return the logs that are numbers; a metric may give one for each class."""
    return {k: float(np.ravel(v)[0]) for k, v in (logs or {}).items() if np.size(v) == 1}


def _read(path: Path) -> Any:
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
