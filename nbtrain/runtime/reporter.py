"""The callback that runs last: progress, stopping, and agreement of the workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from . import coupling, framework, keras_mwms, same_data
from .events import COUPLED, EpochEnd, Progress, Started, Warned
from .keeper import Keeper
from .trainer import Control
from .unkept import Unkept

#: Progress is told at most this often, in seconds.
PROGRESS_S = 0.2


class Stopped(Exception):
    """Leaves `fit` after the step at which all workers stop."""


class Reporter(keras.callbacks.Callback):
    """Tells the head how the training gets on; the last of the callbacks.

    Parameters
    ----------
    keeper
        Makes the checkpoints.
    history
        The History of this training.
    started
        Makes the event that says what is being trained.
    agrees_each_step
        Some callback may stop the training in the middle of an epoch, on one worker only.

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
        keeper: Keeper,
        history: Any,
        started: Callable[[Any, tuple[int, int], Any], Started],
        *,
        agrees_each_step: bool = False,
    ) -> None:
        super().__init__()
        self.control, self.strategy, self.data = control, strategy, data
        self.keeper, self.history = keeper, history
        self.callback = framework.of_model(model).callback(self)
        self._trained, self._started = model, started
        self._unkept = Unkept(model)
        self._agrees_each_step = agrees_each_step
        self._chief = control.job.chief
        self._first_epoch = 0
        self._epoch = 0
        self._done_epochs = 0
        self._compared = self._tested = False
        self._step = 0
        self._total_steps = 0
        self._told = 0.0
        self._epoch_began = 0.0
        self._rate_from = (0.0, 0)
        self._rate: float | None = None

    def first_epoch(self, asked: int) -> int:
        """Return the epoch that `fit` is to begin with."""
        self._first_epoch = self.keeper.resume.epoch if self.keeper.resume else asked
        self._done_epochs = self._first_epoch
        return self._first_epoch

    @property
    def place(self) -> tuple[int, int]:
        """Epochs done, and steps done in the one that was broken off."""
        return self._done_epochs, self._step if self._done_epochs <= self._epoch else 0

    # -- what Keras calls -------------------------------------------------------------------

    def on_train_begin(self, logs: Any = None) -> None:
        """Restore the state: model and optimizer are built by now, and callbacks have begun."""
        self.keeper.restore()
        if self._chief:
            first = self._first_epoch, self.keeper.resume.step if self.keeper.resume else 0
            self.control.say(self._started(self._trained, first, self.data))
            self._warn(self._unkept.begins())
            self._try_model()
        self.control.phase("training")

    def _try_model(self) -> None:
        """Warn of a model whose examples depend on each other; once in a run."""
        if self.control.job.workers < 2 or self.control.job.generation > 1:
            return
        said = coupling.warning(self._trained, coupling.of_spec(self.data.build))
        if said:
            self.control.say(Warned(code=COUPLED, message=said, worker=0))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begin to count steps."""
        self._epoch, self._step = epoch, 0
        self._compared = self._tested = False
        self._epoch_began = time.monotonic()
        self._rate_from = (self._epoch_began, 0)
        self.keeper.epoch_begins()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Show that the data came."""
        self.control.advance()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Tell progress now and then, keep what there is, and stop where all workers stop."""
        self.control.advance()
        count = batch + 1 - self._step
        self._total_steps += count
        self._step = batch + 1
        self.control.trained(count * (self.data.batch or 0) / self.control.job.workers)
        if self._chief:
            self._tell_progress(logs)
        if not self._compared:
            same_data.check_first(self.keeper.feed.watch(), "dataset", self.strategy)
            self._compared = True
        if self._chief and self._total_steps == count:
            self._warn(self._unkept.after_first_step())
        if self._agrees_each_step:
            self._agree_to_stop()
        is_last = self._step == self._steps or self._trained.stop_training
        self.keeper.after_steps(count, self._epoch, self._step, is_last=is_last)
        if self.control.stops_after(self._total_steps):
            raise Stopped

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Tell that validation gets on."""
        self.control.advance()
        if not self._tested:
            watch = self.keeper.feed.watch(validation=True)
            same_data.check_first(watch, "validation", self.strategy)
        self._tested = True
        now = time.monotonic()
        if self._chief and now - self._told > PROGRESS_S:
            self._told = now
            self.control.say(Progress(epoch=self._epoch, step=self._step, validating=True))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Have the workers compare notes, then tell and keep what the epoch gave."""
        self.control.advance()
        if not self._trained.stop_training:
            same_data.check_count(self.keeper.feed.watch(), "dataset", self.strategy)
        self._agree_to_stop()
        digest = keras_mwms.check_replicas(self._trained, self.strategy)
        self._done_epochs = epoch + 1
        if self._chief:
            self._warn(self._unkept.after_epoch())
            self.control.say(
                EpochEnd(
                    epoch=epoch,
                    steps=self._step,
                    logs=_numbers(logs),
                    seconds=time.monotonic() - self._epoch_began,
                    digest=digest,
                )
            )
        self.keeper.after_epoch(self._done_epochs)

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
                steps=self._steps,
                logs=_numbers(logs),
                examples_per_s=self._rate,
            )
        )

    @property
    def _steps(self) -> int | None:
        """The steps of an epoch, where they are known."""
        steps: int | None = self.params.get("steps") or self.data.steps
        return steps

    def _warn(self, warnings: Iterable[tuple[str, str]]) -> None:
        for code, message in dict.fromkeys(warnings):
            self.control.say(Warned(code=code, message=message, worker=0))

    def _agree_to_stop(self) -> None:
        """Stop all workers where a callback stopped one of them."""
        wishes = keras_mwms.agree([float(self._trained.stop_training)], "max", self.strategy)
        if bool(wishes[0]) != bool(self._trained.stop_training):
            self._trained.stop_training = True
            message = "a callback stopped the training on one worker only; all stop with it"
            self.control.say(
                Warned(code="stopped-on-one", message=message, worker=self.control.job.worker)
            )


def _numbers(logs: Any) -> dict[str, float]:
    """Return the logs that are numbers; a metric may give one for each class."""
    return {k: float(np.ravel(v)[0]) for k, v in (logs or {}).items() if np.size(v) == 1}
