"""What a training step changes that no checkpoint can hold, said by name.

A run that loses a worker goes on from a checkpoint, and ends as if it had not only if all that a
step changes is in it. What a step uses is seen in its graph, once it has been traced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.distribute.values import SyncOnReadVariable

from . import framework, shard
from .attributes import COUNTERS
from .keras_checks import DRAWN_ANEW, draws_anew

#: Operations that draw from a state which TensorFlow keeps in the process; others are stateless.
_DRAW = {"RandomStandardNormal", "RandomUniform", "RandomUniformInt", "RandomShuffle"}
_DRAW |= {"RandomGamma", "RandomPoisson", "RandomPoissonV2", "TruncatedNormal", "Multinomial"}
_DRAW |= {"ParameterizedTruncatedNormal", "SampleDistortedBoundingBoxV2"}
_LOST = "so a run that loses a worker does not end as if it had not"

Warning_ = tuple[str, str]


class Unkept:
    """Looks at a model when its training begins, after the first step, and after epochs."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._own = framework.of_model(model)
        self._at_first: set[str] = set()
        self._unknown: dict[str, tuple[Any, bytes]] = {}

    def begins(self) -> Iterator[Warning_]:
        """Yield warnings as (code, message) of what the model holds; when all is built."""
        self._at_first = {key for key, _, _ in framework.named_variables(self._model)}
        held = self._own.held(self._model)
        for name in held.unnamed:
            why = "it has no name that lasts: it is in a set, or its key in a dict is an object"
            yield _warning(name, why, "hold it by an attribute, in a list, or in a dict by text")
        known = framework.identities(self._listed())
        for path, variable in held.variables.items():
            why = framework.why_not_kept(variable)
            if why and known.isdisjoint(framework.identities([variable])):
                yield _warning(path, why, "use a keras.metrics.Metric, or a variable of numbers")

    def after_first_step(self) -> Iterator[Warning_]:
        """Yield warnings of what the first step has made, or draws; note what else it uses."""
        for key, name, _ in framework.named_variables(self._model):
            is_late = key not in self._at_first and not key.startswith(("optimizer", "seed"))
            if is_late and isinstance(self._model, keras.Model):  # tf_keras traces a step before
                yield _warning(name, "it is made in the first step", "make it in __init__")
        graphs = list(_graphs(self._model))
        if not draws_anew(type(self._model)) and any(_draws(graph) for graph in graphs):
            yield "random-restart", f"the training step draws with tf.random: {DRAWN_ANEW}"
        held = self._own.held(self._model)
        counters = [v for name, v in vars(self._model).items() if name in COUNTERS]
        known = framework.identities([*self._listed(), *held.variables.values(), *counters])
        for graph in graphs:
            for variable in graph.variables:
                if id(variable) not in known and variable.dtype.is_numpy_compatible:
                    self._unknown[variable.name] = variable, _digest(variable)

    def after_epoch(self) -> Iterator[Warning_]:
        """Yield warnings of variables that have changed and that nobody holds."""
        for name, (variable, before) in list(self._unknown.items()):
            if _digest(variable) != before:
                del self._unknown[name]
                why = "the training step changes it, and the model does not hold it"
                yield _warning(name, why, "make it an attribute of the model in __init__")

    def _listed(self) -> list[Any]:
        named = [variable for _, _, variable in framework.named_variables(self._model)]
        return [*named, *self._own.metric_variables(self._model)]


def _warning(name: str, why: str, cure: str) -> Warning_:
    message = f"the variable {name} is not in checkpoints, {_LOST}: {why}; {cure}"
    return "variable-lost", message


def _graphs(model: Any) -> Iterator[Any]:
    """Yield the graphs of a training step; none where it runs eagerly."""
    made = getattr(model.train_function, "_made", {})
    for function in tf.nest.flatten(list(made.values())):
        for trace in getattr(function, "_list_all_concrete_functions", list)():
            yield trace.graph


def _draws(graph: Any) -> bool:
    return any(node.op in _DRAW for node in shard.graph_nodes(graph))


def _digest(variable: Any) -> bytes:
    if isinstance(variable, SyncOnReadVariable):  # reading it would take all workers
        variable = variable._values[0]
    return hashlib.blake2b(np.asarray(variable.numpy()).tobytes()).digest()
