"""Who reads what: every worker its rows of each batch, or, on request, its own files.

By example each worker reads all of the data and keeps its part of every batch: the batches are
those of one process. By file it reads less, and the batches are made of other examples.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from .errors import Refused
from .keras_step import examples

#: The readers of files among datasets, and among the graph nodes of a function for `interleave`.
_READERS = ("TFRecordDataset", "TextLineDataset", "FixedLengthRecordDataset")
_POLICY = tf.data.experimental.AutoShardPolicy
_by_file: list[Any] = []


def by_file(dataset: Any, workers: int) -> None:
    """Have a dataset that is trained with shared out by its files.

    Raises
    ------
    Refused
        Where that can't be right: no files are to be seen, or the workers would not get as many.
    """
    form = "--shard file"
    if not isinstance(dataset, tf.data.Dataset):
        raise Refused(form, "dataset() gave no tf.data.Dataset of files.", "Leave it out.")
    count = next(iter(_files(dataset)), None)
    if count is None:
        raise Refused(
            form,
            "no files are read in the dataset, as far as can be seen.",
            "Leave it out, or read the files by TFRecordDataset(names) or interleave.",
        )
    check_dense(dataset, form)
    if count % workers:
        raise Refused(
            form,
            f"{count} files can't be shared out evenly among {workers} workers.",
            "Leave it out, or write a multiple of the workers' number of files, equally long.",
        )
    _by_file.append(dataset)


def distributed(
    dataset: tf.data.Dataset,
    source: Any,
    strategy: tf.distribute.Strategy,
    *,
    is_counted: bool = False,
) -> Any:
    """Return what a worker iterates over: its part of a dataset.

    The iterator of a DistributedDataset has the workers agree at every step on whether anybody has
    data left (`_get_next_as_optional` in tensorflow/python/distribute/input_lib.py): a collective,
    and a wait for the slowest pipeline. Steps of 9 ms took 13 with it, and 40 in one epoch of five.
    Where it is known how many batches there are, all workers get as many, and this one's part is
    read like any dataset.

    Parameters
    ----------
    source
        What `fit` was given for the dataset.
    is_counted
        It is known to have the same number of batches on all workers, though it can't tell.
    """
    has_one_replica = len(strategy.extended.worker_devices) == 1
    several = strategy.num_replicas_in_sync > 1
    # TensorFlow can't make batches smaller that have a scalar among their parts, either.
    if several and has_one_replica and _has_scalar(dataset) and not is_by_file(source):
        return _own_rows(dataset, strategy).with_options(options(source))
    if several and not _is_dense(dataset):
        if has_one_replica:
            return _own_rows(dataset, strategy).with_options(options(source))
        check_dense(dataset, "several GPUs for a worker")
    whole = strategy.experimental_distribute_dataset(dataset.with_options(options(source)))
    is_known = is_counted or int(dataset.cardinality()) != tf.data.UNKNOWN_CARDINALITY
    if is_known and has_one_replica and not is_by_file(source):
        return whole._cloned_datasets[0]
    return whole


def check_dense(dataset: tf.data.Dataset, form: str) -> None:
    """Refuse batches that TensorFlow can't make smaller: its `rebatch` of them never ends."""
    if not _is_dense(dataset):
        raise Refused(
            form,
            "TensorFlow can't share out batches that are sparse or ragged.",
            "Make them dense in dataset(): tf.sparse.to_dense(x), x.to_tensor().",
        )


def _is_dense(dataset: tf.data.Dataset) -> bool:
    kinds = (tf.SparseTensorSpec, tf.RaggedTensorSpec)
    return not any(isinstance(spec, kinds) for spec in tf.nest.flatten(dataset.element_spec))


def _has_scalar(dataset: tf.data.Dataset) -> bool:
    leaves = tf.nest.flatten(dataset.element_spec)
    return any(isinstance(spec, tf.TensorSpec) and spec.shape.rank == 0 for spec in leaves)


def _own_rows(dataset: tf.data.Dataset, strategy: tf.distribute.Strategy) -> tf.data.Dataset:
    """Return a dataset of this worker's rows of each batch; all workers have as many batches."""
    workers, index = strategy.num_replicas_in_sync, strategy.cluster_resolver.task_id or 0

    def rows_of(*batch: Any) -> Any:
        count = tf.cast(examples(batch), tf.int64)
        begin, end = count * index // workers, count * (index + 1) // workers
        mine = tf.nest.map_structure(lambda part: _rows(part, begin, end), batch)
        return mine if isinstance(dataset.element_spec, tuple) else mine[0]

    return dataset.map(tf.autograph.experimental.do_not_convert(rows_of))


def _rows(part: Any, begin: tf.Tensor, end: tf.Tensor) -> Any:
    if isinstance(part, tf.SparseTensor):
        rest = part.dense_shape[1:]
        start = tf.concat([begin[None], tf.zeros_like(rest)], 0)
        found = tf.sparse.slice(part, start, tf.concat([(end - begin)[None], rest], 0))
        found.set_shape([None, *part.shape[1:]])
        return found
    return part if part.shape.rank == 0 else part[begin:end]


def options(source: Any) -> tf.data.Options:
    """Return how a dataset is shared out and run; `source` is what `fit` was given for it.

    Without TensorFlow's autotuning, unless the user asked for it: the end of an iterator, at each
    epoch's end, waits for the thread that tunes it, which sleeps for longer and longer (10 ms, 20,
    40 ... up to a minute; `Model::OptimizeLoop` in tensorflow/core/framework/model.cc). All workers
    stood still for 1.2 or 2.6 s in every second epoch of a second. AUTOTUNE then is as many calls
    in parallel as there are threads, from the beginning.
    """
    found = tf.data.Options()
    policy = _POLICY.FILE if is_by_file(source) else _POLICY.DATA
    found.experimental_distribute.auto_shard_policy = policy
    if not isinstance(source, tf.data.Dataset) or source.options().autotune.enabled is None:
        found.autotune.enabled = False
    return found


def is_by_file(source: Any) -> bool:
    """Tell whether a dataset is shared out by its files."""
    return any(source is dataset for dataset in _by_file)


def inputs(dataset: Any) -> Iterator[Any]:
    """Yield a dataset and those that it is made of, from the last to the sources."""
    yield dataset
    for source in dataset._inputs():
        yield from inputs(source)


def nodes(dataset: Any) -> Iterator[Any]:
    """Yield the graph nodes in the functions of a dataset."""
    for function in getattr(dataset, "_functions", list)():
        yield from graph_nodes(function.function.graph)


def graph_nodes(graph: tf.Graph) -> Iterator[Any]:
    """Yield the nodes of a graph, and of the functions that it calls."""
    definition = graph.as_graph_def()
    yield from definition.node
    for inner in definition.library.function:
        yield from inner.node_def


def ops(dataset: Any) -> set[str]:
    """Return the kinds of graph nodes in the functions of a dataset."""
    return {node.op for node in nodes(dataset)}


def _files(dataset: Any) -> Iterator[int]:
    """Yield how many files the readers in a pipeline read, where that is known."""
    for part in inputs(dataset):
        names = None
        if type(part).__name__.startswith(_READERS):
            names = getattr(part, "_filenames", None)
        elif any(op.startswith(_READERS) for op in ops(part)):
            names = part._inputs()[0]
        if isinstance(names, tf.data.Dataset) and (count := int(names.cardinality())) > 0:
            yield count
        elif isinstance(names, tf.Tensor):
            yield int(tf.size(names))
