"""The metrics of an epoch that is under way, for checkpoints between its steps.

A metric's variables are each worker's own, of its shard; what an epoch's value is made of is their
sum. A checkpoint has the values of all workers, so that each goes on with its own, bit for bit.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from . import keras_whole
from .replicas import gathered

Array = np.ndarray[Any, Any]


def gather(model: keras.Model, strategy: tf.distribute.Strategy) -> dict[str, Array]:
    """Return the values of all workers, "metric/0", ...: [workers, ...] each; a collective."""
    variables = model.metrics_variables
    if not variables:
        return {}
    own = [np.asarray(_local(variable, strategy)) for variable in variables]
    # float32 and counts are exact in a float64.
    rows = gathered(np.concatenate([v.astype("float64").ravel() for v in own]), strategy)
    ends = np.cumsum([v.size for v in own])[:-1]
    parts = np.split(rows, ends, axis=1)
    return {
        f"metric/{i}": part.reshape(len(rows), *value.shape).astype(value.dtype)
        for i, (part, value) in enumerate(zip(parts, own, strict=True))
    }


def restore(
    model: keras.Model, strategy: tf.distribute.Strategy, saved: dict[str, Array], index: int
) -> None:
    """Give worker `index` its values back.

    Where the number of workers is another one than when they were saved, worker 0 gets the sum and
    the others nothing.
    """
    whole = {
        id(variable)
        for metric in keras_whole.leaf_metrics(model)
        if keras_whole.is_whole(metric)
        for variable in metric.variables
    }
    for i, variable in enumerate(model.metrics_variables):
        rows = saved.get(f"metric/{i}")
        if rows is None:
            continue
        if len(rows) == strategy.num_replicas_in_sync:
            value = rows[index]
        elif id(variable) in whole:
            value = rows[0]
        else:
            value = rows.sum(axis=0) if index == 0 else np.zeros_like(rows[0])
        _local(variable, strategy).assign(value)


def _local(variable: keras.Variable, strategy: tf.distribute.Strategy) -> Any:
    """Return this worker's part of a variable, which is read and assigned with no collective."""
    return strategy.experimental_local_results(variable._value)[0]
