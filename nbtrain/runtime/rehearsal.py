"""A rehearsal: one worker makes what all would make, and trains one step on a few examples.

It finds what is wrong with the user's functions before containers or pods are asked for. Nothing is
kept of it, and callbacks are made but not called: they may write anywhere.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from . import checkpoint, coupling, framework, halves, pipelines
from .data import Data
from .events import COUPLED

if TYPE_CHECKING:
    from .fit import _Training

#: Examples of the step.
FEW = 8
#: Arguments of `fit` that say how much data there is, which a single batch is said to be here.
_EXTENT = (
    *("initial_epoch", "steps_per_epoch", "validation_steps", "validation_freq"),
    *("validation_batch_size",),
)


def rehearse(training: _Training) -> None:
    """Do what the run does until its first step is over, validation included."""
    prepared = training.prepared()
    several = training.job.request.rehearses > 1
    data = few(prepared.data, several=several)
    validation = None
    if prepared.validation is not None:
        validation = few(prepared.validation, several=several)
    arguments = training.arguments(data, validation)
    for name in _EXTENT:
        arguments.pop(name, None)
    if validation is not None:
        arguments |= validation.validation_arguments
    elif "batch_size" in data.arguments and arguments.pop("validation_split", 0):
        arguments |= data.validation_arguments  # a part of the few may be none
    with training.strategy.scope(), pipelines.refusing():
        prepared.model.fit(**{**arguments, "verbose": 0})
        begun = training.resume(prepared.callbacks)
        if begun is not None:
            checkpoint.restore(prepared.model, begun.variables, begun.metadata)
    if several:
        said = _coupled(prepared.model, data, training.strategy)
        training.warn([(COUPLED, said)] if said else [])


def _coupled(model: Any, data: Data, strategy: tf.distribute.Strategy) -> str:
    """Return what to tell of examples that depend on each other; "" if nothing is known of any."""
    said = coupling.warning(model, coupling.of_spec(data.build))
    if said is None:  # made-up values did not do
        said = coupling.warning(model, lambda: halves.inputs(data))
    if said:
        return said
    return halves.MESSAGE if halves.is_coupled(model, data, strategy) else ""


def few(data: Data, *, several: bool = False) -> Data:
    """Return the first examples of the first batch, which `several` workers would share."""
    source = data.arguments["x"]
    if isinstance(source, tf.data.Dataset):
        whole = pipelines.evenly(source) if several else source
        return dataclasses.replace(data, arguments={"x": _few_of_dataset(whole)})
    if isinstance(source, keras.utils.PyDataset) or framework.is_sequence(source):
        return _of_arrays(data, source[0])
    if hasattr(source, "__next__") and not hasattr(source, "shape"):
        return _of_arrays(data, next(source))
    parts = tuple(data.arguments.get(name) for name in ("x", "y", "sample_weight"))
    return _of_arrays(data, parts)


def _few_of_dataset(dataset: tf.data.Dataset) -> tf.data.Dataset:
    def cut(*parts: Any) -> Any:
        whole = parts if isinstance(dataset.element_spec, tuple) else parts[0]
        return tf.nest.map_structure(_first_rows, whole)

    return dataset.take(1).map(cut)


def _first_rows(value: Any) -> Any:
    if isinstance(value, tf.SparseTensor):
        size = tf.concat([[FEW], value.dense_shape[1:]], 0)
        return tf.sparse.slice(value, tf.zeros_like(size), size)
    return value if value.shape.rank == 0 else value[:FEW]


def _of_arrays(data: Data, batch: Any) -> Data:
    parts = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    cut = (keras.tree.map_structure(_first, part) for part in parts)
    arguments = dict(zip(("x", "y", "sample_weight"), cut, strict=False))
    return dataclasses.replace(data, arguments={**arguments, "batch_size": FEW})


def _first(value: Any) -> Any:
    if value is None:
        return None
    return value.iloc[:FEW] if hasattr(value, "iloc") else value[:FEW]
