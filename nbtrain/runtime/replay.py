"""Brings a dataset to where it was after some epochs and steps, without training on them.

The order of a shuffled dataset is a function of the seeds and of how many iterators were made of
it and read from, so a new process has to make them too. Where reading changes something (Python
makes the data, random numbers are drawn on the way), the whole of every epoch is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from keras.src.backend.tensorflow.trainer import TFEpochIterator
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from keras.src.trainers.data_adapters.tf_dataset_adapter import TFDatasetAdapter

from . import pipelines, shard

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
    untouched = iterator.steps_per_epoch is None and iterator.data_adapter.num_batches is not None
    untouched = untouched and not _is_python(iterator) and not _draws(iterator)
    for _ in range(epochs):
        advance()
        if untouched:
            _touch(iterator)
        else:
            _read(iterator, steps_per_execution, advance)


def skip(
    iterator: TFEpochIterator, steps: int, steps_per_execution: int, advance: Callable[[], None]
) -> None:
    """Have the next epoch begin after `steps` steps; the batches before are read and dropped."""
    epoch = iterator._enumerate_iterator

    def rest() -> Iterator[tuple[int, int, Any]]:
        del iterator._enumerate_iterator
        for begin, end, batches in epoch():
            if begin >= steps:
                yield begin, end, batches
                continue
            advance()
            for _ in range(steps_per_execution):
                next(batches)

    iterator._enumerate_iterator = rest


def why_not_by_step(iterator: TFEpochIterator) -> str:
    """Return why an epoch that was broken off can't be gone on with in the middle; "" if it can.

    It can where reading again gives the same batches in the same order: the rest of the epoch is
    then what had not been seen.
    """
    if _is_python(iterator):
        return "its batches are made by Python code"
    if _draws(iterator):
        return "random numbers are drawn in its dataset"
    if _is_unordered(iterator):
        return "its dataset is not deterministic"
    return ""


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
    if not isinstance(adapter, TFDatasetAdapter):
        return True
    return any(
        "Generator" in type(dataset).__name__ or not _PYTHON_OPS.isdisjoint(shard.ops(dataset))
        for dataset in _datasets(iterator)
    )


def _draws(iterator: TFEpochIterator) -> bool:
    """Tell whether reading draws numbers, other than for `shuffle`, or changes a variable."""
    return any(
        type(dataset).__name__.startswith("_Random")
        or any(op.startswith(pipelines.STATEFUL_OPS) for op in shard.ops(dataset))
        for dataset in _datasets(iterator)
    )


def _is_unordered(iterator: TFEpochIterator) -> bool:
    """Tell whether the dataset was allowed to give its elements in any order."""
    return any(
        dataset.options().deterministic is False or pipelines.is_unordered(dataset)
        for dataset in _datasets(iterator)
    )


def _datasets(iterator: TFEpochIterator) -> Iterator[Any]:
    """Yield the datasets of a pipeline, from the last to the sources; none for arrays."""
    adapter = iterator.data_adapter
    if isinstance(adapter, TFDatasetAdapter):
        yield from shard.inputs(adapter._dataset)
