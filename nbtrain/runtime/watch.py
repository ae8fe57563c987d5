"""Notes what is read of a dataset, so that the workers can compare (`same_data`)."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.python.ops.resource_variable_ops import ResourceVariable


class Watch:
    """What has been read of a dataset, on this worker.

    Attributes
    ----------
    first
        A fingerprint of the first batch of the newest iterator that was read from.
    count
        The batches read by all iterators.
    counts
        Whether the number of batches was not known, so that it is to be compared.
    """

    def __init__(self, *, counts: bool) -> None:
        self.counts = counts
        # Not tf.Variable: under the strategy that would be a mirrored one.
        self.first = ResourceVariable(tf.constant(0, tf.int64), trainable=False)
        self.count = ResourceVariable(tf.constant(0, tf.int64), trainable=False)

    def over(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Return the dataset, watched."""

        def note(index: tf.Tensor, batch: Any) -> Any:
            def remember() -> tf.Tensor:
                return self.first.assign(_hash(batch), read_value=False)

            first = tf.cond(index == 0, lambda: _done(remember()), lambda: tf.no_op())
            with tf.control_dependencies([first, self.count.assign_add(1, read_value=False)]):
                return tf.nest.map_structure(tf.identity, batch, expand_composites=True)

        return dataset.enumerate().map(tf.autograph.experimental.do_not_convert(note))


def _done(operation: Any) -> Any:
    with tf.control_dependencies([operation]):
        return tf.no_op()


def _hash(batch: Any) -> tf.Tensor:
    """Return 48 bits made of the first and the last row of each part of a batch."""
    total = tf.constant(0, tf.int64)
    for i, part in enumerate(tf.nest.flatten(batch, expand_composites=True)):
        if part.shape.rank == 0 or part.dtype in (tf.resource, tf.variant):
            continue
        rows = tf.concat([part[:1], part[-1:]], 0)
        prints = tf.bitcast(tf.raw_ops.Fingerprint(data=rows, method="farmhash64"), tf.int64)
        total += tf.reduce_sum(prints) * (2 * i + 1)
    return tf.bitwise.bitwise_and(total, (1 << 48) - 1)
