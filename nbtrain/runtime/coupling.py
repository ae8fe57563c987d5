"""Models in which the examples of a batch depend on each other, before the loss.

Workers compute on parts of a batch. A layer that takes the mean of the batch, or an `add_loss` of
its variance, gives other numbers on a part, and nothing would say so. It is found out by trying: a
model that has code of the user's own is called on a few made-up examples, whole and in two halves.
What is Keras' own treats each example by itself (BatchNormalization, which does not, gets the
moments of all workers), so a model of nothing else is not tried.
"""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from keras.src.ops.operation import Operation
from tensorflow.python.eager import context

from . import framework, keras_step
from .keras_checks import draws

#: Rows of a half: two, since a mean over one row might be taken for a row.
_HALF = 2
#: Rounding makes less of a difference, as a part of the largest value; each row is computed by
#: itself, and a loss is a mean of few.
_OF_ROWS, _OF_LOSSES = 1e-3, 1e-4
#: Models with more weights are passed over: a call of them takes seconds.
LARGEST = 20_000_000
#: What an open dimension is taken to be: that of images, and any other.
_OPEN = {4: 32}
_OPEN_ELSE = 8

_MESSAGE = (
    "{}: what it gives for an example depends on the other examples of the batch, and a worker sees"
    " those of its part only, so several workers will not give what one process gives. Compute it"
    " from each example by itself, or in the loss that compile() gets, which nbtrain computes from"
    " all workers' outputs; or train with --workers 1"
)
_MESSAGE_OF_LOSS = (
    "{}: the loss that it adds (add_loss, activity_regularizer) is not the mean of those of the"
    " halves of a batch, so several workers will not give what one process gives. Add a mean over"
    " the examples, each of them by itself; or train with --workers 1"
)


@dataclass
class _Called:
    """What a model gave for some rows.

    Attributes
    ----------
    outputs
        Those of the model.
    parts
        Layers and operations in the order in which they were done: name, inputs and outputs.
    losses
        The sums of the losses that were added, each with the name of its layer.
    state
        What variables would have been set to (Keras 3).
    """

    outputs: list[Any]
    parts: list[tuple[str, list[Any], list[Any]]]
    losses: list[tuple[str, float]]
    state: dict[int, Any]


def warning(model: Any, x: Any) -> str | None:
    """Return what to tell of a model whose examples depend on each other; "" if they don't.

    None if that is not known. The model and all random numbers are afterwards as they were.

    Parameters
    ----------
    x
        A function that returns the inputs of a batch; or their structure as JSON values
        (`Data.build`), for which values are made up.
    """
    try:
        if not model.built or not _has_own(model):
            return ""
        if _is_excluded(model):
            return None
        rows = _few(x() if callable(x) else x)
        for training in _modes(model):
            found = _tried(model, rows, training=training)
            if found is not None:
                return found
    except Exception:  # of code that may be right in a graph, or with other values
        return None
    return None


def of_spec(spec: Any) -> Any:
    """Return the inputs in the structure of a batch."""
    return spec[0] if isinstance(spec, list) and spec else spec


# -- which models ---------------------------------------------------------------------------------


def _has_own(model: Any) -> bool:
    """Tell whether there is anything in a model that may look at several examples."""
    layers = list(model._flatten_layers())
    return any(map(_is_own, layers)) or any(
        not isinstance(o, keras.layers.Layer) for m in layers for o in getattr(m, "operations", ())
    )


def _is_own(layer: Any) -> bool:
    return (
        not _is_stock(type(layer))
        or type(layer).__name__ in ("Lambda", "TFOpLambda", "SlicingOpLambda")
        or not _is_stock(getattr(layer, "activity_regularizer", None) or keras.Layer)
        # Functions that a layer is given, as `activation` is.
        or any(callable(v) and not _is_stock(v) for v in _given(layer))
    )


def _given(layer: Any) -> Iterator[Any]:
    yield from (getattr(layer, name, None) for name in ("activation", "recurrent_activation"))


def _is_stock(thing: Any) -> bool:
    if not hasattr(thing, "__qualname__"):  # an object
        thing = type(thing)
    module = getattr(thing, "__module__", None) or ""
    return thing is type(None) or module.startswith(("keras.", "tf_keras.", "tensorflow."))


def _is_excluded(model: Any) -> bool:
    """Tell whether a model can't be tried.

    float16 and bfloat16 round too much. What a layer keeps outside of Keras' variables would be
    changed by the trial; in tf_keras, that is all that a layer keeps.
    """
    layers = list(model._flatten_layers())
    if model.count_params() > LARGEST:
        return True
    if any(getattr(m, "compute_dtype", None) in ("float16", "bfloat16") for m in layers):
        return True
    if not isinstance(model, keras.Model):
        return any(
            m._metrics or (not _is_stock(type(m)) and m._non_trainable_weights) for m in layers
        )
    kept = (value for m in layers if not _is_stock(type(m)) for value in vars(m).values())
    return any(isinstance(v, (tf.Variable, tf.random.Generator)) for v in kept)


def _modes(model: Any) -> tuple[bool, ...]:
    """Return with what `training` to try, until something is known.

    What draws numbers can't be compared, and nbtrain takes care of BatchNormalization; neither does
    anything where it is not trained.
    """
    if not isinstance(model, keras.Model):
        return (False,)
    layers = list(model._flatten_layers())
    joined = any(isinstance(m, keras.layers.BatchNormalization) or draws(m) for m in layers)
    return (False,) if joined else (True, False)


# -- trying ---------------------------------------------------------------------------------------


def _tried(model: Any, rows: Any, *, training: bool) -> str | None:
    first, second = slice(0, _HALF), slice(_HALF, 2 * _HALF)
    with _undone():
        whole = _call(model, rows, training)
        again = _call(model, rows, training, whole.state)  # with the next numbers, if it draws any
        a, b = (_call(model, _cut(rows, part), training) for part in (first, second))
    if not (_same_rows(whole.outputs, again.outputs) and _same_losses(whole, again, again) == ""):
        return None  # it draws numbers, or they are none
    if _differ(whole.outputs, a.outputs, b.outputs):
        return _MESSAGE.format(_culprit(whole, a, b) or _name(model))
    found = _same_losses(whole, a, b)
    return found and _MESSAGE_OF_LOSS.format(found)


def _same_losses(whole: _Called, a: _Called, b: _Called) -> str | None:
    """Return the name of what adds a loss that is not the mean of its halves'; "" if there is none.

    None if they can't be compared.
    """
    if not len(whole.losses) == len(a.losses) == len(b.losses):
        return None
    for (name, value), (_, one), (_, other) in zip(whole.losses, a.losses, b.losses, strict=True):
        if not np.isfinite(value):
            return None
        if abs((one + other) / 2 - value) > _OF_LOSSES * abs(value):
            return name
    return ""


def _same_rows(some: list[Any], others: list[Any]) -> bool:
    pairs = zip(some, others, strict=True)
    return all(np.isfinite(v).all() and _close(v, w) for v, w in pairs)


def _differ(whole: list[Any], a: list[Any], b: list[Any]) -> bool:
    """Tell whether an output that has a row for each example has others for the halves."""
    return any(
        v.ndim
        and len(v) == 2 * _HALF
        and len(one) == len(other) == _HALF
        and (one.shape[1:] != v.shape[1:] or not _close(v, np.concatenate([one, other])))
        for v, one, other in zip(whole, a, b, strict=True)
    )


def _culprit(whole: _Called, a: _Called, b: _Called) -> str:
    """Return the name of the first part that gives other rows for the same ones."""
    if not len(whole.parts) == len(a.parts) == len(b.parts):
        return ""
    for (name, *of_whole), (_, *of_a), (_, *of_b) in zip(
        whole.parts, a.parts, b.parts, strict=True
    ):
        inputs, outputs = map(_differ, of_whole, of_a, of_b)
        if outputs and not inputs:
            return name
    return ""


def _close(value: Any, other: Any) -> bool:
    largest = float(np.abs(value).max(initial=0.0))
    return bool(np.abs(value - other).max(initial=0.0) <= _OF_ROWS * largest)


def _call(model: Any, rows: Any, training: bool, state: dict[int, Any] | None = None) -> _Called:
    parts: list[tuple[str, list[Any], list[Any]]] = []

    def noting(original: Callable[..., Any]) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            outputs = original(self, *args, **kwargs)
            parts.append((_name(self), _arrays((args, kwargs)), _arrays(outputs)))
            return outputs

        return call

    scope = keras.StatelessScope(collect_losses=True)  # of Keras 3: variables stay as they are
    scope.state_mapping.update(state or {})
    is_keras_3 = isinstance(model, keras.Model)
    owner = Operation if is_keras_3 else framework.imported_tf_keras().layers.Layer
    with mock.patch.object(owner, "__call__", noting(owner.__call__)), scope:
        given = {"training": training} if _takes_training(model) else {}
        outputs = _arrays(model(rows, **given))
        losses = list(_losses(model))
        model._clear_losses()
    return _Called(outputs, parts, losses, scope.state_mapping)


def _takes_training(model: Any) -> bool:
    return bool(getattr(model, "_call_has_training_arg", True))


def _name(part: Any) -> str:
    kind = type(part).__name__
    return kind if kind == "Sequential" else f"{kind} {part.name!r}"


def _losses(model: Any) -> Iterator[tuple[str, float]]:
    for layer in model._flatten_layers():
        own = layer._get_own_losses() if isinstance(model, keras.Model) else layer._eager_losses
        for loss in own:
            yield _name(layer), float(np.sum(np.asarray(loss, "float64")))


def _arrays(structure: Any) -> list[Any]:
    return [
        np.asarray(leaf, "float64")
        for leaf in tf.nest.flatten(structure)
        if isinstance(leaf, tf.Tensor) and (leaf.dtype.is_floating or leaf.dtype.is_integer)
    ]


@contextlib.contextmanager
def _undone() -> Iterator[None]:
    """Set random numbers back to where they were; compute in full precision meanwhile.

    TensorFloat-32 of a GPU rounds a product as other shapes do not.
    """
    eager = getattr(context.context(), "_rng", None)
    states = random.getstate(), np.random.get_state(), eager and eager.getstate()
    is_rounded = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        with keras_step.entered(None), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(is_rounded)
        random.setstate(states[0])
        np.random.set_state(states[1])
        if eager:
            eager.setstate(states[2])


# -- examples -------------------------------------------------------------------------------------


def _few(x: Any) -> Any:
    """Return rows for two halves."""
    if isinstance(x, dict) and set(x) == {"shape", "dtype"}:
        return _made_up(x["shape"], x["dtype"])
    if isinstance(x, dict):
        return {name: _few(value) for name, value in x.items()}
    if isinstance(x, (list, tuple)):
        return type(x)(_few(value) for value in x)
    if x.shape[0] < 2 * _HALF:
        raise ValueError("too few examples")
    return x[: 2 * _HALF]


def _made_up(shape: list[int | None], dtype: str) -> Any:
    """Return values that floats, images, tokens and flags may have; those of the rows differ."""
    rng = np.random.default_rng(len(shape))
    open_ = _OPEN.get(len(shape), _OPEN_ELSE)
    size = [2 * _HALF, *(open_ if d is None else d for d in shape[1:])]
    kind = tf.as_dtype(dtype)
    if kind.is_floating:
        level = np.linspace(1.0, 0.2, 2 * _HALF).reshape([-1] + [1] * (len(size) - 1))
        return tf.constant(rng.uniform(0.05, 0.95, size) * level, kind)
    if kind.is_integer or kind.is_bool:
        return tf.constant(rng.integers(0, 2, size).astype(kind.as_numpy_dtype))
    raise ValueError(f"no values are made up for {dtype}")


def _cut(rows: Any, part: slice) -> Any:
    return tf.nest.map_structure(lambda v: v[part], rows)
