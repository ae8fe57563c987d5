"""Brings a dataset to where it was after some epochs, without training on them.

The order of a shuffled dataset is a function of the seeds and of how many iterators were made of
it and read from, so a new process has to make them too. Where Python produces the data, the
whole of it is read, since anything may depend on having been read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from keras.src.backend.tensorflow.trainer import TFEpochIterator
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from keras.src.trainers.data_adapters.tf_dataset_adapter import TFDatasetAdapter

#: Kinds of graph nodes that call into Python.
_PYTHON_OPS = {"PyFunc", "PyFuncStateless", "EagerPyFunc", "GeneratorDataset"}


def remember(model: Any) -> Callable[[], TFEpochIterator]:
    """Return what gives the epoch iterator of the `fit` of a model that begins next.

    `fit` keeps its iterator in a local variable; the first to get it is the model's own
    `_maybe_symbolic_build` (keras/src/backend/tensorflow/trainer.py, 3.15).
    """
    found: list[TFEpochIterator] = []
    original = model._maybe_symbolic_build

    def build(iterator: Any = None, data_batch: Any = None) -> None:
        if iterator is not None and not found:
            found.append(iterator)
        original(iterator=iterator, data_batch=data_batch)

    object.__setattr__(model, "_maybe_symbolic_build", build)
    return lambda: found[0]


def replay(
    iterator: TFEpochIterator, epochs: int, steps_per_execution: int, advance: Callable[[], None]
) -> None:
    """Take an epoch iterator of `fit` through `epochs` epochs as training would.

    `advance` is called now and then, to show that this is no hang.
    """
    for _ in range(epochs):
        advance()
        known = iterator.data_adapter.num_batches is not None
        if iterator.steps_per_epoch is None and known and not _is_python(iterator):
            _touch(iterator)
        else:
            _read(iterator, steps_per_execution, advance)


def _touch(iterator: TFEpochIterator) -> None:
    """Make the iterators that an epoch makes, and read one batch: it draws the seeds."""
    iterator.data_adapter.on_epoch_begin()
    next(iter(iterator._get_iterator()))
    iter(iterator._get_iterator())  # Keras makes this one when it has counted the batches
    iterator.data_adapter.on_epoch_end()


def _read(iterator: TFEpochIterator, steps_per_execution: int, advance: Callable[[], None]) -> None:
    with iterator.catch_stop_iteration():
        for _, _, batches in iterator:
            advance()
            for _ in range(steps_per_execution):
                next(batches)


def _is_python(iterator: TFEpochIterator) -> bool:
    """Tell whether Python produces the data."""
    adapter = iterator.data_adapter
    if isinstance(adapter, ArrayDataAdapter):
        return False
    if isinstance(adapter, TFDatasetAdapter):
        return any(_calls_python(dataset) for dataset in _inputs(adapter._dataset))
    return True


def _inputs(dataset: Any) -> Iterator[Any]:
    yield dataset
    for source in dataset._inputs():
        yield from _inputs(source)


def _calls_python(dataset: Any) -> bool:
    if "Generator" in type(dataset).__name__:
        return True
    with contextlib.suppress(AttributeError):
        for function in dataset._functions():
            graph = function.function.graph.as_graph_def()
            nodes = [n.op for n in graph.node]
            nodes += [n.op for f in graph.library.function for n in f.node_def]
            if _PYTHON_OPS.intersection(nodes):
                return True
    return False
