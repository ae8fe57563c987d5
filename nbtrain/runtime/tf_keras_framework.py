"""tf_keras (Keras 2) as the rest of the runtime sees it; imported only for a model of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import tensorflow as tf
import tf_keras
from tf_keras.src.optimizers.legacy.optimizer_v2 import OptimizerV2
from tf_keras.src.optimizers.optimizer import Optimizer

from . import tf_keras_checks, tf_keras_mwms
from .attributes import Held, held
from .framework import Named


class TfKeras:
    """tf_keras, with what `tf_keras_mwms` changes."""

    callbacks = tf_keras.callbacks
    # `evaluate` makes a new iterator each time (`DataHandler.enumerate_epochs`).
    continues_generators = False

    def install(self) -> None:
        """Apply what nbtrain changes; before `fit`, once `model()` has returned."""
        tf_keras_checks.check_versions()
        tf_keras_mwms.install()

    def is_compiled(self, model: tf_keras.Model) -> bool:
        """Tell whether `compile` was called."""
        return bool(model._is_compiled)

    def check_compiled(
        self, model: tf_keras.Model, strategy: tf.distribute.Strategy, workers: int
    ) -> list[tuple[str, str]]:
        """Refuse by name what would not be right; return warnings as (code, message)."""
        self.variables(model)
        if model.compiled_loss is not None and model.compiled_loss.built:
            tf_keras_mwms.prepare_losses(model.compiled_loss)
        return tf_keras_checks.check_compiled(model, strategy) if workers > 1 else []

    def feed(self, model: tf_keras.Model, done: int) -> tf_keras_mwms.Feed:
        """Return the data of the `fit` that begins next, of which `done` epochs are done."""
        return tf_keras_mwms.Feed(model, done)

    def callback(self, reporter: Any) -> Any:
        """Return a callback of tf_keras that hands everything to the reporter."""
        return _Callback(reporter)

    def variables(self, model: tf_keras.Model) -> list[Named]:
        """Return the variables of a model, without those of optimizers and metrics."""
        metrics = {id(v) for v in self.metric_variables(model)}
        found = [v for v in model.variables if id(v) not in metrics]
        for variable in found:
            tf_keras_mwms.read_first_replica(variable)
        return [(v.name, v) for v in found]

    def held(self, model: tf_keras.Model) -> Held:
        """Return what a model holds, by path."""
        return held(model, (Optimizer, OptimizerV2), (tf_keras.metrics.Metric,))

    def global_seeds(self) -> list[Named]:
        """Return nothing: tf_keras draws by generators of the layers."""
        return []

    def metric_variables(self, model: tf_keras.Model) -> list[Any]:
        """Return the variables of a model's metrics."""
        return [v for m in tf_keras_mwms.metrics_of(model) for v in m.variables]

    def optimizer_variables(self, optimizer: Any) -> list[Named]:
        """Return all that an optimizer remembers, learning rate and loss scale included."""
        return [(v.name, v) for v in _optimizer_variables(optimizer)]

    def build(self, model: tf_keras.Model, spec: Any, saved: Collection[str]) -> None:
        """Build a model from the structure of a batch, and its optimizer if it was in use."""
        if not model.built and spec is not None:
            inputs = _structure(spec[0] if isinstance(spec, list) else spec)
            tf.function(lambda x: model(x, training=False)).get_concrete_function(inputs)
        optimizer = model.optimizer
        last = f"optimizer/{len(list(_optimizer_variables(optimizer)))}" if optimizer else ""
        if last not in saved:
            return
        if isinstance(_inner(optimizer), OptimizerV2):
            optimizer._create_all_weights(model.trainable_variables)
        else:
            optimizer.build(model.trainable_variables)

    def built_for(self, optimizer: Any) -> list[Any]:
        """Return nothing: `Feed.build` makes all variables that a step makes."""
        del optimizer
        return []

    def build_for(self, optimizer: Any, variables: list[Any]) -> None:
        """Do nothing."""

    def save(self, model: tf_keras.Model, path: str) -> None:
        """Write a trained model as a `.keras` file, on worker 0 alone.

        Its metrics are written as well, which else are read with a collective.
        """
        for metric in tf_keras_mwms.metrics_of(model):
            for variable in metric.variables:
                tf_keras_mwms.read_first_replica(variable)
        model.save(path)


TF_KERAS = TfKeras()


class _Callback(tf_keras.callbacks.Callback):
    """Hands to the reporter, a callback of Keras 3, what tf_keras calls."""

    def __init__(self, reporter: Any) -> None:
        super().__init__()
        self._reporter = reporter
        self._supports_tf_logs = True  # numbers are looked at now and then only

    def set_params(self, params: Any) -> None:
        self._reporter.set_params(params)

    def on_train_begin(self, logs: Any = None) -> None:
        self._reporter.on_train_begin(logs)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._reporter.on_epoch_begin(epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._reporter.on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._reporter.on_train_batch_end(batch, logs)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self._reporter.on_test_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._reporter.on_epoch_end(epoch, logs)


def _inner(optimizer: Any) -> Any:
    """Return the optimizer in a LossScaleOptimizer, or the optimizer itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def _optimizer_variables(optimizer: Any) -> Iterator[Any]:
    inner = _inner(optimizer)
    if isinstance(inner, OptimizerV2):
        yield from inner.weights
        rate = inner._hyper.get("learning_rate")
    else:
        yield from inner.variables
        rate = inner._learning_rate
    if isinstance(rate, tf.Variable):
        yield rate
    if inner is not optimizer and optimizer.dynamic:
        yield optimizer._loss_scale.current_loss_scale
        yield optimizer._loss_scale.counter


def _structure(spec: Any) -> Any:
    if isinstance(spec, dict) and set(spec) == {"shape", "dtype"}:
        return tf.TensorSpec(spec["shape"], spec["dtype"])
    if isinstance(spec, dict):
        return {k: _structure(v) for k, v in spec.items()}
    return tuple(_structure(v) for v in spec)
