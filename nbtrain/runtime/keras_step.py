"""The step that is being traced or run: its examples, and the collectives that it may need.

Everything here is called inside `strategy.run` of several workers; `current()` is None elsewhere,
and whoever finds None does what plain Keras does.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf


class Step:
    """A step on this worker's shard.

    Attributes
    ----------
    n
        The examples of this worker: an int where the batch dimension is static, else a tensor.
    is_sparse
        Whether there are sparse rows among the data.
    reduced
        Gradients that are the mean over the workers already, by id; kept, so that ids stay unique.
    reducing
        Whether an optimizer is at work, which calls itself (LossScaleOptimizer its inner one).
    """

    def __init__(self, n: Any, *, is_sparse: bool = False) -> None:
        self.n, self.is_sparse = n, is_sparse
        self.reducing = False
        self.reduced: dict[int, Any] = {}
        self._n_all: tuple[Any, Any] = (None, None)
        self._whole: dict[int, tuple[Any, Any, Any]] = {}

    @property
    def is_even(self) -> bool:
        """All shards are equal where the batch dimension is static."""
        return isinstance(self.n, int)

    def n_all(self) -> Any:
        """Return the number of examples of all workers; one collective at most."""
        if self.is_even:
            return self.n * replicas()
        # A tensor that was made in the branch of a `cond` can't be used outside of it.
        graph = _graph()
        if self._n_all[1] is None or self._n_all[0] is not graph:
            self._n_all = graph, reduce_sum(tf.cast(self.n, "float32"))
        return self._n_all[1]

    def weight(self) -> Any:
        """Return n_w / n."""
        if self.is_even:
            return 1.0 / replicas()
        return tf.math.divide_no_nan(tf.cast(self.n, "float32"), self.n_all())

    def is_same(self, value: Any) -> bool:
        """Tell whether a scalar is surely the same on all workers: a number in the source.

        One that may be made of the shape of a shard is not.
        """
        if not isinstance(value, (int, float)):
            return False
        n = int(self.n) if self.is_even or tf.executing_eagerly() else 0
        return n == 0 or value % n != 0

    def whole(self, value: Any) -> Any:
        """Return the rows of all workers in the order of the workers, with the right gradient."""
        value = tf.convert_to_tensor(value)
        graph = _graph()
        kept = self._whole.get(id(value))
        if kept is None or kept[0] is not graph:
            kept = graph, value, _gather(value, self)
            self._whole[id(value)] = kept
        return kept[2]


_current: list[Step | None] = []
_lock = threading.RLock()


def current() -> Step | None:
    """Return the step, inside the replica context of several workers; else None."""
    if not _current or replicas() < 2 or not tf.distribute.get_replica_context():
        return None
    return _current[-1]


@contextlib.contextmanager
def entered(step: Step | None) -> Iterator[None]:
    """Have a step as the current one; None leaves Keras as it is."""
    with _lock:
        _current.append(step)
        try:
            yield
        finally:
            _current.pop()


def replicas() -> int:
    """Return the number of replicas that train together."""
    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def replica_index() -> int:
    """Return which of them this one is."""
    context = tf.distribute.get_replica_context()
    index = tf.get_static_value(context.replica_id_in_sync_group)
    return int(context.replica_id_in_sync_group if index is None else index)


def examples(data: Any) -> Any:
    """Return the batch size of a step's data: an int where it is static, the same in every step."""
    for leaf in keras.tree.flatten(data):
        if isinstance(leaf, tf.RaggedTensor):
            return leaf.nrows()
        if isinstance(leaf, tf.SparseTensor):
            return tf.cast(leaf.dense_shape[0], "int32")
        if isinstance(leaf, tf.Tensor) and leaf.shape.rank != 0:
            static = None if tf.executing_eagerly() else leaf.shape[0]
            return static if static is not None else tf.shape(leaf)[0]
    return 1


def has_sparse(data: Any) -> bool:
    """Tell whether there are sparse rows among a step's data."""
    return any(isinstance(leaf, tf.SparseTensor) for leaf in keras.tree.flatten(data))


def reduce_sum(value: Any) -> Any:
    """Sum a tensor over the workers."""
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def packed_sum(values: list[Any], step: Step | None = None) -> list[Any]:
    """Sum over the workers: one call for the dense values of a dtype, one for each sparse one.

    With a step the sums can be differentiated (`coupled_sum`).
    """
    results: list[Any] = [None] * len(values)
    by_dtype: dict[Any, list[int]] = {}
    for i, value in enumerate(values):
        if isinstance(value, tf.IndexedSlices):
            results[i] = reduce_sum(value) if step is None else _gathered_rows(value, step)
        else:
            by_dtype.setdefault(value.dtype, []).append(i)
    for indices in by_dtype.values():
        flat = tf.concat([tf.reshape(values[i], [-1]) for i in indices], 0)
        whole = reduce_sum(flat) if step is None else coupled_sum(flat, step)
        parts = tf.split(whole, [tf.size(values[i]) for i in indices], num=len(indices))
        for i, part in zip(indices, parts, strict=True):
            shaped = tf.reshape(part, tf.shape(values[i]))
            shaped.set_shape(values[i].shape)
            results[i] = shaped
    return results


def coupled_sum(value: Any, step: Step) -> Any:
    """Sum over the workers in the forward pass, with the gradient that goes with it.

    What comes back on worker w is weighted by n_w / n when the gradients are reduced, so this
    one has to be (1 / n_w) * sum over workers v of n_v * dy_v.
    """

    @tf.custom_gradient
    def summed(x: Any) -> Any:
        def gradient(dy: Any) -> Any:
            if step.is_even:
                return reduce_sum(dy)
            n = tf.cast(step.n, dy.dtype)
            return tf.math.divide_no_nan(reduce_sum(tf.math.multiply_no_nan(dy, n)), n)

        return reduce_sum(x), gradient

    return summed(value)


def table(row: Any, step: Step) -> Any:
    """Return the values of all workers, stacked: [replicas, ...]; differentiable."""
    own = tf.one_hot(replica_index(), replicas(), dtype=row.dtype)
    own = tf.reshape(own, [-1] + [1] * len(row.shape))
    # NaN times 0 would be NaN in the rows of the others.
    return coupled_sum(tf.math.multiply_no_nan(row[None], own), step)


def _gathered_rows(value: tf.IndexedSlices, step: Step) -> tf.IndexedSlices:
    values, indices = _gather(value.values, step), _gather(value.indices, step)
    return tf.IndexedSlices(values, indices, value.dense_shape)


def _gather(value: Any, step: Step) -> Any:
    if value.dtype in (tf.bool, tf.uint8, tf.int8, tf.int16, tf.uint16):
        return tf.cast(_gather(tf.cast(value, "int32"), step), value.dtype)
    static = value.shape[0]
    if static is not None and step.is_even:
        before, total = static * replica_index(), static * replicas()
        after = total - before - static
    else:
        n = tf.shape(value)[0]
        own = tf.one_hot(replica_index(), replicas(), on_value=n, off_value=0, dtype=tf.int32)
        counts = reduce_sum(own)
        before = tf.reduce_sum(counts[: replica_index()])
        after = tf.reduce_sum(counts[replica_index() + 1 :])
    padding = [[before, after]] + [[0, 0]] * (len(value.shape) - 1)
    padded = tf.pad(value, padding)
    if value.dtype.is_floating:
        return coupled_sum(padded, step)
    return reduce_sum(padded)


def _graph() -> Any:
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
