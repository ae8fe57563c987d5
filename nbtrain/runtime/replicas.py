"""What the workers tell each other between steps: flags, digests of all weights, whole states.

Everything here is a collective: all workers call it, in the same order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from . import framework
from .errors import Refused

Array = np.ndarray[Any, Any]
#: What a state is sent in: pieces of so many int32, so that it needs little memory beside it.
_PIECE = 1 << 24


def agree(values: Sequence[float], op: str, strategy: tf.distribute.Strategy) -> list[float]:
    """Return the maximum (`op="max"`) or sum of host values over all workers."""
    if strategy.num_replicas_in_sync < 2:
        return list(values)
    rows = gathered(np.asarray(values, "float64"), strategy)
    reduced = rows.max(axis=0) if op == "max" else rows.sum(axis=0)
    return [float(v) for v in reduced]


def digest(model: Any) -> str:
    """Return a hash of all variables of a model and its optimizers, as this worker has them."""
    return hashlib.sha256(b"".join(d for _, d in _digests(model))).hexdigest()[:16]


def check_replicas(model: Any, strategy: tf.distribute.Strategy) -> str:
    """Compare all variables over the workers, by one small collective; return their digest.

    Raises
    ------
    Refused
        If a variable differs; it is named.
    """
    found = list(_digests(model))
    if strategy.num_replicas_in_sync > 1:
        compare_digests(found, strategy)
    return hashlib.sha256(b"".join(d for _, d in found)).hexdigest()[:16]


def compare_digests(found: list[tuple[str, bytes]], strategy: tf.distribute.Strategy) -> None:
    """Raise Refused, naming the variable, where a digest of 6 bytes differs between workers."""
    # 48 bits are exact in a float64.
    numbers = np.array([float(int.from_bytes(d, "big")) for _, d in found])
    rows = gathered(numbers, strategy)
    different = np.flatnonzero((rows != rows[0]).any(axis=0))
    if different.size:
        raise Refused(
            f"the variable {found[int(different[0])][0]}",
            "its values differ between the workers; the model would not be what one process gives.",
            "A layer that changes it must do so from what is the same on all workers.",
        )


def _digests(model: Any) -> Iterator[tuple[str, bytes]]:
    for _, name, variable in framework.named_variables(model):
        data = np.ascontiguousarray(variable.numpy()).reshape(-1).view(np.uint8)
        yield name, hashlib.blake2b(data.data, digest_size=6).digest()


def broadcast_state(
    arrays: Sequence[Array] | None,
    specs: Sequence[tuple[tuple[int, ...], Any]],
    strategy: tf.distribute.Strategy,
) -> list[Array]:
    """Return worker 0's arrays on all workers.

    They travel as bytes in few large sums, to which the others add zeros.

    Parameters
    ----------
    arrays
        The arrays on worker 0; not looked at elsewhere.
    specs
        Shape and dtype of each, known to all.
    """
    sizes = [int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize for shape, dtype in specs]
    total = sum(sizes)
    packed = np.zeros(-(-total // 4) * 4, np.uint8)
    if strategy.cluster_resolver is None or strategy.cluster_resolver.task_id in (None, 0):
        assert arrays is not None
        position = 0
        for array, size in zip(arrays, sizes, strict=True):
            packed[position : position + size] = np.ascontiguousarray(array).reshape(-1).view("u1")
            position += size
    if strategy.num_replicas_in_sync > 1:
        words = packed.view(np.int32)
        for start in range(0, len(words), _PIECE):
            piece = tf.constant(words[start : start + _PIECE])
            words[start : start + _PIECE] = _run(_sum_of_first, piece, strategy)
    ends = np.cumsum([0, *sizes])
    return [
        packed[ends[i] : ends[i + 1]].view(np.dtype(dtype)).reshape(shape).copy()
        for i, (shape, dtype) in enumerate(specs)
    ]


def gathered(row: Array, strategy: tf.distribute.Strategy) -> Array:
    """Return the rows of all replicas, by one all-reduce."""
    return _run(_table, tf.constant(row), strategy)


def _table(row: tf.Tensor) -> tf.Tensor:
    context = tf.distribute.get_replica_context()
    count = context.num_replicas_in_sync
    own = tf.range(count)[:, None] == context.replica_id_in_sync_group
    rows = tf.where(own, row[None], tf.zeros_like(row)[None])
    return context.all_reduce(tf.distribute.ReduceOp.SUM, rows)


def _sum_of_first(piece: tf.Tensor) -> tf.Tensor:
    context = tf.distribute.get_replica_context()
    own = piece if context.replica_id_in_sync_group == 0 else tf.zeros_like(piece)
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(own))


_functions: dict[str, Any] = {}


def _run(function: Callable[..., Any], value: Any, strategy: tf.distribute.Strategy) -> Array:
    """Run a function on every replica, traced once for all shapes; return what it gave."""
    traced = _functions.setdefault(
        function.__name__, tf.function(function, reduce_retracing=True, autograph=False)
    )
    results = strategy.experimental_local_results(strategy.run(traced, args=(value,)))
    return np.asarray(results[0].numpy())
