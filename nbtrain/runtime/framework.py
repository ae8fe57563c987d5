"""Keras 3 or tf_keras (Keras 2): what the rest of the runtime has to know of the difference.

Which of them a run uses is told by what `model()` returned. tf_keras is optional: it is never
imported here, since whoever has a model of it has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from typing import Any, Protocol

import keras
import tensorflow as tf
from tensorflow.python.distribute.values import SyncOnReadVariable

from .attributes import Held, held
from .watch import Watch

#: Name of a variable in messages, and the variable.
Named = tuple[str, Any]


class Feed(Protocol):
    """What the next `fit` of a model reads."""

    def build(self) -> None:
        """Make all variables, where `fit` would make them only in its first step."""

    def replay(self, advance: Callable[[], None]) -> None:
        """Bring the data to where it was after the epochs that are done."""

    def why_not_by_step(self) -> str:
        """Return why it can't be gone on with in the middle of an epoch; "" if it can."""

    def skip(self, steps: int, advance: Callable[[], None]) -> None:
        """Have the next epoch begin after `steps` steps."""

    def watch(self, *, validation: bool = False) -> Watch | None:
        """Return what was seen of the data, where that is watched."""


class Framework(Protocol):
    """A Keras.

    Attributes
    ----------
    callbacks
        Its module of callbacks.
    continues_generators
        Whether a generator of validation data goes on, from one validation to the next, where it
        was left; else at a place that depends on how far it was read ahead.
    """

    callbacks: Any
    continues_generators: bool

    def install(self) -> None:
        """Apply what nbtrain changes; before `fit`, once `model()` has returned."""

    def is_compiled(self, model: Any) -> bool:
        """Tell whether `compile` was called."""

    def check_compiled(
        self, model: Any, strategy: tf.distribute.Strategy, workers: int
    ) -> list[tuple[str, str]]:
        """Refuse by name what would not be right with so many workers.

        Returns warnings as (code, message).
        """

    def feed(self, model: Any, done: int) -> Feed:
        """Return the data of the `fit` that begins next, of which `done` epochs are done."""

    def callback(self, reporter: Any) -> Any:
        """Return a callback of this Keras that does what `reporter` does."""

    def variables(self, model: Any) -> list[Named]:
        """Return the variables of a model, without those of optimizers and metrics."""

    def held(self, model: Any) -> Held:
        """Return what a model holds, by path: optimizers and variables, those of Keras included."""

    def global_seeds(self) -> list[Named]:
        """Return the state of what draws without a seed; in trainers alone."""

    def metric_variables(self, model: Any) -> list[Any]:
        """Return the variables of a model's metrics."""

    def optimizer_variables(self, optimizer: Any) -> list[Named]:
        """Return all that an optimizer remembers."""

    def build(self, model: Any, spec: Any, saved: Collection[str]) -> None:
        """Build a model from the structure of a batch (`Data.build`), and its optimizer.

        `saved` are the keys of what is to be restored.
        """

    def built_for(self, optimizer: Any) -> list[Any]:
        """Return the variables that an optimizer was built for, if `build_for` needs them."""

    def build_for(self, optimizer: Any, variables: list[Any]) -> None:
        """Build an optimizer that is not yet, for these variables."""

    def save(self, model: Any, path: str) -> None:
        """Write a trained model as a `.keras` file, on worker 0 alone."""


class Keras3:
    """Keras 3, with what `keras_mwms` changes."""

    callbacks = keras.callbacks
    continues_generators = True

    def install(self) -> None:
        """Do nothing: `fit.train` has done it before `model()`."""

    def is_compiled(self, model: keras.Model) -> bool:
        """Tell whether `compile` was called."""
        return bool(model.compiled)

    def check_compiled(
        self, model: keras.Model, strategy: tf.distribute.Strategy, workers: int
    ) -> list[tuple[str, str]]:
        """Refuse by name what would not be right; return warnings as (code, message)."""
        from . import keras_mwms

        return keras_mwms.check_compiled(model, strategy) if workers > 1 else []

    def feed(self, model: keras.Model, done: int) -> Feed:
        """Return the data of the `fit` that begins next."""
        return _Keras3Feed(model, done)

    def callback(self, reporter: Any) -> Any:
        """Return the reporter, which is a callback of Keras 3."""
        return reporter

    def variables(self, model: keras.Model) -> list[Named]:
        """Return the variables of a model, the states of its random layers included."""
        return [(v.path, v) for v in model.variables]

    def held(self, model: keras.Model) -> Held:
        """Return what a model holds, by path."""
        return held(model, (keras.optimizers.Optimizer,), (keras.metrics.Metric,))

    def global_seeds(self) -> list[Named]:
        """Return the state of the generator of draws without a seed, once there is one."""
        from . import keras_mwms

        return [("the global seed of keras.random", v) for v in keras_mwms.global_seeds()]

    def metric_variables(self, model: keras.Model) -> list[Any]:
        """Return the variables of a model's metrics."""
        return list(model.metrics_variables)

    def optimizer_variables(self, optimizer: keras.optimizers.Optimizer) -> list[Named]:
        """Return all that an optimizer remembers."""
        return [(v.path, v) for v in optimizer.variables]

    def build(self, model: keras.Model, spec: Any, saved: Collection[str]) -> None:
        """Build a model from the structure of a batch, and its optimizer."""
        del saved
        if not model.built and spec is not None:
            from . import keras_mwms

            keras_mwms.build_from_spec(model, spec)
        optimizer = model.optimizer
        if optimizer is not None and not optimizer.built:
            optimizer.build(model.trainable_variables)

    def built_for(self, optimizer: keras.optimizers.Optimizer) -> list[Any]:
        """Return the variables that an optimizer was built for; none where it is not."""
        return list(optimizer._trainable_variables) if optimizer.built else []

    def build_for(self, optimizer: keras.optimizers.Optimizer, variables: list[Any]) -> None:
        """Build an optimizer that is not yet, for these variables."""
        if not optimizer.built:
            optimizer.build(variables)

    def save(self, model: keras.Model, path: str) -> None:
        """Write a trained model as a `.keras` file."""
        model.save(path)


class _Keras3Feed:
    def __init__(self, model: keras.Model, done: int) -> None:
        from . import replay

        self._model, self._done = model, done
        self._iterator = replay.remember(model)

    def build(self) -> None:
        """Do nothing: Keras 3 builds before the callbacks begin."""

    def replay(self, advance: Callable[[], None]) -> None:
        """Bring the data to where it was after the epochs that are done."""
        from . import replay

        replay.replay(self._iterator(), self._done, self._model.steps_per_execution, advance)

    def why_not_by_step(self) -> str:
        """Return why it can't be gone on with in the middle of an epoch; "" if it can."""
        from . import replay

        return replay.why_not_by_step(self._iterator())

    def skip(self, steps: int, advance: Callable[[], None]) -> None:
        """Have the next epoch begin after `steps` steps."""
        from . import replay

        replay.skip(self._iterator(), steps, self._model.steps_per_execution, advance)

    def watch(self, *, validation: bool = False) -> Watch | None:
        """Return what was seen of the data, where that is watched."""
        iterator = self._model._eval_epoch_iterator if validation else self._iterator()
        found: Watch | None = iterator._nbtrain_watch
        return found


KERAS_3 = Keras3()


def of(model: Any) -> Framework | None:
    """Return the framework of a model, or None where it is no model of Keras."""
    if isinstance(model, keras.Model):
        return KERAS_3
    tf_keras = imported_tf_keras()
    if tf_keras is not None and isinstance(model, tf_keras.Model):
        from .tf_keras_framework import TF_KERAS

        return TF_KERAS
    return None


def of_model(model: Any) -> Framework:
    """Return the framework of what is known to be a model."""
    found = of(model)
    assert found is not None
    return found


def imported_tf_keras() -> Any:
    """Return the module tf_keras where somebody has imported it, else None."""
    found = sys.modules.get("tf_keras")
    return found if hasattr(found, "Model") else None  # not while it is being imported


def is_sequence(value: Any) -> bool:
    """Tell whether data are a `tf_keras.utils.Sequence`."""
    tf_keras = imported_tf_keras()
    return tf_keras is not None and isinstance(value, tf_keras.utils.Sequence)


def set_random_seed(seed: int) -> None:
    """Seed Python, NumPy, TensorFlow and the Keras in use.

    A tf_keras that is imported only later draws from Python's `random`, which gives the same.
    """
    keras.utils.set_random_seed(seed)
    tf_keras = imported_tf_keras()
    if tf_keras is not None:
        tf_keras.utils.set_random_seed(seed)


def optimizers(model: Any) -> dict[str, Any]:
    """Return the optimizer of `compile` ("optimizer") and those that a custom model holds."""
    return _optimizers(model, of_model(model).held(model))


def _optimizers(model: Any, all_held: Held) -> dict[str, Any]:
    found = {} if model.optimizer is None else {"optimizer": model.optimizer}
    for path, optimizer in all_held.optimizers.items():
        if optimizer is not model.optimizer:
            found[f"optimizer.{path}"] = optimizer
    return found


def named_variables(model: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield key ("model/0", "optimizer/0", ...), name and variable of all that is trained.

    After those that Keras lists: "own/PATH" are others that the model holds, as a `tf.Variable`;
    "seed/0" is what draws without a seed have come to.
    """
    framework = of_model(model)
    all_held = framework.held(model)
    listed = []
    for i, (name, variable) in enumerate(framework.variables(model)):
        listed.append(variable)
        yield f"model/{i}", name, variable
    for key, optimizer in _optimizers(model, all_held).items():
        for i, (name, variable) in enumerate(framework.optimizer_variables(optimizer)):
            listed.append(variable)
            yield f"{key}/{i}", name, variable
    known = identities([*listed, *framework.metric_variables(model)])
    for path, variable in all_held.variables.items():
        if known.isdisjoint(identities([variable])) and why_not_kept(variable) == "":
            yield f"own/{path}", path, variable
    for i, (name, variable) in enumerate(framework.global_seeds()):
        yield f"seed/{i}", name, variable


def identities(variables: list[Any]) -> set[int]:
    """Return the identities of variables and of what they are made of: Keras', the strategy's."""
    found = set()
    for variable in variables:
        inside = _inside(variable)
        parts = getattr(inside, "_values", ())
        found |= {id(variable), id(inside), *(id(part) for part in parts)}
    return found


def _inside(variable: Any) -> Any:
    """Return the TensorFlow variable; reading one of TensorFlow's own may take all workers."""
    return variable._value if isinstance(variable, keras.Variable) else variable


def why_not_kept(variable: Any) -> str:
    """Return why a variable that a model holds can't be part of a checkpoint; "" if it can."""
    inside = _inside(variable)
    if isinstance(inside, SyncOnReadVariable):
        return "it has a value of its own on every worker"
    if not (inside.dtype.is_numpy_compatible and inside.dtype != tf.string):
        return f"its values are of type {inside.dtype.name}"
    return ""
