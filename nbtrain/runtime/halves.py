"""Whether the examples of a batch count one by one in a `train_step` of the user's own.

Workers train on parts of a batch, and what is put together is the mean of their gradients. For a
loss of Keras, compiled or called as an object, nbtrain sees to it that this is right. For one that
is written out in `train_step` it is right if the loss is a mean over the examples, which can't be
read off the code, but tried.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

from . import framework
from .data import Data

MESSAGE = (
    "train_step: the gradient of a batch is not the mean of those of its halves, so several workers"
    " will not give what one process gives. It is if the loss is a mean over the examples, each of"
    " them by itself; a loss in which they depend on each other, or a sum, has to be computed by"
    " Keras: give it to compile() and call self.compute_loss(...)"
)
#: Rounding makes less of a difference, as a part of the largest gradient.
TOLERANCE = 1e-3
#: Models with more weights are passed over: the gradients are kept five times.
LARGEST = 20_000_000


def is_coupled(model: Any, data: Data, strategy: tf.distribute.Strategy) -> bool:
    """Tell whether the step's gradient of a batch is known not to be the mean of its halves'.

    The model is trained on, and its metrics count; this is for a rehearsal. Nothing is known of a
    model of tf_keras.
    """
    if not isinstance(model, keras.Model) or type(model).train_step is keras.Model.train_step:
        return False
    if _is_joined(model):
        return False
    batch = first_batch(data)
    leaves = [leaf for leaf in keras.tree.flatten(batch) if leaf is not None]
    if not all(isinstance(leaf, tf.Tensor) and leaf.shape.rank for leaf in leaves):
        return False
    half = min(leaf.shape[0] for leaf in leaves) // 2
    if half == 0:
        return False
    try:
        return _differ(model, batch, half, strategy)
    except Exception:  # of a step that has just been trained in a graph, and can't be run without
        return False


def _differ(model: keras.Model, batch: Any, half: int, strategy: tf.distribute.Strategy) -> bool:
    with _losses_of_keras() as used:
        parts = [slice(0, 2 * half), slice(0, 2 * half), slice(0, half), slice(half, 2 * half)]
        whole, again, *halves = (_gradients(model, _rows(batch, p), strategy) for p in parts)
    if used or not _alike(whole, again):  # one that draws numbers can't be compared
        return False
    return not _alike(whole, [(a + b) / 2 for a, b in zip(*halves, strict=True)])


def _is_joined(model: keras.Model) -> bool:
    """Tell whether a model can't be compared.

    Some layers see all examples, and nbtrain takes care of those of Keras; float16 rounds too much.
    """
    joined = any(isinstance(m, keras.layers.BatchNormalization) for m in model._flatten_layers())
    return joined or "float16" in str(model.compute_dtype) or model.count_params() > LARGEST


def inputs(data: Data) -> Any:
    """Return the inputs of the first batch."""
    batch = first_batch(data)
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def first_batch(data: Data) -> Any:
    """Return the first batch as `train_step` gets it."""
    source = data.arguments["x"]
    if isinstance(source, tf.data.Dataset):
        return next(iter(source))
    parts = (data.arguments.get(name) for name in ("x", "y", "sample_weight"))
    return keras.tree.map_structure(_tensor, keras.utils.pack_x_y_sample_weight(*parts))


def _tensor(value: Any) -> Any:
    """Return an array as a tensor: of floats in Keras' type, as `fit` does."""
    if value is None:
        return None
    found = tf.convert_to_tensor(value)
    return tf.cast(found, keras.config.floatx()) if found.dtype.is_floating else found


def _rows(batch: Any, part: slice) -> Any:
    return keras.tree.map_structure(lambda leaf: None if leaf is None else leaf[part], batch)


def _gradients(model: keras.Model, batch: Any, strategy: tf.distribute.Strategy) -> list[Any]:
    """Return what a step hands to the model's optimizers, which do not apply it."""
    found: list[Any] = []

    def take(_optimizer: Any, grads: Any, trainable_variables: Any = None) -> None:
        found.extend(np.asarray(tf.convert_to_tensor(g)) for g in grads if g is not None)

    with contextlib.ExitStack() as stack:
        stack.enter_context(strategy.scope())
        for kind in {type(one) for one in framework.optimizers(model).values()}:
            stack.enter_context(mock.patch.object(kind, "apply", take))
        strategy.run(model.train_step, args=(batch,))
    return found


@contextlib.contextmanager
def _losses_of_keras() -> Iterator[list[str]]:
    """Give a list of what Keras computed meanwhile: of that nbtrain takes care."""
    used: list[str] = []

    def noted(function: Any) -> Any:
        def called(self: Any, *arguments: Any, **options: Any) -> Any:
            used.append(function.__qualname__)
            return function(self, *arguments, **options)

        return called

    loss, model = keras.losses.Loss, keras.Model
    with (
        mock.patch.object(loss, "__call__", noted(loss.__call__)),
        mock.patch.object(model, "compute_loss", noted(model.compute_loss)),
    ):
        yield used


def _alike(some: list[Any], others: list[Any]) -> bool:
    if len(some) != len(others):
        return False
    largest = max((float(np.max(np.abs(g))) for g in some if g.size), default=0.0)
    pairs = zip(some, others, strict=True)
    return all(np.allclose(a, b, rtol=0, atol=TOLERANCE * largest) for a, b in pairs)
